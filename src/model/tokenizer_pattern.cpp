// translate_pattern of tokenizer_regex.h.
#include <fmt/format.h>

#include <cctype>

#include "model/json_file.h"
#include "model/tokenizer_regex.h"

namespace thermoe {
namespace {

// Letters and numbers of Unicode 15.0 to 16.0 (UnicodeData.txt, categories L* and N*), which
// Oniguruma 6.9.10 knows and PCRE2 10.42, with Unicode 14, doesn't.
constexpr std::string_view kNewLetters =
    R"(\x{1C89}-\x{1C8A}\x{A7CB}-\x{A7CD}\x{A7DA}-\x{A7DC}\x{105C0}-\x{105F3}\x{10D4A}-\x{10D65})"
    R"(\x{10D6F}-\x{10D85}\x{10EC2}-\x{10EC4}\x{1123F}-\x{11240}\x{11380}-\x{11389}\x{1138B})"
    R"(\x{1138E}\x{11390}-\x{113B5}\x{113B7}\x{113D1}\x{113D3}\x{11BC0}-\x{11BE0}\x{11F02})"
    R"(\x{11F04}-\x{11F10}\x{11F12}-\x{11F33}\x{1342F}\x{13441}-\x{13446}\x{13460}-\x{143FA})"
    R"(\x{16100}-\x{1611D}\x{16D40}-\x{16D6C}\x{18CFF}\x{1B132}\x{1B155}\x{1DF25}-\x{1DF2A})"
    R"(\x{1E030}-\x{1E06D}\x{1E4D0}-\x{1E4EB}\x{1E5D0}-\x{1E5ED}\x{1E5F0}\x{2B739})"
    R"(\x{2EBF0}-\x{2EE5D}\x{31350}-\x{323AF})";
constexpr std::string_view kNewDigits =
    R"(\x{10D40}-\x{10D49}\x{116D0}-\x{116E3}\x{11BF0}-\x{11BF9}\x{11F50}-\x{11F59})"
    R"(\x{16130}-\x{16139}\x{16D70}-\x{16D79}\x{1CCF0}-\x{1CCF9}\x{1E4F0}-\x{1E4F9})"
    R"(\x{1E5F1}-\x{1E5FA})";
constexpr std::string_view kNewNumerals = R"(\x{1D2C0}-\x{1D2D3})";
// White_Space. PCRE2's \s also takes U+180E, which Unicode 6.3 made no space.
constexpr std::string_view kSpaces = R"(\x{9}-\x{D}\x{85}\x{2028}\x{2029}\p{Zs})";

class Translator {
 public:
  explicit Translator(std::string_view pattern) : pattern_(pattern) {}

  std::string run() {
    while (at_ < pattern_.size()) {
      if (in_class_) {
        class_item();
      } else {
        item();
      }
    }
    if (in_class_) refuse("an open [");
    return std::move(out_);
  }

 private:
  [[noreturn]] static void refuse(std::string_view what) {
    throw PatternError(
        fmt::format("uses {}, which is not supported (supported: literals, classes, "
                    "\\s \\S \\p{{L}} \\p{{N}}, (?:) (?i:) (?=) (?!), | and "
                    "quantifiers)",
                    printable(what)));
  }
  bool next_is(std::string_view text) const { return pattern_.substr(at_, text.size()) == text; }
  void copy(size_t bytes) {
    out_ += pattern_.substr(at_, bytes);
    at_ += bytes;
  }

  void item() {
    switch (pattern_[at_]) {
      case '\\':
        escape();
        break;
      case '[':
        open_class();
        break;
      case '(':
        open_group();
        break;
      case '{':
        counted_quantifier();
        break;
      case '.':
      case '^':
      case '$':
      case '}':
      case ']':
        refuse(pattern_.substr(at_, 1));
      default:
        copy(1);
    }
  }

  void open_group() {
    if (next_is("(?i:")) {
      check_caseless();
      copy(4);
    } else if (next_is("(?:") || next_is("(?=") || next_is("(?!")) {
      copy(3);
    } else if (next_is("(?") || next_is("(*")) {
      refuse(pattern_.substr(at_, 4));
    } else {
      copy(1);
    }
  }

  // Oniguruma folds some characters to two (ss and the German sharp s), PCRE2 none: only ASCII
  // without such pairs is the same in both.
  void check_caseless() const {
    const std::string_view body = pattern_.substr(at_ + 4, pattern_.find(')', at_) - at_ - 4);
    char before = 0;
    for (const char raw : body) {
      const char c = static_cast<char>(std::tolower(static_cast<unsigned char>(raw)));
      const bool letter = c >= 'a' && c <= 'z';
      if (!letter && c != '\'' && c != '|') refuse("more than ASCII letters in (?i:");
      const std::string pair{before, c};
      for (const char* folded : {"ff", "fi", "fl", "ss", "st"}) {
        if (pair == folded) refuse("a pair in (?i: that one character folds to");
      }
      before = c;
    }
  }

  // {n}, {n,} and {n,m}. What may follow a quantifier means other things in the two engines.
  void counted_quantifier() {
    const size_t close = pattern_.find('}', at_);
    const std::string_view body =
        close == std::string_view::npos ? "" : pattern_.substr(at_ + 1, close - at_ - 1);
    bool well_formed = !body.empty() && body[0] != ',' && body.size() <= 9;
    int commas = 0;
    for (const char c : body) {
      commas += c == ',';
      well_formed = well_formed && (c == ',' || (c >= '0' && c <= '9'));
    }
    if (!well_formed || commas > 1) refuse("this form of {");
    copy(close + 1 - at_);
    if (next_is("+") || next_is("?")) refuse("a quantifier after {n}");
  }

  void escape() {
    if (letter_class(false)) return;
    literal_escape();
  }

  // \s \S \p{L} \p{N} and their kin, with the set spelt out. True if there was one.
  bool letter_class(bool inside) {
    std::string_view negated;
    std::string set;
    size_t bytes = 2;
    if (next_is("\\s") || next_is("\\S")) {
      negated = next_is("\\S") ? "^" : "";
      set = kSpaces;
    } else if (next_is("\\p{L}") || next_is("\\P{L}")) {
      negated = next_is("\\P") ? "^" : "";
      set = std::string(kNewLetters) + "\\p{L}";
      bytes = 5;
    } else if (next_is("\\p{N}") || next_is("\\P{N}")) {
      negated = next_is("\\P") ? "^" : "";
      set = fmt::format("{}{}\\p{{N}}", kNewDigits, kNewNumerals);
      bytes = 5;
    } else {
      return false;
    }
    if (inside && !negated.empty()) refuse("a negated set inside [ ]");
    out_ += inside ? set : fmt::format("[{}{}]", negated, set);
    at_ += bytes;
    return true;
  }

  void literal_escape() {
    if (at_ + 1 >= pattern_.size()) refuse("a \\ at the end");
    const char c = pattern_[at_ + 1];
    const bool control = c == 'r' || c == 'n' || c == 't';
    if (!control && !std::ispunct(static_cast<unsigned char>(c))) refuse(pattern_.substr(at_, 5));
    copy(2);
  }

  void open_class() {
    in_class_ = true;
    copy(1);
    if (next_is("^")) copy(1);
    if (next_is("]") || next_is("-")) refuse("[ ] that begins with ] or -");
  }

  void class_item() {
    const char c = pattern_[at_];
    if (c == ']') {
      in_class_ = false;
      copy(1);
    } else if (c == '[' || next_is("&&")) {
      refuse("[ or && inside [ ]");
    } else if (c == '\\') {
      const bool set = letter_class(true);
      if (!set) literal_escape();
      if (set && next_is("-")) refuse("a range from a set");
    } else {
      const bool range = c == '-';
      copy(1);
      if (range && (next_is("\\s") || next_is("\\p"))) refuse("a range to a set");
    }
  }

  std::string_view pattern_;
  size_t at_ = 0;
  bool in_class_ = false;
  std::string out_;
};

}  // namespace

std::string word_character_pattern() {
  // PCRE2's own \w knows neither marks nor joiners before 10.43.
  return fmt::format(R"([{}{}\p{{Alphabetic}}\p{{M}}\p{{Nd}}\p{{Pc}}\p{{Join_Control}}])",
                     kNewLetters, kNewDigits);
}

std::string translate_pattern(std::string_view pattern) { return Translator(pattern).run(); }

}  // namespace thermoe
