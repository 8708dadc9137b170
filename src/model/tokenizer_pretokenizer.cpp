#include "model/tokenizer_pretokenizer.h"

#include "model/tokenizer_normalizer.h"

namespace thermoe {
namespace {

void cut_before(std::string_view text, ByteRange range, std::string_view mark,
                std::vector<ByteRange>& out) {
  const std::string_view piece = text.substr(range.begin, range.end - range.begin);
  size_t begin = 0;
  while (begin < piece.size()) {
    const size_t end = std::min(piece.find(mark, begin + 1), piece.size());
    out.push_back({range.begin + begin, range.begin + end});
    begin = end;
  }
}

}  // namespace

AlignedText PreTokenizer::respell(const AlignedText& text) const {
  if (!respelling || text.empty()) return text;
  const std::string& space = respelling->space;
  AlignedText spelt = space == " " ? text : replace_all(text, " ", space);
  const bool wanted = respelling->prepend == Respelling::Prepend::kAlways ||
                      (respelling->prepend == Respelling::Prepend::kFirst && text.begin() == 0);
  if (!wanted || spelt.view().starts_with(space)) return spelt;
  return prepend(spelt, space);
}

std::vector<ByteRange> PreTokenizer::words(std::string_view text) const {
  std::vector<ByteRange> pieces;
  if (!text.empty()) pieces.push_back({0, text.size()});
  for (const auto& split : splits) {
    std::vector<ByteRange> next;
    for (const ByteRange piece : pieces) {
      if (const auto* regex = std::get_if<SplitRegex>(&split)) {
        regex->split(text, piece, next);
      } else {
        cut_before(text, piece, std::get<CutBefore>(split).text, next);
      }
    }
    pieces = std::move(next);
  }
  return pieces;
}

}  // namespace thermoe
