// KvStore, the inside of KvCache: per layer, sequence and KV head, keys and values as
// kernels/cpu/attention.h lays them out.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <vector>

#include "thermoe/transformer.h"

namespace thermoe {

struct KvStore {
  struct Free {
    void operator()(float* memory) const { std::free(memory); }
  };

  int layers = 0, sequences = 0, kv_heads = 0;
  int64_t head_dim = 0, max_positions = 0;
  int64_t head_keys = 0, head_values = 0;  // floats of one head
  std::unique_ptr<float[], Free> keys, values;
  std::vector<int64_t> filled;  // [sequences] positions 0 .. filled - 1 are valid

  float* keys_of(int layer, int sequence, int head) const {
    return keys.get() + index(layer, sequence, head) * head_keys;
  }
  float* values_of(int layer, int sequence, int head) const {
    return values.get() + index(layer, sequence, head) * head_values;
  }
  int64_t index(int layer, int sequence, int head) const {
    return (static_cast<int64_t>(layer) * sequences + sequence) * kv_heads + head;
  }
  int64_t heads() const { return static_cast<int64_t>(layers) * sequences * kv_heads; }
};

struct KvCache::Impl : KvStore {};

}  // namespace thermoe
