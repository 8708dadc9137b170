// Pre-tokenisers: what splits a text into the words that are merged one by one.
#pragma once

#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "model/tokenizer_regex.h"
#include "model/tokenizer_text.h"

namespace thermoe {

// Text with spaces written as a visible character (Metaspace), or with a space put before it
// (ByteLevel's add_prefix_space).
struct Respelling {
  enum class Prepend { kNever, kFirst, kAlways };  // kFirst: only where the input begins
  std::string space;                               // what a space becomes and what is prepended
  Prepend prepend = Prepend::kNever;
};

// Cuts before each occurrence of a string.
struct CutBefore {
  std::string text;
};

struct PreTokenizer {
  std::optional<Respelling> respelling;  // done first
  std::vector<std::variant<SplitRegex, CutBefore>>
      splits;               // each splits the pieces of the one before
  bool byte_level = false;  // words are bytes spelt in GPT-2's alphabet

  AlignedText respell(const AlignedText& text) const;
  // The words of a text, in order; together they are the text. Throws PatternError.
  std::vector<ByteRange> words(std::string_view text) const;
};

// GPT-2's splitting, which ByteLevel does with use_regex.
inline constexpr std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

}  // namespace thermoe
