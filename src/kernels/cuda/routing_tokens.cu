// Plain and priced top-k with packing in one launch, and top-k alone.
//
// In: scores [T, E], T <= 16384, E <= 512; prices [I], I <= 1024. Out: RouterOutput.
// Grid: up to 32 tokens one block of a warp a token; more are spread over up to 128 blocks of 16
// warps (8 above 512 instances, or where 128 experts or more are priced) that meet once, a
// cooperative launch: each then adds up the loads of all blocks (128 I bytes from the L2) for its
// own tokens' places. Shared memory: 8 bytes a warp and instance, 4 a warp and expert where priced
// (64 KiB at most), 4 a token and slot, and one bit a token and instance. Bytes: T E scores read
// once, 16 a token and slot written: at E = 128, k = 8, T = 16384 8.4 MB (f32) and 2.1 MB, 3 us at
// an H100's bandwidth. Exact: on given scores equals TopKPolicy bit for bit (the reference); from
// logits the scores are within 1e-6 of a float64 softmax's.
#include <cooperative_groups.h>

#include "kernels/cuda/routing_launch.h"
#include "kernels/cuda/routing_tokens.cuh"

namespace thermoe::cuda {
namespace {

constexpr int kOneBlockTokens = 32;

// As the registers have it: a lane's scores, and utilities where they are priced.
constexpr int most_block_warps(int slots) { return slots > 4 ? 16 : 32; }
constexpr int most_grid_warps(int slots, bool priced) { return slots > 4 && priced ? 8 : 16; }

template <int kSlots, bool kPriced>
__global__ void __launch_bounds__(most_block_warps(kSlots) * 32, 1)
    routing_block_kernel(const __grid_constant__ RoutingLaunch launch,
                         const __grid_constant__ TokenShape shape) {
  extern __shared__ __align__(16) unsigned char shared[];
  route_tokens<kSlots, kPriced, false>(launch, shape, shared, nullptr, [] {});
}

template <int kSlots, bool kPriced>
__global__ void __launch_bounds__(most_grid_warps(kSlots, kPriced) * 32, 2)
    routing_grid_kernel(const __grid_constant__ RoutingLaunch launch,
                        const __grid_constant__ TokenShape shape, unsigned char* workspace) {
  extern __shared__ __align__(16) unsigned char shared[];
  route_tokens<kSlots, kPriced, true>(launch, shape, shared, workspace,
                                      [] { cooperative_groups::this_grid().sync(); });
}

template <int kSlots>
__global__ void __launch_bounds__(128)
    routing_top_k_kernel(const __grid_constant__ RouterInput input, int32_t* ids, float* weights,
                         int32_t* bad_token) {
  const int lane = static_cast<int>(threadIdx.x) & 31;
  const int t = static_cast<int>(blockIdx.x * (blockDim.x >> 5) + (threadIdx.x >> 5));
  if (t >= input.tokens) return;
  TokenScores<kSlots> scores;
  scores.load(input, t, lane);
  const TopK top = select_top_k(scores, input, lane);
  if (lane == 0 && bad_token != nullptr && (scores.bad_expert != kNoIndex || !(top.mass > 0.0f)))
    atomicMin(bad_token, t);
  if (lane >= input.k) return;
  const int64_t at = static_cast<int64_t>(t) * input.k + lane;
  ids[at] = top.id;
  weights[at] = share_of(top.score, top.mass, input.renormalize);
}

TokenShape token_shape(const RoutingLaunch& launch) {
  const int tokens = launch.input.tokens, slots = slots_of_launch(launch);
  TokenShape shape;
  shape.rows = (launch.instance_count() + 31) / 32;
  if (tokens <= kOneBlockTokens) {
    const int most = shape.rows > 16 ? 8 : shape.rows > 8 ? 16 : most_block_warps(slots);
    for (shape.warps = 4; shape.warps < most && shape.warps < tokens;) shape.warps *= 2;
    shape.tokens_per_block = tokens;
  } else {
    const bool priced = launch.mode == RoutingMode::kPerToken;
    shape.warps = shape.rows > 16 ? 8 : most_grid_warps(slots, priced);
    shape.tokens_per_block = (tokens + kMostTokenBlocks - 1) / kMostTokenBlocks;
    if (shape.tokens_per_block < shape.warps) shape.tokens_per_block = shape.warps;
    shape.blocks = (tokens + shape.tokens_per_block - 1) / shape.tokens_per_block;
  }
  shape.words = (shape.tokens_per_block + 31) / 32;
  return shape;
}

template <int kSlots, bool kPriced>
cudaError_t enqueue_tokens(const RoutingLaunch& launch, const TokenShape& shape, void* workspace,
                           cudaStream_t stream) {
  const size_t bytes = carve_tokens(nullptr, shape, launch.input, kPriced, nullptr);
  const void* kernel = shape.blocks == 1
                           ? reinterpret_cast<const void*>(&routing_block_kernel<kSlots, kPriced>)
                           : reinterpret_cast<const void*>(&routing_grid_kernel<kSlots, kPriced>);
  const cudaError_t status = cudaFuncSetAttribute(
      kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
  if (status != cudaSuccess) return status;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(shape.blocks));
  config.blockDim = dim3(static_cast<unsigned>(shape.warps * 32));
  config.dynamicSmemBytes = bytes;
  config.stream = stream;
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeCooperative;
  attribute.val.cooperative = 1;
  if (shape.blocks == 1)
    return cudaLaunchKernelEx(&config, routing_block_kernel<kSlots, kPriced>, launch, shape);
  config.attrs = &attribute;
  config.numAttrs = 1;
  return cudaLaunchKernelEx(&config, routing_grid_kernel<kSlots, kPriced>, launch, shape,
                            static_cast<unsigned char*>(workspace));
}

template <bool kPriced>
cudaError_t enqueue_tokens_of(const RoutingLaunch& launch, void* workspace, cudaStream_t stream) {
  const TokenShape shape = token_shape(launch);
  if (slots_of_launch(launch) == 4)
    return enqueue_tokens<4, kPriced>(launch, shape, workspace, stream);
  return enqueue_tokens<16, kPriced>(launch, shape, workspace, stream);
}

bool good_input(const RouterInput& input) {
  return input.scores != nullptr && input.tokens >= 1 && input.experts >= 1 &&
         input.experts <= RoutingLaunch::kMostExperts && input.k >= 1 &&
         input.k <= RoutingLaunch::kMostSlots && input.k <= input.experts &&
         (input.row_stride == 0 || input.row_stride >= input.experts);
}

bool good_launch(const RoutingLaunch& launch) {
  const RouterOutput& out = launch.output;
  const int count = launch.instance_count();
  const bool laid_out = launch.instances.first != nullptr;
  const float power = launch.utility_power;
  return good_input(launch.input) && launch.input.tokens <= RoutingLaunch::kMostTokens &&
         count >= launch.input.experts && count <= RoutingLaunch::kMostInstances &&
         (laid_out ? launch.instances.expert != nullptr : count == launch.input.experts) &&
         (power == 1.0f || power == 1.5f || power == 2.0f) &&
         (launch.mode != RoutingMode::kBatch ||
          launch.input.tokens <= RoutingLaunch::kMostBatchTokens) &&
         out.ids && out.instances && out.weights && out.changed && out.offsets && out.packed &&
         out.report;
}

}  // namespace

size_t token_workspace_bytes(const RoutingLaunch& launch) {
  const TokenShape shape = token_shape(launch);
  return shape.blocks == 1 ? 0 : carve_token_workspace(nullptr, shape, nullptr);
}

cudaError_t launch_tokens(const RoutingLaunch& launch, void* workspace, cudaStream_t stream) {
  return launch.mode == RoutingMode::kPerToken
             ? enqueue_tokens_of<true>(launch, workspace, stream)
             : enqueue_tokens_of<false>(launch, workspace, stream);
}

size_t routing_workspace_bytes(const RoutingLaunch& launch) {
  return launch.mode == RoutingMode::kBatch ? batch_workspace_bytes(launch)
                                            : token_workspace_bytes(launch);
}

cudaError_t launch_routing(const RoutingLaunch& launch, void* workspace, size_t workspace_bytes,
                           cudaStream_t stream) {
  if (!good_launch(launch)) return cudaErrorInvalidValue;
  const size_t needed = routing_workspace_bytes(launch);
  if (workspace_bytes < needed || (needed > 0 && workspace == nullptr))
    return cudaErrorInvalidValue;
  return launch.mode == RoutingMode::kBatch ? launch_batch(launch, workspace, stream)
                                            : launch_tokens(launch, workspace, stream);
}

cudaError_t launch_top_k(const RouterInput& input, int32_t* ids, float* weights, int32_t* bad_token,
                         cudaStream_t stream) {
  if (!good_input(input) || ids == nullptr || weights == nullptr) return cudaErrorInvalidValue;
  constexpr int kWarps = 4;
  const unsigned blocks = static_cast<unsigned>((input.tokens + kWarps - 1) / kWarps);
  if (input.experts <= 128)
    routing_top_k_kernel<4><<<blocks, kWarps * 32, 0, stream>>>(input, ids, weights, bad_token);
  else
    routing_top_k_kernel<16><<<blocks, kWarps * 32, 0, stream>>>(input, ids, weights, bad_token);
  return cudaGetLastError();
}

}  // namespace thermoe::cuda
