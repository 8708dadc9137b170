#include "model/tokenizer_added.h"

#include <algorithm>

#include "model/tokenizer_regex.h"
#include "model/tokenizer_text.h"

namespace thermoe {
namespace {

char32_t character_before(std::string_view text, size_t at) {
  --at;
  while (is_continuation(text[at])) --at;
  return utf8_step(text, at).code_point;
}

bool word_touches(std::string_view text, size_t begin, size_t end) {
  return (begin > 0 && is_word(character_before(text, begin))) ||
         (end < text.size() && is_word(utf8_step(text, end).code_point));
}

size_t before_spaces(std::string_view text, size_t at, size_t limit) {
  while (at > limit && is_space(character_before(text, at))) {
    --at;
    while (is_continuation(text[at])) --at;
  }
  return at;
}

size_t after_spaces(std::string_view text, size_t at) {
  while (at < text.size()) {
    const Utf8Step step = utf8_step(text, at);
    if (!is_space(step.code_point)) break;
    at += step.bytes;
  }
  return at;
}

}  // namespace

bool AddedTokenMatcher::add(const AddedToken& token, std::string_view pattern) {
  if (pattern.empty()) return true;
  uint32_t node = 0;
  for (const char c : pattern) {
    const uint64_t edge = uint64_t{node} << 8 | static_cast<unsigned char>(c);
    const auto [found, inserted] = edges_.try_emplace(edge, nodes_);
    if (inserted) ++nodes_;
    node = found->second;
  }
  first_[static_cast<unsigned char>(pattern.front())] = true;
  if (!token_of_node_.try_emplace(node, tokens_.size()).second) return false;
  tokens_.push_back(token);
  return true;
}

size_t AddedTokenMatcher::longest(std::string_view text, size_t at, size_t& token) const {
  size_t length = 0;
  uint32_t node = 0;
  for (size_t i = at; i < text.size(); ++i) {
    const auto edge = edges_.find(uint64_t{node} << 8 | static_cast<unsigned char>(text[i]));
    if (edge == edges_.end()) break;
    node = edge->second;
    const auto found = token_of_node_.find(node);
    if (found != token_of_node_.end()) {
      token = found->second;
      length = i + 1 - at;
    }
  }
  return length;
}

std::vector<TextPart> AddedTokenMatcher::split(std::string_view text) const {
  std::vector<TextPart> parts;
  size_t done = 0;
  for (size_t at = 0; at < text.size();) {
    size_t index = 0;
    const size_t length =
        first_[static_cast<unsigned char>(text[at])] ? longest(text, at, index) : 0;
    if (length == 0) {
      ++at;
      continue;
    }
    const AddedToken& token = tokens_[index];
    size_t begin = at;
    size_t end = at + length;
    at = end;  // the search goes on here, even where the token is turned down or takes spaces along
    if (token.single_word && word_touches(text, begin, end)) continue;
    // The token before may have taken the spaces.
    if (token.lstrip) begin = std::max(before_spaces(text, begin, std::min(done, begin)), done);
    if (token.rstrip) end = after_spaces(text, end);
    if (done < begin) parts.push_back({done, begin, -1});
    // One that lies within the spaces that another took along is lost, as in tokenizers.
    if (begin < end) parts.push_back({begin, end, token.id});
    done = end;
  }
  if (done < text.size()) parts.push_back({done, text.size(), -1});
  return parts;
}

}  // namespace thermoe
