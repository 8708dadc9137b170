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

// Agrees with Hugging Face's tokenizers (encode without template special tokens, i.e.
// add_special_tokens=False; special tokens in the text are recognised). Immutable; thread-safe.
class Tokenizer {
 public:
  // Reads <directory>/tokenizer.json, or the file itself. Throws IoError naming the file and the
  // component (normaliser, pre-tokeniser, model, decoder) that is not supported.
  explicit Tokenizer(const std::filesystem::path& path);
  ~Tokenizer();
  Tokenizer(Tokenizer&&) noexcept;

  int64_t vocab_size() const;  // added tokens included: highest id + 1
  // Any bytes: invalid UTF-8 becomes U+FFFD, as Python's errors="replace" does.
  std::vector<int32_t> encode(std::string_view text) const;
  // Tokens and, for each, the number of input bytes up to its end.
  // (A token that ends inside a character counts that character's bytes with its last token.)
  std::vector<int32_t> encode(std::string_view text, std::vector<int64_t>& end_bytes) const;
  // As tokenizers' decode(ids, skip_special_tokens). Throws InvalidArgument for an id out of range.
  std::string decode(std::span<const int32_t> ids, bool skip_special_tokens = true) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace thermoe
