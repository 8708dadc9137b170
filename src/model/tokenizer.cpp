#include "thermoe/tokenizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <unordered_set>

#include "model/tokenizer_json.h"
#include "thermoe/error.h"

namespace thermoe {
namespace {

// Words seen before in one call: most of a text's words are.
class WordCache {
 public:
  explicit WordCache(const BpeModel& model) : model_(model) {}

  // Valid until the next call.
  std::span<const WordToken> encode(std::string_view word) {
    if (word.size() <= kMaxBytes) {
      const auto found = entries_.find(word);
      if (found != entries_.end()) return tokens_of(found->second);
      if (entries_.size() < kMaxEntries) {
        const size_t begin = tokens_.size();
        model_.encode(word, tokens_);
        const Entry entry{begin, tokens_.size() - begin};
        entries_.emplace(word, entry);
        return tokens_of(entry);
      }
    }
    uncached_.clear();
    model_.encode(word, uncached_);
    return uncached_;
  }

 private:
  struct Entry {
    size_t begin;
    size_t count;
  };
  static constexpr size_t kMaxBytes = 64;         // longer ones hardly repeat
  static constexpr size_t kMaxEntries = 1 << 18;  // some 30 MB

  std::span<const WordToken> tokens_of(const Entry& entry) const {
    return std::span(tokens_).subspan(entry.begin, entry.count);
  }

  const BpeModel& model_;
  TextMap<Entry> entries_;
  std::vector<WordToken> tokens_;
  std::vector<WordToken> uncached_;
};

}  // namespace

struct Tokenizer::Impl {
  Impl(TokenizerSpec spec, std::string file);

  void encode(std::string_view text, std::vector<int32_t>& ids, std::vector<int64_t>* ends) const;
  std::string decode(std::span<const int32_t> ids, bool skip_special_tokens) const;

  std::string path;
  std::vector<NormalizerStep> normalizer;
  PreTokenizer pre_tokenizer;
  std::vector<std::string> tokens;  // by id; "" where there is none
  std::vector<bool> special;
  AddedTokenMatcher raw_tokens;         // looked for in the input
  AddedTokenMatcher normalized_tokens;  // and in the normalised text
  std::optional<std::vector<DecoderStep>> decoder;
  std::vector<std::string> decoded;  // bytes by id, where the decoder is one ByteLevel
  BpeModel model;

 private:
  struct Output {
    WordCache cache;
    std::vector<int32_t>& ids;
    std::vector<int64_t>* ends;
    void add(int32_t id, int64_t end) {
      ids.push_back(id);
      if (ends != nullptr) ends->push_back(end);
    }
  };
  static BpeModel make_model(BpeSpec spec, const std::string& file);
  void set_token(int32_t id, std::string text);
  void add_tokens(const std::vector<AddedToken>& added);
  void encode_part(const AlignedText& part, Output& out) const;
  void encode_words(const AlignedText& text, Output& out) const;
};

BpeModel Tokenizer::Impl::make_model(BpeSpec spec, const std::string& file) {
  try {
    return BpeModel(std::move(spec));
  } catch (const std::invalid_argument& e) {
    throw IoError(file, fmt::format("model: {}: download the file again", e.what()));
  }
}

Tokenizer::Impl::Impl(TokenizerSpec spec, std::string file)
    : path(std::move(file)),
      normalizer(std::move(spec.normalizer)),
      pre_tokenizer(std::move(spec.pre_tokenizer)),
      decoder(std::move(spec.decoder)),
      model([&] {
        for (const auto& [token, id] : spec.model.vocab) set_token(id, token);
        return make_model(std::move(spec.model), path);
      }()) {
  add_tokens(spec.added_tokens);
  if (decoder && decoder->size() == 1 &&
      std::holds_alternative<ByteLevelDecode>(decoder->front())) {
    for (const std::string& token : tokens) {
      decoded.push_back(bytes_of_spelling(token).value_or(token));
    }
  }
}

void Tokenizer::Impl::set_token(int32_t id, std::string text) {
  const auto at = static_cast<size_t>(id);
  if (tokens.size() <= at) tokens.resize(at + 1);
  tokens[at] = std::move(text);
}

void Tokenizer::Impl::add_tokens(const std::vector<AddedToken>& added) {
  std::unordered_set<std::string> special_contents;
  for (const AddedToken& token : added) {
    std::string pattern = token.content;
    if (token.normalized) {
      const auto form = normalize(AlignedText::from_input(token.content), normalizer);
      pattern = std::string(form.view());
    }
    AddedTokenMatcher& matcher = token.normalized ? normalized_tokens : raw_tokens;
    if (!matcher.add(token, pattern)) {
      throw IoError(path,
                    fmt::format("added token '{}' normalises to the form of another: remove one",
                                printable(token.content)));
    }
    if (token.special) special_contents.insert(token.content);
    set_token(token.id, pattern);  // tokenizers, too, decodes to the normalised form
  }
  special.resize(tokens.size());
  for (size_t id = 0; id < tokens.size(); ++id) special[id] = special_contents.contains(tokens[id]);
}

void Tokenizer::Impl::encode(std::string_view text, std::vector<int32_t>& ids,
                             std::vector<int64_t>* ends) const {
  Output out{WordCache(model), ids, ends};
  const AlignedText input = AlignedText::from_input(text);
  for (const TextPart& part : raw_tokens.split(input.view())) {
    if (part.id >= 0) {
      out.add(part.id, input.end_of(part.end));
    } else {
      encode_part(normalize(input.slice(part.begin, part.end), normalizer), out);
    }
  }
  if (ends == nullptr || ends->empty()) return;
  // Where tokens overlap or dropped characters end the text, ends still grow and close it.
  for (size_t i = 1; i < ends->size(); ++i) (*ends)[i] = std::max((*ends)[i], (*ends)[i - 1]);
  ends->back() = static_cast<int64_t>(text.size());
}

void Tokenizer::Impl::encode_part(const AlignedText& part, Output& out) const {
  for (const TextPart& piece : normalized_tokens.split(part.view())) {
    if (piece.id >= 0) {
      out.add(piece.id, part.end_of(piece.end));
    } else if (piece.begin == 0 && piece.end == part.size()) {
      encode_words(pre_tokenizer.respell(part), out);
    } else {
      encode_words(pre_tokenizer.respell(part.slice(piece.begin, piece.end)), out);
    }
  }
}

void Tokenizer::Impl::encode_words(const AlignedText& text, Output& out) const {
  if (text.size() > static_cast<size_t>(std::numeric_limits<int32_t>::max())) {
    throw InvalidArgument("text: more than 2 GiB between two added tokens: encode it in parts");
  }
  const std::string_view view = text.view();
  try {
    for (const ByteRange word : pre_tokenizer.words(view)) {
      for (const WordToken& token :
           out.cache.encode(view.substr(word.begin, word.end - word.begin))) {
        out.add(token.id, text.end_of(word.begin + token.end));
      }
    }
  } catch (const PatternError& e) {
    throw IoError(path,
                  fmt::format("pre_tokenizer: a regular expression {}: simplify it", e.what()));
  }
}

std::string Tokenizer::Impl::decode(std::span<const int32_t> ids, bool skip_special_tokens) const {
  std::vector<std::string> out;
  std::string bytes;
  for (const int32_t id : ids) {
    if (id < 0 || static_cast<size_t>(id) >= tokens.size()) {
      throw InvalidArgument(
          fmt::format("ids: {} is not an id of {}, which has {}", id, path, tokens.size()));
    }
    const auto at = static_cast<size_t>(id);
    if (tokens[at].empty() || (skip_special_tokens && special[at])) continue;
    if (!decoded.empty()) {
      bytes += decoded[at];
    } else {
      if (!decoder && !out.empty()) out.emplace_back(" ");
      out.push_back(tokens[at]);
    }
  }
  if (!decoded.empty()) return is_well_formed(bytes) ? bytes : replace_ill_formed(bytes);
  return decode_tokens(std::move(out), decoder.value_or(std::vector<DecoderStep>{}));
}

Tokenizer::Tokenizer(const std::filesystem::path& path) {
  const auto file = std::filesystem::is_directory(path) ? path / "tokenizer.json" : path;
  const std::string name = file.string();
  impl_ = std::make_unique<Impl>(read_tokenizer(read_json_file(file), name), name);
}
Tokenizer::Tokenizer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Tokenizer Tokenizer::from_json(std::string_view json, const std::string& name) {
  return Tokenizer(std::make_unique<Impl>(read_tokenizer(parse_json(json, name), name), name));
}
Tokenizer::~Tokenizer() = default;
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;

int64_t Tokenizer::vocab_size() const { return static_cast<int64_t>(impl_->tokens.size()); }

std::vector<int32_t> Tokenizer::encode(std::string_view text) const {
  std::vector<int32_t> ids;
  impl_->encode(text, ids, nullptr);
  return ids;
}

std::vector<int32_t> Tokenizer::encode(std::string_view text,
                                       std::vector<int64_t>& end_bytes) const {
  std::vector<int32_t> ids;
  end_bytes.clear();
  impl_->encode(text, ids, &end_bytes);
  return ids;
}

std::string Tokenizer::decode(std::span<const int32_t> ids, bool skip_special_tokens) const {
  return impl_->decode(ids, skip_special_tokens);
}

}  // namespace thermoe
