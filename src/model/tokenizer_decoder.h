// Decoders: what turns tokens back into text.
#pragma once

#include <cstddef>
#include <string>
#include <variant>
#include <vector>

namespace thermoe {

struct ByteLevelDecode {};     // GPT-2's alphabet to bytes, ill-formed sequences to U+FFFD
struct ByteFallbackDecode {};  // runs of "<0xNN>" to characters, or U+FFFD each
struct FuseDecode {};          // all tokens into one
struct ReplaceDecode {
  std::string pattern;  // not empty
  std::string content;
};
struct StripDecode {
  std::string content;  // one character, cut from each token: up to `start` at its front and
  size_t start = 0;     // `stop` at its end
  size_t stop = 0;
};
struct MetaspaceDecode {
  std::string mark;         // becomes a space,
  bool drop_first = false;  // or nothing in the first token
};
using DecoderStep = std::variant<ByteLevelDecode, ByteFallbackDecode, FuseDecode, ReplaceDecode,
                                 StripDecode, MetaspaceDecode>;

// Applies the steps in order and joins what results.
std::string decode_tokens(std::vector<std::string> tokens, const std::vector<DecoderStep>& steps);

}  // namespace thermoe
