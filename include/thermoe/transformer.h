// Transformer: the CPU runtime of a checkpoint.
#pragma once

#include <cstdint>
#include <memory>

#include "thermoe/checkpoint.h"
#include "thermoe/language_model.h"
#include "thermoe/thread_pool.h"

namespace thermoe {

// In main memory, f32.
class KvCache : public SequenceCache {
 public:
  KvCache(const ModelConfig& config, int sequences, int64_t max_positions);
  ~KvCache() override;
  int sequences() const override;
  int64_t max_positions() const override;
  size_t bytes() const override;

 private:
  friend class Transformer;
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

class Transformer : public LanguageModel {
 public:
  // Throws IoError where tensors are missing or misshapen.
  Transformer(const Checkpoint& checkpoint, ThreadPool& pool);
  ~Transformer() override;

  const ModelConfig& config() const override;
  const std::vector<LayerVariants>& variants() const override;
  std::unique_ptr<SequenceCache> make_cache(int sequences, int64_t max_positions) const override;
  void forward(const TokenBatch& batch, const RoutingContext& routing, SequenceCache& cache,
               std::span<const int32_t> logit_rows, Matrix logits) override;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace thermoe
