// Transformer: the CPU runtime of a checkpoint: prefill, batched decode and evaluation.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "thermoe/adaptive_router.h"
#include "thermoe/checkpoint.h"
#include "thermoe/expert_variants.h"
#include "thermoe/moe_layer.h"
#include "thermoe/thread_pool.h"

namespace thermoe {

// Keys and values of `sequences` sequences of up to `max_positions` tokens, f32.
class KvCache {
 public:
  KvCache(const ModelConfig& config, int sequences, int64_t max_positions);
  ~KvCache();
  KvCache(KvCache&&) noexcept;
  int sequences() const;
  int64_t max_positions() const;
  size_t bytes() const;

 private:
  friend class Transformer;
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// One forward pass: N rows, each one token of one sequence at one position. Rows of one sequence
// stand in rising position; positions before a row's own must be in the cache or earlier in the
// rows. Prefill is many rows of one sequence, decode one row of each, evaluation both.
struct TokenBatch {
  std::span<const int32_t> tokens;     // [N]
  std::span<const int32_t> sequences;  // [N] in [0, cache.sequences())
  std::span<const int32_t> positions;  // [N]
  std::span<const RowGroup> groups;    // partition of the rows: who routes together
};

// How a pass routes.
struct RoutingContext {
  RoutingPolicy* policy = nullptr;
  // Prices of the experts of each MoE layer, or of its layout's instances, by layer number; empty:
  // zero prices.
  std::span<const ExpertPrices> prices;
  // Precisions of each MoE layer's experts, by layer number (a dense layer's is not looked at), see
  // MoeLayer; empty: every expert as it is stored, else in int8.
  std::span<const ExpertLayout> layouts = {};
  PlanObserver* observer = nullptr;
};

// Holds views of the checkpoint's weights (which must outlive it) and scratch; not thread-safe.
class Transformer {
 public:
  // Throws IoError where tensors are missing or misshapen.
  Transformer(const Checkpoint& checkpoint, ThreadPool& pool);
  ~Transformer();

  const ModelConfig& config() const;
  // In which precisions the experts can run, by layer number; a dense layer's is empty.
  const std::vector<LayerVariants>& variants() const;
  // Writes keys and values of the rows to the cache and the logits of the rows listed in
  // `logit_rows` (rising indices) to logits [logit_rows.size(), vocab_size].
  // Throws InvalidArgument: ids, sequences or positions out of range, groups that are no partition,
  // router logits that are not finite (naming the layer), layouts that the weights can't serve.
  void forward(const TokenBatch& batch, const RoutingContext& routing, KvCache& cache,
               std::span<const int32_t> logit_rows, Matrix logits);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace thermoe
