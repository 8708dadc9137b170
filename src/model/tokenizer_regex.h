// The regular expressions of a tokenizer.json, matched as tokenizers' engine (Oniguruma) does, on
// PCRE2's just-in-time compiler.
#pragma once

#include <cstddef>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace thermoe {

// What the caller turns into an IoError with the file's name. The text is one line.
class PatternError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

struct ByteRange {
  size_t begin = 0;
  size_t end = 0;
};

// The two engines differ in syntax and in Unicode's version, so only the part of the syntax that
// they share and that tokenizers use is let through: literals, classes, \s \S \p{L} \p{N}, groups
// (?:) (?i:) (?=) (?!), alternatives and quantifiers. Throws PatternError for anything else.
std::string translate_pattern(std::string_view pattern);

// The regex crate's \w, but for the marks that Unicode 15 and later brought.
std::string word_character_pattern();

// Immutable; threads may share it.
class SplitRegex {
 public:
  // Throws PatternError for a pattern that is not supported, is no regular expression, or matches
  // the empty string.
  explicit SplitRegex(std::string_view pattern);
  // Matches `text` and nothing else.
  static SplitRegex literal(std::string_view text);

  // Cuts text[range] into its matches and what lies between them, none empty, and appends these.
  // The text outside the range is not looked at. Throws PatternError where the pattern backtracks
  // beyond reason.
  void split(std::string_view text, ByteRange range, std::vector<ByteRange>& out) const;

 private:
  struct Compiled;
  SplitRegex(std::string_view pcre_pattern, unsigned options);
  std::shared_ptr<const Compiled> compiled_;
};

// Unicode's White_Space, and word_character_pattern: what added tokens' flags look at.
bool is_space(char32_t code_point);
bool is_word(char32_t code_point);

}  // namespace thermoe
