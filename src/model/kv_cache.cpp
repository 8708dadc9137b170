#include "model/kv_cache.h"

#include <fmt/format.h>

#include "kernels/cpu/attention.h"
#include "model/batch_check.h"
#include "thermoe/error.h"

namespace thermoe {
namespace {

// Zeroed by the system page by page, at first use: an empty cache costs no memory.
float* allocate(int64_t floats) {
  void* memory = std::calloc(static_cast<size_t>(floats), sizeof(float));
  if (memory == nullptr)
    throw InvalidArgument(fmt::format(
        "a key-value cache needs {} MiB more than there is: use fewer sequences or positions",
        floats * static_cast<int64_t>(sizeof(float)) >> 20));
  return static_cast<float*>(memory);
}

}  // namespace

KvCache::KvCache(const ModelConfig& config, int sequences, int64_t max_positions)
    : impl_(std::make_unique<Impl>()) {
  check_cache_size(config, sequences, max_positions);
  Impl& impl = *impl_;
  impl.layers = config.layers;
  impl.sequences = sequences;
  impl.kv_heads = config.kv_heads;
  impl.head_dim = config.head_dim;
  impl.max_positions = max_positions;
  impl.head_keys = cpu::key_floats(max_positions, config.head_dim);
  impl.head_values = cpu::value_floats(max_positions, config.head_dim);
  impl.keys.reset(allocate(impl.heads() * impl.head_keys));
  impl.values.reset(allocate(impl.heads() * impl.head_values));
  impl.filled.resize(static_cast<size_t>(sequences));
}

KvCache::~KvCache() = default;
int KvCache::sequences() const { return impl_->sequences; }
int64_t KvCache::max_positions() const { return impl_->max_positions; }
size_t KvCache::bytes() const {
  return static_cast<size_t>(impl_->heads() * (impl_->head_keys + impl_->head_values)) *
         sizeof(float);
}

}  // namespace thermoe
