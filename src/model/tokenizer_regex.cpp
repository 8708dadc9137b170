#include "model/tokenizer_regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <fmt/format.h>
#include <pcre2.h>

#include "model/tokenizer_text.h"

namespace thermoe {
namespace {

struct FreeCode {
  void operator()(pcre2_code* code) const { pcre2_code_free(code); }
};
struct FreeMatch {
  void operator()(pcre2_match_data* match) const { pcre2_match_data_free(match); }
};
struct FreeContext {
  void operator()(pcre2_match_context* context) const { pcre2_match_context_free(context); }
};
struct FreeStack {
  void operator()(pcre2_jit_stack* stack) const { pcre2_jit_stack_free(stack); }
};
using Code = std::unique_ptr<pcre2_code, FreeCode>;
using Match = std::unique_ptr<pcre2_match_data, FreeMatch>;

// One match of a published pattern takes a handful of steps plus one per character; this stops a
// pattern that explodes after about a second.
constexpr uint32_t kMatchLimit = 10'000'000;
constexpr size_t kStackBytes = 32 * 1024;  // PCRE2's own default, at first
constexpr size_t kStackMaxBytes = 8 * 1024 * 1024;

constexpr uint32_t kPattern = PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C;

std::string pcre_message(int code) {
  char buffer[256] = {};
  pcre2_get_error_message(code, reinterpret_cast<PCRE2_UCHAR*>(buffer), sizeof(buffer));
  return buffer;
}

Code compile(std::string_view pattern, uint32_t options) {
  int error = 0;
  PCRE2_SIZE offset = 0;
  Code code(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(), options,
                          &error, &offset, nullptr));
  if (!code) {
    throw PatternError(fmt::format("is no regular expression ({})", pcre_message(error)));
  }
  uint32_t match_empty = 0;
  pcre2_pattern_info(code.get(), PCRE2_INFO_MATCHEMPTY, &match_empty);
  if (match_empty != 0) throw PatternError("matches the empty string");
  // Without a compiler for this processor, pcre2_match interprets.
  pcre2_jit_compile(code.get(), PCRE2_JIT_COMPLETE);
  return code;
}

bool matches_one(const pcre2_code* code, char32_t code_point) {
  std::string text;
  append_utf8(code_point, text);
  const Match match(pcre2_match_data_create_from_pattern(code, nullptr));
  return pcre2_match(code, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), 0,
                     PCRE2_NO_UTF_CHECK, match.get(), nullptr) > 0;
}

}  // namespace

struct SplitRegex::Compiled {
  Code code;
};

SplitRegex::SplitRegex(std::string_view pattern)
    : SplitRegex(translate_pattern(pattern), kPattern) {}

SplitRegex::SplitRegex(std::string_view pcre_pattern, unsigned options)
    : compiled_(std::make_shared<const Compiled>(Compiled{compile(pcre_pattern, options)})) {}

SplitRegex SplitRegex::literal(std::string_view text) {
  return SplitRegex(text, PCRE2_UTF | PCRE2_LITERAL);
}

void SplitRegex::split(std::string_view text, ByteRange range, std::vector<ByteRange>& out) const {
  const pcre2_code* code = compiled_->code.get();
  const Match match(pcre2_match_data_create_from_pattern(code, nullptr));
  const std::unique_ptr<pcre2_match_context, FreeContext> context(
      pcre2_match_context_create(nullptr));
  const std::unique_ptr<pcre2_jit_stack, FreeStack> stack(
      pcre2_jit_stack_create(kStackBytes, kStackMaxBytes, nullptr));
  if (!match || !context || !stack) throw std::bad_alloc();
  pcre2_set_match_limit(context.get(), kMatchLimit);
  pcre2_jit_stack_assign(context.get(), nullptr, stack.get());

  const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data() + range.begin);
  const size_t length = range.end - range.begin;
  size_t done = 0;
  while (done < length) {
    const int rc =
        pcre2_match(code, subject, length, done, PCRE2_NO_UTF_CHECK, match.get(), context.get());
    if (rc == PCRE2_ERROR_NOMATCH) break;
    if (rc < 0) throw PatternError(fmt::format("fails on this text ({})", pcre_message(rc)));
    const PCRE2_SIZE* found = pcre2_get_ovector_pointer(match.get());
    if (found[0] > done) out.push_back({range.begin + done, range.begin + found[0]});
    out.push_back({range.begin + found[0], range.begin + found[1]});
    done = found[1];
  }
  if (done < length) out.push_back({range.begin + done, range.end});
}

bool is_space(char32_t c) {
  return (c >= 0x9 && c <= 0xD) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

bool is_word(char32_t c) {
  static const Code code = compile(word_character_pattern(), kPattern);
  return matches_one(code.get(), c);
}

}  // namespace thermoe
