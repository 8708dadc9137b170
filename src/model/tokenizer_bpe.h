// Byte-pair encoding of one word.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace thermoe {

// Hashes std::string and std::string_view alike, so a lookup allocates nothing.
struct TextHash {
  using is_transparent = void;
  size_t operator()(std::string_view text) const noexcept {
    return std::hash<std::string_view>{}(text);
  }
};
template <typename Value>
using TextMap = std::unordered_map<std::string, Value, TextHash, std::equal_to<>>;

// The byte of each character of GPT-2's alphabet, in which byte-level vocabularies are spelt:
// printable Latin-1 stands for itself, the other 68 bytes are U+0100 and up. nullopt where a
// character is not of it.
std::optional<std::string> bytes_of_spelling(std::string_view spelling);
// A byte's character in that alphabet.
std::string spelling_of_byte(uint8_t byte);

// The `model` of a tokenizer.json, checked by its reader.
struct BpeSpec {
  TextMap<int32_t> vocab;
  std::vector<std::pair<std::string, std::string>> merges;  // the first has the lowest rank
  std::optional<std::string> unk_token;
  bool fuse_unk = false;
  bool byte_fallback = false;
  bool ignore_merges = false;
  bool byte_level = false;  // words are bytes, the vocabulary spells them in GPT-2's alphabet
};

struct WordToken {
  int32_t id;
  uint32_t end;  // bytes of the word up to the token's end
};

// Merges as tokenizers' BPE does: the pair with the lowest rank first, the leftmost of equals.
// O(n log n) in the word's length. Immutable; threads may share it.
class BpeModel {
 public:
  // Throws std::invalid_argument (the caller knows the file) for a merge of or into a token that
  // the vocabulary lacks, and for an unknown token that it lacks and that could be needed.
  explicit BpeModel(BpeSpec spec);

  // Appends the word's tokens. A character that the vocabulary lacks becomes its bytes' tokens
  // (byte_fallback), the unknown token, or, without one, nothing.
  void encode(std::string_view word, std::vector<WordToken>& out) const;

 private:
  struct Merge {
    uint64_t pair = kNoPair;
    uint32_t rank = 0;
    int32_t id = 0;
  };
  struct Symbol {
    int32_t id;
    uint32_t end;
    int32_t previous;
    int32_t next;
    bool merged;  // into the one before it
  };
  static constexpr uint64_t kNoPair = ~uint64_t{0};

  static uint64_t key(int32_t left, int32_t right) {
    return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
  }
  void add_merges();
  void find_special_ids();
  const Merge* find(int32_t left, int32_t right) const;
  void characters(std::string_view word, std::vector<Symbol>& out) const;
  void merge(std::vector<Symbol>& symbols) const;

  BpeSpec spec_;
  int32_t unk_id_ = -1;
  std::array<int32_t, 256> byte_ids_{};  // of a byte (byte_level) or of "<0xNN>"; -1: none
  TextMap<int32_t> whole_words_;         // for ignore_merges
  std::vector<Merge> table_;             // open addressing; a power of two
  int shift_ = 63;
};

}  // namespace thermoe
