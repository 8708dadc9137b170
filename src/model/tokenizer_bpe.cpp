#include "model/tokenizer_bpe.h"

#include <fmt/format.h>

#include <algorithm>
#include <queue>
#include <stdexcept>

#include "model/json_file.h"
#include "model/tokenizer_text.h"

namespace thermoe {
namespace {

// The code point of each byte in GPT-2's alphabet.
const std::array<char32_t, 256>& alphabet() {
  static const auto table = [] {
    std::array<char32_t, 256> out{};
    char32_t next = 0x100;
    for (unsigned byte = 0; byte < 256; ++byte) {
      const bool itself = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte != 0xAD);
      out[byte] = itself ? byte : next++;
    }
    return out;
  }();
  return table;
}

// A position whose symbol merges with the next one.
struct Candidate {
  uint32_t rank;
  int32_t position;
  int32_t id;
  bool operator>(const Candidate& other) const {
    return rank != other.rank ? rank > other.rank : position > other.position;
  }
};

}  // namespace

std::string spelling_of_byte(uint8_t byte) {
  std::string out;
  append_utf8(alphabet()[byte], out);
  return out;
}

std::optional<std::string> bytes_of_spelling(std::string_view spelling) {
  static const auto bytes = [] {
    std::array<int16_t, 0x144> out;  // the alphabet's highest code point is U+0143
    out.fill(-1);
    for (int16_t byte = 0; byte < 256; ++byte) out[alphabet()[static_cast<size_t>(byte)]] = byte;
    return out;
  }();
  std::string out;
  for (size_t at = 0; at < spelling.size();) {
    const Utf8Step step = utf8_step(spelling, at);
    if (!step.valid || step.code_point >= bytes.size() || bytes[step.code_point] < 0) {
      return std::nullopt;
    }
    out += static_cast<char>(bytes[step.code_point]);
    at += step.bytes;
  }
  return out;
}

BpeModel::BpeModel(BpeSpec spec) : spec_(std::move(spec)) {
  add_merges();
  find_special_ids();
  if (spec_.ignore_merges) {
    for (const auto& [token, id] : spec_.vocab) {
      const auto word = spec_.byte_level ? bytes_of_spelling(token) : token;
      if (word) whole_words_.emplace(*word, id);
    }
  }
}

void BpeModel::add_merges() {
  size_t size = 2;
  for (shift_ = 63; size < 2 * spec_.merges.size(); size *= 2) --shift_;
  table_.resize(size);
  const auto id_of = [this](const std::string& token) {
    const auto found = spec_.vocab.find(token);
    if (found == spec_.vocab.end()) {
      throw std::invalid_argument(fmt::format(
          "a merge needs the token '{}', which the vocabulary lacks", printable(token)));
    }
    return found->second;
  };
  uint32_t rank = 0;
  for (const auto& [left, right] : spec_.merges) {
    const uint64_t pair = key(id_of(left), id_of(right));
    size_t at = (pair * 0x9E3779B97F4A7C15u) >> shift_;
    while (table_[at].pair != kNoPair && table_[at].pair != pair) at = (at + 1) & (size - 1);
    table_[at] = {pair, rank++, id_of(left + right)};  // of a pair given twice, the last counts
  }
  spec_.merges = {};
}

void BpeModel::find_special_ids() {
  bool complete = spec_.byte_level || spec_.byte_fallback;
  byte_ids_.fill(-1);
  for (size_t byte = 0; byte < 256 && (spec_.byte_level || spec_.byte_fallback); ++byte) {
    const auto spelling = spec_.byte_level ? spelling_of_byte(static_cast<uint8_t>(byte))
                                           : fmt::format("<0x{:02X}>", byte);
    const auto found = spec_.vocab.find(spelling);
    if (found != spec_.vocab.end()) byte_ids_[byte] = found->second;
    complete = complete && found != spec_.vocab.end();
  }
  if (!spec_.unk_token) return;
  const auto found = spec_.vocab.find(*spec_.unk_token);
  if (found != spec_.vocab.end()) {
    unk_id_ = found->second;
  } else if (!complete) {
    throw std::invalid_argument(
        fmt::format("unk_token '{}' is not in the vocabulary", printable(*spec_.unk_token)));
  }
}

const BpeModel::Merge* BpeModel::find(int32_t left, int32_t right) const {
  const uint64_t pair = key(left, right);
  size_t at = (pair * 0x9E3779B97F4A7C15u) >> shift_;  // 2^64 / golden ratio: Fibonacci hashing
  while (table_[at].pair != pair) {
    if (table_[at].pair == kNoPair) return nullptr;
    at = (at + 1) & (table_.size() - 1);
  }
  return &table_[at];
}

void BpeModel::encode(std::string_view word, std::vector<WordToken>& out) const {
  if (spec_.ignore_merges) {
    const auto found = whole_words_.find(word);
    if (found != whole_words_.end()) {
      out.push_back({found->second, static_cast<uint32_t>(word.size())});
      return;
    }
  }
  std::vector<Symbol> symbols;
  symbols.reserve(word.size());
  characters(word, symbols);
  merge(symbols);
  for (const Symbol& symbol : symbols) {
    if (!symbol.merged) out.push_back({symbol.id, symbol.end});
  }
}

void BpeModel::characters(std::string_view word, std::vector<Symbol>& out) const {
  const auto add = [&out](int32_t id, size_t end) {
    const auto at = static_cast<int32_t>(out.size());
    out.push_back({id, static_cast<uint32_t>(end), at - 1, at + 1, false});
  };
  size_t unknown_end = 0;  // of the unknown token not added yet; 0: none
  for (size_t at = 0; at < word.size();) {
    const size_t begin = at;
    at += spec_.byte_level ? 1 : utf8_step(word, at).bytes;
    int32_t id = -1;
    if (spec_.byte_level) {
      id = byte_ids_[static_cast<unsigned char>(word[begin])];
    } else if (const auto found = spec_.vocab.find(word.substr(begin, at - begin));
               found != spec_.vocab.end()) {
      id = found->second;
    }
    if (id >= 0) {
      if (unknown_end > 0) add(unk_id_, unknown_end);
      unknown_end = 0;
      add(id, at);
      continue;
    }
    const auto bytes = word.substr(begin, at - begin);
    const auto has_token = [this](char byte) {
      return byte_ids_[static_cast<unsigned char>(byte)] >= 0;
    };
    // An unknown token that waits stays behind these bytes, as in tokenizers.
    if (spec_.byte_fallback && std::ranges::all_of(bytes, has_token)) {
      for (size_t i = 0; i < bytes.size(); ++i) {
        add(byte_ids_[static_cast<unsigned char>(bytes[i])], begin + i + 1);
      }
    } else if (unk_id_ >= 0) {
      if (unknown_end > 0 && !spec_.fuse_unk) add(unk_id_, unknown_end);
      unknown_end = at;
    }
  }
  if (unknown_end > 0) add(unk_id_, unknown_end);
  if (!out.empty()) out.back().next = -1;
}

void BpeModel::merge(std::vector<Symbol>& symbols) const {
  std::vector<Candidate> heap;
  const auto count = static_cast<int32_t>(symbols.size());
  const auto consider = [&](int32_t at, std::vector<Candidate>& into) {
    const int32_t next = symbols[static_cast<size_t>(at)].next;
    if (next < 0) return false;
    const Merge* merge =
        find(symbols[static_cast<size_t>(at)].id, symbols[static_cast<size_t>(next)].id);
    if (merge != nullptr) into.push_back({merge->rank, at, merge->id});
    return merge != nullptr;
  };
  const auto push = [&](int32_t at) {
    if (consider(at, heap)) std::ranges::push_heap(heap, std::greater<>{});
  };
  for (int32_t at = 0; at < count; ++at) consider(at, heap);
  std::ranges::make_heap(heap, std::greater<>{});

  while (!heap.empty()) {
    std::ranges::pop_heap(heap, std::greater<>{});
    const Candidate best = heap.back();
    heap.pop_back();
    Symbol& left = symbols[static_cast<size_t>(best.position)];
    if (left.merged || left.next < 0) continue;
    Symbol& right = symbols[static_cast<size_t>(left.next)];
    // The candidate is stale where its symbols have changed, unless they still make the same token.
    const Merge* merge = find(left.id, right.id);
    if (merge == nullptr || merge->id != best.id) continue;
    left.id = best.id;
    left.end = std::max(left.end, right.end);
    left.next = right.next;
    right.merged = true;
    if (left.next >= 0) symbols[static_cast<size_t>(left.next)].previous = best.position;
    if (left.previous >= 0) push(left.previous);
    push(best.position);
  }
}

}  // namespace thermoe
