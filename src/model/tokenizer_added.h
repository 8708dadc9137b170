// Added tokens: strings that are cut out of the text before it is tokenised.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace thermoe {

struct AddedToken {
  int32_t id = 0;
  std::string content;
  bool single_word = false;  // not where a word character touches it
  bool lstrip = false;       // takes the white space before it along
  bool rstrip = false;       // and after it
  bool normalized = true;    // matched in the normalised text, by its own normalised form
  bool special = false;      // left out by decode
};

// A part of a text: an added token (id >= 0), or what lies between two (id -1).
struct TextPart {
  size_t begin;
  size_t end;
  int32_t id;
};

// Finds the leftmost, longest of its tokens, as tokenizers does. Immutable; threads may share it.
class AddedTokenMatcher {
 public:
  // `pattern` is what is looked for: the token's content or its normalised form. False if another
  // token has the same one already. An empty pattern is never found.
  bool add(const AddedToken& token, std::string_view pattern);
  bool empty() const { return tokens_.empty(); }
  // Parts in order that cover the text. An empty text has none.
  std::vector<TextPart> split(std::string_view text) const;

 private:
  // The longest token that begins at `at`; its length, 0 where none does.
  size_t longest(std::string_view text, size_t at, size_t& token) const;

  std::vector<AddedToken> tokens_;
  std::array<bool, 256> first_{};                 // bytes that begin a token
  std::unordered_map<uint64_t, uint32_t> edges_;  // (node << 8 | byte) -> node; root 0
  std::unordered_map<uint32_t, size_t> token_of_node_;
  uint32_t nodes_ = 1;
};

}  // namespace thermoe
