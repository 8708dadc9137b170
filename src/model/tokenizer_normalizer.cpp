#include "model/tokenizer_normalizer.h"

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <iterator>

namespace thermoe {
namespace {

struct CodePoints {
  char32_t first;
  char32_t last;
};

// tokenizers composes by Unicode 9.0. Of later versions: all code points with a combining class
// (UnicodeData.txt up to 17.0), the one starter of a later composition that an older character has
// part in (U+11930), and the blocks of scripts that brought compositions of their own.
constexpr std::array kUnknownToUnicode9 = std::to_array<CodePoints>(
    {{0x5C8, 0x5C9},     {0x7FD, 0x7FD},     {0x897, 0x89F},     {0x8CA, 0x8D3},
     {0x9FE, 0x9FE},     {0xC3C, 0xC3C},     {0xD3B, 0xD3C},     {0xEBA, 0xEBA},
     {0x1715, 0x1715},   {0x1ABF, 0x1AF0},   {0x1DF6, 0x1DFA},   {0xA82C, 0xA82C},
     {0x105C0, 0x105FF}, {0x10D24, 0x10D27}, {0x10D69, 0x10D6D}, {0x10EAB, 0x10EAC},
     {0x10ECB, 0x10ECF}, {0x10EF0, 0x10EFB}, {0x10EFD, 0x10EFF}, {0x10F46, 0x10F50},
     {0x10F82, 0x10F85}, {0x11070, 0x11070}, {0x1133B, 0x1133B}, {0x11380, 0x113FF},
     {0x1145E, 0x1145E}, {0x11839, 0x1183A}, {0x11930, 0x11930}, {0x1193D, 0x1193E},
     {0x11943, 0x11943}, {0x119E0, 0x119E0}, {0x11A34, 0x11A34}, {0x11A47, 0x11A47},
     {0x11A99, 0x11A99}, {0x11D42, 0x11D42}, {0x11D44, 0x11D45}, {0x11D97, 0x11D97},
     {0x11F41, 0x11F42}, {0x16100, 0x1613F}, {0x16D40, 0x16D7F}, {0x16FF0, 0x16FF1},
     {0x1D127, 0x1D128}, {0x1D250, 0x1D252}, {0x1D25B, 0x1D25C}, {0x1D25F, 0x1D25F},
     {0x1D280, 0x1D281}, {0x1E08F, 0x1E08F}, {0x1E130, 0x1E136}, {0x1E2AE, 0x1E2AE},
     {0x1E2EC, 0x1E2EF}, {0x1E4EC, 0x1E4EF}, {0x1E5EE, 0x1E5EF}, {0x1E6E3, 0x1E6E3},
     {0x1E6E6, 0x1E6E6}, {0x1E6EE, 0x1E6EF}, {0x1E6F5, 0x1E6F5}});

bool known_to_unicode9(char32_t c) {
  const auto after = std::ranges::upper_bound(kUnknownToUnicode9, c, {}, &CodePoints::first);
  return after == kUnknownToUnicode9.begin() || c > std::prev(after)->last;
}

// Whether a group may begin here: nothing before this character composes or trades places with it.
// A superset of what composes: every mark, and the vowels and trailing consonants of Hangul.
bool begins_group(char32_t c) {
  if (c < 0x300) return true;  // the first combining character
  if (!known_to_unicode9(c)) return true;
  if (c >= 0x1160 && c <= 0x11FF) return false;
  const auto* property = utf8proc_get_property(static_cast<utf8proc_int32_t>(c));
  return property->combining_class == 0 && property->category != UTF8PROC_CATEGORY_MN &&
         property->category != UTF8PROC_CATEGORY_MC && property->category != UTF8PROC_CATEGORY_ME;
}

int combining_class(utf8proc_int32_t c) { return utf8proc_get_property(c)->combining_class; }

// One group in NFC. Decomposed here, not by utf8proc_decompose, whose sort is quadratic in the
// number of marks.
std::string compose(std::string_view group) {
  constexpr auto kDecompose = static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_DECOMPOSE);
  std::vector<utf8proc_int32_t> points;
  for (size_t at = 0; at < group.size();) {
    const Utf8Step step = utf8_step(group, at);
    at += step.bytes;
    std::array<utf8proc_int32_t, 16> parts{};  // a canonical decomposition has at most 4
    int boundary_class = 0;
    const auto count =
        utf8proc_decompose_char(static_cast<utf8proc_int32_t>(step.code_point), parts.data(),
                                parts.size(), kDecompose, &boundary_class);
    if (count <= 0 || static_cast<size_t>(count) > parts.size()) return std::string(group);
    points.insert(points.end(), parts.begin(), parts.begin() + count);
  }
  const auto is_starter = [](utf8proc_int32_t c) { return combining_class(c) == 0; };
  for (auto mark = points.begin(); mark != points.end();) {
    mark = std::find_if_not(mark, points.end(), is_starter);
    const auto end = std::find_if(mark, points.end(), is_starter);
    std::stable_sort(mark, end, [](utf8proc_int32_t a, utf8proc_int32_t b) {
      return combining_class(a) < combining_class(b);
    });
    mark = end;
  }
  const auto count =
      utf8proc_normalize_utf32(points.data(), static_cast<utf8proc_ssize_t>(points.size()),
                               static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
  std::string out;
  for (utf8proc_ssize_t i = 0; i < count; ++i) {
    append_utf8(static_cast<char32_t>(points[static_cast<size_t>(i)]), out);
  }
  return out;
}

// The next byte from `at` on that begins a character of U+0300 or above (CC 80 in UTF-8).
size_t next_above_latin(std::string_view text, size_t at) {
  while (at < text.size() && static_cast<unsigned char>(text[at]) < 0xCC) ++at;
  return at;
}

AlignedText nfc(const AlignedText& text) {
  const std::string_view view = text.view();
  AlignedText out = AlignedText::rewrite_of(text);
  size_t copied = 0;  // what of the text is in `out`
  for (size_t at = 0; (at = next_above_latin(view, at)) < view.size();) {
    const Utf8Step first = utf8_step(view, at);
    size_t begin = at;
    at += first.bytes;
    if (!known_to_unicode9(first.code_point)) continue;  // a group of its own
    // A mark joins the character before it, if that lies below U+0300: one above has taken its
    // marks already, or is unknown and takes none.
    if (begin > 0 && !begins_group(first.code_point)) {
      size_t before = begin - 1;
      while (is_continuation(view[before])) --before;
      if (static_cast<unsigned char>(view[before]) < 0xCC) begin = before;
    }
    while (at < view.size()) {
      const Utf8Step step = utf8_step(view, at);
      if (begins_group(step.code_point)) break;
      at += step.bytes;
    }
    const std::string_view group = view.substr(begin, at - begin);
    const std::string composed = compose(group);
    if (composed == group) continue;
    out.append(text, copied, begin);
    out.append(composed, text.end_of(at));
    copied = at;
  }
  if (copied == 0) return text;
  out.append(text, copied, view.size());
  return out;
}

}  // namespace

AlignedText replace_all(const AlignedText& text, const std::string& pattern,
                        const std::string& content) {
  const std::string_view view = text.view();
  size_t found = view.find(pattern);
  if (found == std::string_view::npos) return text;
  AlignedText out = AlignedText::rewrite_of(text);
  size_t done = 0;
  for (; found != std::string_view::npos; found = view.find(pattern, done)) {
    out.append(text, done, found);
    done = found + pattern.size();
    out.append(content, text.end_of(done));
  }
  out.append(text, done, view.size());
  return out;
}

AlignedText prepend(const AlignedText& text, const std::string& prefix) {
  AlignedText out = AlignedText::rewrite_of(text);
  out.append(prefix, text.begin());
  out.append(text, 0, text.size());
  return out;
}

AlignedText normalize(const AlignedText& text, const std::vector<NormalizerStep>& steps) {
  AlignedText out = text;
  for (const NormalizerStep& step : steps) {
    if (std::holds_alternative<NfcStep>(step)) {
      out = nfc(out);
    } else if (const auto* prefix = std::get_if<PrependStep>(&step)) {
      if (!out.empty()) out = prepend(out, prefix->prefix);
    } else {
      const auto& replace = std::get<ReplaceStep>(step);
      out = replace_all(out, replace.pattern, replace.content);
    }
  }
  return out;
}

}  // namespace thermoe
