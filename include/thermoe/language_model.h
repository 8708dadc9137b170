// LanguageModel: a checkpoint that runs, on the CPU (transformer.h) or on a GPU
// (cuda_transformer.h): prefill, batched decode and evaluation.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "thermoe/expert_kernels.h"
#include "thermoe/expert_variants.h"
#include "thermoe/model_config.h"
#include "thermoe/moe_layer.h"

namespace thermoe {

// Keys and values of some sequences of up to `max_positions` tokens, where the model runs.
class SequenceCache {
 public:
  virtual ~SequenceCache() = default;
  virtual int sequences() const = 0;
  virtual int64_t max_positions() const = 0;
  virtual size_t bytes() const = 0;
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

// How the next token is chosen: the likeliest (temperature 0), or drawn by a random number that
// depends on seed, round, sequence and position alone, whatever ran before.
struct Sampling {
  double temperature = 0;
  uint64_t seed = 1;
  int round = 0;
};

// Decode steps of sequences 0 .. B - 1 together, which route together.
struct DecodeRequest {
  std::span<const int32_t> tokens;     // [B] the last token of each
  std::span<const int32_t> positions;  // [B] where it stands
  int steps = 1;
  Sampling sampling = {};
};

// The token that `sampling` chooses of logits [vocabulary] for `position` of `sequence`.
int32_t sample_token(std::span<const float> logits, const Sampling& sampling, int sequence,
                     int64_t position);

// Holds views of the checkpoint's weights (which must outlive it) and scratch; not thread-safe.
class LanguageModel {
 public:
  virtual ~LanguageModel() = default;

  virtual const ModelConfig& config() const = 0;
  // In which precisions the experts can run, by layer number; a dense layer's is empty.
  virtual const std::vector<LayerVariants>& variants() const = 0;
  // Throws InvalidArgument where sequences or positions are less than 1, or the positions more than
  // the model's; InvalidArgument or CudaError where there isn't as much memory.
  virtual std::unique_ptr<SequenceCache> make_cache(int sequences, int64_t max_positions) const = 0;
  // Writes keys and values of the rows to the cache, which this model made, and the logits of the
  // rows listed in `logit_rows` (rising indices) to logits [logit_rows.size(), vocab_size].
  // Throws InvalidArgument: ids, sequences or positions out of range, groups that are no partition,
  // router logits that are not finite (naming the layer), layouts that the weights can't serve,
  // another model's cache.
  virtual void forward(const TokenBatch& batch, const RoutingContext& routing, SequenceCache& cache,
                       std::span<const int32_t> logit_rows, Matrix logits) = 0;
  // Feeds each sequence its last token, samples the next, and so on; writes them to `sampled`
  // [steps, B]. The observer sees the plans of the last step only. Throws as forward().
  virtual void decode(const DecodeRequest& request, const RoutingContext& routing,
                      SequenceCache& cache, std::span<int32_t> sampled);
  // Who chooses the experts' kernels from now on, where there is a choice; null: the model itself.
  virtual void set_expert_kernels(const std::shared_ptr<const ExpertKernelChooser>&) {}
  // By layer, what the last pass ran its experts on; empty where there is no choice.
  virtual std::vector<ExpertKernel> expert_kernels() const { return {}; }
};

}  // namespace thermoe
