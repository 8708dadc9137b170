// Routing on the GPU: from router logits to the finished plan in one launch, without allocation or
// synchronisation, so that it can be captured in a CUDA graph. Every pointer is read when the
// kernel runs: a captured graph sees new logits, prices and biases without being captured again.
//
// On given scores the plan is the CPU's, bit for bit: TopKPolicy's, or that of AdaptiveRouter with
// search kClimb. Only for files that are compiled with the CUDA code.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

namespace thermoe::cuda {

enum class ScoreType : int32_t { kF32, kBf16 };

// What makes gate probabilities of the given numbers. kNone: they are probabilities already.
enum class Gate : int32_t { kNone, kSoftmax, kSigmoid };

// One batch. Device pointers, read while the kernel runs.
struct RouterInput {
  const void* scores = nullptr;  // [T, row_stride] of `type`, the first E of each row count
  int64_t row_stride = 0;        // elements; 0: E
  int32_t tokens = 0;            // T, 1 .. kMostTokens
  int32_t experts = 0;           // E, 1 .. kMostExperts
  int32_t k = 0;                 // 1 .. min(E, kMostSlots)
  ScoreType type = ScoreType::kF32;
  Gate gate = Gate::kNone;
  bool renormalize = true;      // weights of an unmodified token sum to 1 (norm_topk_prob)
  const float* bias = nullptr;  // [E] added where experts are selected, not where they are weighed
};

// In which instances the experts can be had (expert_layout.h); none: each expert once.
struct RouterInstances {
  int32_t count = 0;                // I, E .. kMostInstances; 0: E
  const int32_t* first = nullptr;   // [E + 1] device, of ExpertLayout; null: each expert once
  const int32_t* expert = nullptr;  // [I] device, where there is `first`
  // What the errors leave of the utility, as KeptUtility says; device, null: all of it.
  const double* kept_best = nullptr;      // [E]
  const double* kept_instance = nullptr;  // [I]
  bool kept_even = true;                  // the same kept_best everywhere
};

// Device pointers, in units of utility, finite and >= 0. Null: zero.
struct RouterPrices {
  const float* open = nullptr;      // [I] for bringing an instance's weights on chip; kBatch only
  const float* slope = nullptr;     // [I] for each token sent there
  const float* marginal = nullptr;  // [I] added to slope; kPerToken only
};

enum class RoutingMode : int32_t {
  kTopK,      // the model's own choice, each expert in its first instance; prices are not read
  kPerToken,  // each token by itself takes what is best at slope and marginal prices
  kBatch,     // the routing program of the whole batch, T <= kMostBatchTokens
};

// Written once per launch. Scores are bad where they are NaN, infinite or (gate kNone) negative; a
// logit of -inf is a score of zero. The plan of a batch with a bad token is well formed, but worth
// nothing.
struct GpuRoutingReport {
  int32_t bad_token = -1;        // the first; -1: none
  int32_t bad_expert = -1;       // its first bad score; -1: all its scores are zero
  int32_t changed_tokens = 0;    // whose set of experts is not their top-k
  int32_t distinct_experts = 0;  // that at least one token uses
  int32_t distinct_instances = 0;
  int32_t closings = 0, rounds = 0;  // of the search; kBatch only
  int32_t reserved = 0;
  double utility = 0, cost = 0;  // as in RoutingReport; kBatch only
};

// The plan, device memory, in the order of RoutingPlan.
struct RouterOutput {
  int32_t* ids = nullptr;        // [T, k]
  int32_t* instances = nullptr;  // [T, k]
  float* weights = nullptr;      // [T, k]
  uint8_t* changed = nullptr;    // [T]
  int32_t* offsets = nullptr;    // [I + 1]
  int32_t* packed = nullptr;     // [T * k]
  GpuRoutingReport* report = nullptr;
};

struct RoutingLaunch {
  static constexpr int32_t kMostTokens = 16384, kMostBatchTokens = 256;
  static constexpr int32_t kMostExperts = 512, kMostInstances = 1024, kMostSlots = 16;

  RouterInput input;
  RouterInstances instances;
  RouterPrices prices;
  RoutingMode mode = RoutingMode::kTopK;
  // UtilityModel: power 1, 1.5 or 2; scale [E] device, null: 1 everywhere.
  float utility_power = 2.0f;
  const float* utility_scale = nullptr;
  RouterOutput output;

  int32_t instance_count() const { return instances.count > 0 ? instances.count : input.experts; }
};

// Bytes of device memory that launch_routing needs as workspace (aligned as by cudaMalloc, not
// initialised, not shared by launches that may run at once); 0 where it needs none.
size_t routing_workspace_bytes(const RoutingLaunch& launch);

// Enqueues the launch on `stream`. cudaErrorInvalidValue where the launch breaks a limit above, an
// output is null or the workspace too small; cudaErrorCooperativeLaunchTooLarge where more than 32
// tokens need more blocks at once (128 at most) than the GPU holds: it should have 64
// multiprocessors, with more than 512 instances 128.
cudaError_t launch_routing(const RoutingLaunch& launch, void* workspace, size_t workspace_bytes,
                           cudaStream_t stream);

// Gate, top-k and weights alone: ids and weights [T, k]. `bad_token`, where not null, is lowered
// to the first bad token, if there is one: set it to INT32_MAX before. Any number of tokens.
cudaError_t launch_top_k(const RouterInput& input, int32_t* ids, float* weights, int32_t* bad_token,
                         cudaStream_t stream);

// Throws InvalidArgument that names token and expert where a report (copied to the host) has a bad
// token.
void check_report(const GpuRoutingReport& report);

}  // namespace thermoe::cuda
