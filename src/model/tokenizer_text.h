// Text on its way through the tokenizer, which remembers where in the input it came from.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace thermoe {

// One step over UTF-8. `valid` is false for an ill-formed sequence; `bytes` is then the length of
// its maximal subpart (Unicode 3.9, "U+FFFD Substitution of Maximal Subparts"), at least 1.
struct Utf8Step {
  char32_t code_point = 0xFFFD;
  uint32_t bytes = 1;
  bool valid = false;
};
Utf8Step utf8_step(std::string_view text, size_t at);

void append_utf8(char32_t code_point, std::string& out);
bool is_continuation(char byte);  // the second to fourth byte of a character
// With each ill-formed sequence replaced by U+FFFD, as Python's errors="replace" does.
std::string replace_ill_formed(std::string_view bytes);
bool is_well_formed(std::string_view bytes);

// Well-formed UTF-8 and, for each of its bytes, how much of the input has been consumed once that
// byte is. The input's offsets are in bytes.
class AlignedText {
 public:
  AlignedText() = default;
  // The whole input; ill-formed sequences become U+FFFD.
  static AlignedText from_input(std::string_view input);

  std::string_view view() const { return text_; }
  size_t size() const { return text_.size(); }
  bool empty() const { return text_.empty(); }
  // Where in the input this text begins.
  int64_t begin() const { return begin_; }
  // Bytes of the input consumed by the first `length` bytes of the text. Inside a character: those
  // before the character.
  int64_t end_of(size_t length) const;

  AlignedText slice(size_t from, size_t to) const;
  // Appends text that stands for the input up to `end`; nothing before the last of its characters
  // counts as consumed.
  void append(std::string_view text, int64_t end);
  // Appends [from, to) of another text with its alignment.
  void append(const AlignedText& other, size_t from, size_t to);
  // An empty text that begins where `other` does, for append.
  static AlignedText rewrite_of(const AlignedText& other);

 private:
  std::string text_;
  int64_t begin_ = 0;
  bool identity_ = true;       // byte i ends at begin_ + i + 1
  std::vector<int64_t> ends_;  // one a byte, unless identity_
};

}  // namespace thermoe
