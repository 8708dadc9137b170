// Tokenizer: byte-level and byte-fallback BPE from a Hugging Face tokenizer.json.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace thermoe {

// What Qwen3-MoE, OLMoE and Mixtral have in their tokenizer.json; the rest is refused by name:
//   normaliser     none, NFC, Prepend, Replace (of a string), Sequence
//   pre-tokeniser  none, Split (Isolated, by a regex or a string), Digits, ByteLevel, Metaspace,
//   Sequence model          BPE: merges, byte_fallback, unk_token, fuse_unk, ignore_merges decoder
//   none, ByteLevel, ByteFallback, Replace, Fuse, Strip, Metaspace, Sequence added tokens   all
//   their flags
// The post-processor is not applied (it adds template tokens).
//
// Agrees with Hugging Face's tokenizers (0.23) with add_special_tokens=False; special tokens in the
// text are recognised. That holds for every assigned code point, whatever the Unicode version of
// the PCRE2 and utf8proc that are linked: letters and numbers count as in Unicode 16, canonical
// composition is that of Unicode 9, as there. What remains: a `single_word` added token (no
// published model has one) next to a combining mark that Unicode 15 or later brought, and letters
// that a PCRE2 with Unicode 17 or later knows and tokenizers doesn't.
//
// Immutable; thread-safe. Encoding takes O(n log n) time in the text's length.
class Tokenizer {
 public:
  // Reads <directory>/tokenizer.json, or the file itself. Throws IoError naming the file and the
  // component (normaliser, pre-tokeniser, model, decoder, added token) that is not supported or not
  // well-formed.
  explicit Tokenizer(const std::filesystem::path& path);
  // From the contents of a tokenizer.json; errors call it `name`.
  static Tokenizer from_json(std::string_view json, const std::string& name);
  ~Tokenizer();
  Tokenizer(Tokenizer&&) noexcept;

  int64_t vocab_size() const;  // added tokens included: highest id + 1
  // Any bytes: invalid UTF-8 becomes U+FFFD, as Python's errors="replace" does. Throws
  // InvalidArgument for 2 GiB or more between two added tokens, IoError where a regular expression
  // of the file backtracks beyond reason (the published ones don't).
  std::vector<int32_t> encode(std::string_view text) const;
  // Tokens and, for each, the number of input bytes up to its end: never decreasing, the last one
  // text.size() (0 tokens have none). A token that ends inside a character counts that character's
  // bytes with its last token. Exact, but for tokens inside a group of combining characters that
  // normalisation changed: such a group's bytes count with its last character.
  std::vector<int32_t> encode(std::string_view text, std::vector<int64_t>& end_bytes) const;
  // As tokenizers' decode(ids, skip_special_tokens): bytes that are no UTF-8 become U+FFFD, an id
  // within the range that has no token is left out. Throws InvalidArgument for an id out of range.
  std::string decode(std::span<const int32_t> ids, bool skip_special_tokens = true) const;

 private:
  struct Impl;
  explicit Tokenizer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace thermoe
