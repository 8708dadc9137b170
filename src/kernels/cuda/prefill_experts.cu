// The experts of a MoE layer for many tokens each: two grouped products and the weighted sum.
//
//   x [T, hidden] bf16; per expert gate, up [inter, hidden], down [hidden, inter], bf16 or fp8
//   inner[p] = silu(gate x) * up x    [packed pairs, inter] bf16 or fp8, in fragment order
//   part[pair] = down inner           [pairs, hidden] bf16, in fragment order
//   out[t] = sum_slots weight * part  f32 sums
//
// Products. Grid: clusters of two blocks, a block a multiprocessor, cluster c does items c, c +
// clusters, ... (prefill_tiles.cuh): 128 pairs by 256 rows a block. Block: a warpgroup that fills
// a ring of 4 stages of 48 KB in shared memory, each 128 bytes of every row, and two that
// multiply, 64 pairs each. No product waits for the host: the table of items is made on the device.
// Bytes: each used expert's weights, and its tokens' rows, once from memory and, for each tile,
// from the L2 cache (half the weights' where two tiles share them); inner and part written and
// read. FLOPs 6 hidden inter a pair. Tolerance: bf16: inner and part rounded to bf16, 2^-8 of an
// output's terms; fp8: measured in the test, 5 % of random weights' outputs. Reference:
// tests/kernels/cuda/prefill_experts_test.cpp.
#include <algorithm>

#include "kernels/cuda/decode_block.cuh"
#include "kernels/cuda/prefill_gather.cuh"
#include "kernels/cuda/prefill_launch.h"
#include "kernels/cuda/prefill_multiply.cuh"

namespace thermoe::cuda {
namespace {

// Where the kernel's code is empty its bound says so (compiled_for_device()).
#if !defined(__CUDA_ARCH__) || THERMOE_WGMMA
#define THERMOE_PREFILL_BOUNDS __launch_bounds__(kPrefillThreads, 1)
#else
#define THERMOE_PREFILL_BOUNDS __launch_bounds__(kWarp, 1)
#endif

// Of the multiprocessor's 65,536 registers; multiples of 8.
constexpr int kGatherRegisters = 56, kMultiplyRegisters = 224;
static_assert(kWarpgroup * (kGatherRegisters + kConsumers * kMultiplyRegisters) <= 65536);

template <bool Up, bool Fp8>
__global__ void THERMOE_PREFILL_BOUNDS product_kernel(const __grid_constant__ Product product) {
#if THERMOE_WGMMA
  extern __shared__ __align__(1024) unsigned char memory[];
  PrefillShared& shared = *reinterpret_cast<PrefillShared*>(memory);
  const int group = static_cast<int>(threadIdx.x) / kWarpgroup;
  const int warp = static_cast<int>(threadIdx.x) % kWarpgroup / kWarp;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  let_next_kernel_start();
  if (threadIdx.x == 0) {
    for (int i = 0; i < kPrefillStages; ++i) {
      init_barrier(&shared.full[i], 1 + kWarpgroup);
      init_barrier(&shared.empty[i], kClusterBlocks * kConsumers * kWarpgroup / kWarp);
    }
    publish_barriers();
  }
  if (group == 1 && warp == 0)
    fill_items(product, Fp8 ? ExpertForm::kFp8 : ExpertForm::kBf16, lane, shared);
  cluster_barrier();
  wait_for_kernel_before();
  if (group == kConsumers) {
    shrink_registers<kGatherRegisters>();
    Gatherer<Up, Fp8>{product, shared, warp, lane, {}, {}, 0, nullptr, nullptr, 0}.run();
  } else {
    grow_registers<kMultiplyRegisters>();
    Multiplying<Up, Fp8>{product, shared, group, warp, lane, {}, {}}.run();
  }
  cluster_barrier();  // the other block may still write here
#endif
}

template <bool Up, bool Fp8>
cudaError_t launch_product(const Product& product, int clusters, bool follows,
                           cudaStream_t stream) {
  constexpr int kBytes = sizeof(PrefillShared);
  cudaError_t status = cudaFuncSetAttribute(product_kernel<Up, Fp8>,
                                            cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
  if (status != cudaSuccess) return status;
  cudaLaunchAttribute attributes[2];
  attributes[0].id = cudaLaunchAttributeClusterDimension;
  attributes[0].val.clusterDim = {kClusterBlocks, 1, 1};
  attributes[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[1].val.programmaticStreamSerializationAllowed = follows ? 1 : 0;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(clusters * kClusterBlocks));
  config.blockDim = dim3(kPrefillThreads);
  config.dynamicSmemBytes = kBytes;
  config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = 2;
  return cudaLaunchKernelEx(&config, product_kernel<Up, Fp8>, product);
}

// Whether the kernels' code for this device has wgmma.
cudaError_t compiled_for_device(bool& compiled) {
  cudaFuncAttributes attributes;
  const cudaError_t status = cudaFuncGetAttributes(&attributes, product_kernel<true, false>);
  compiled = status == cudaSuccess && attributes.maxThreadsPerBlock >= kPrefillThreads;
  return status;
}

struct PrefillWorkspace {
  uint8_t *inner, *part, *x;
  float *inner_scales, *x_scales;
};

// Behind what decode_experts() wants to find zero.
PrefillWorkspace prefill_workspace_of(std::byte* workspace, int64_t tokens, int64_t k, int hidden,
                                      int inter, size_t& bytes) {
  bytes = aligned((64 + 2 * kMostInstances) * sizeof(int));
  const auto take = [&](int64_t size) {
    uint8_t* at = reinterpret_cast<uint8_t*>(workspace) + bytes;
    bytes += aligned(static_cast<size_t>(size));
    return at;
  };
  const int64_t pairs = tokens * k, units = padded_128(inter), columns = padded_128(hidden);
  PrefillWorkspace all = {};
  all.inner = take(pairs * std::max<int64_t>(2 * inter, units));
  all.part = take(pairs * hidden * 2);
  all.x = take(tokens * columns);
  all.inner_scales = reinterpret_cast<float*>(take(pairs * units / 32));
  all.x_scales = reinterpret_cast<float*>(take(tokens * columns / 32));
  return all;
}

template <bool Fp8>
cudaError_t launch_form(const PrefillExpertsArguments& a, const PrefillWorkspace& workspace,
                        int clusters, bool follows, cudaStream_t stream) {
  const int units = Fp8 ? padded_128(a.inter) : a.inter;
  Product up = {};
  up.experts = a.experts;
  up.offsets = a.offsets;
  up.packed = a.packed;
  up.instances = a.instances;
  up.k = a.k;
  Product down = up;
  up.rows = 2 * units;
  up.row_bytes = Fp8 ? padded_128(a.hidden) : 2 * a.hidden;
  up.activations = Fp8 ? workspace.x : reinterpret_cast<const uint8_t*>(a.x);
  up.activation_scales = workspace.x_scales;
  up.out = workspace.inner;
  up.out_scales = workspace.inner_scales;
  up.out_columns = units;
  down.rows = a.hidden;
  down.row_bytes = Fp8 ? units : 2 * units;
  down.activations = workspace.inner;
  down.activation_scales = workspace.inner_scales;
  down.out = workspace.part;
  down.out_columns = a.hidden;
  cudaError_t status = cudaSuccess;
  if (Fp8) {
    status = quantize_tokens_fp8(a.x, a.tokens, a.hidden, workspace.x, workspace.x_scales, follows,
                                 stream);
    follows = true;
  }
  if (status == cudaSuccess) status = launch_product<true, Fp8>(up, clusters, follows, stream);
  if (status == cudaSuccess) status = launch_product<false, Fp8>(down, clusters, true, stream);
  return status;
}

bool valid(const PrefillExpertsArguments& a) {
  return a.tokens > 0 && a.tokens <= kMostPrefillTokens && a.k > 0 && a.k <= kMostPrefillSlots &&
         a.hidden > 0 && a.inter > 0 && a.hidden % 32 == 0 && a.inter % 32 == 0 &&
         a.instances > 0 && a.instances <= kMostInstances &&
         std::max(a.hidden, a.inter) <= (1 << 20) &&
         int64_t{a.tokens} * a.k * padded_128(std::max(a.hidden, a.inter)) / 8 < (int64_t{1} << 31);
}

}  // namespace

size_t prefill_experts_workspace(int tokens, int k, int hidden, int inter) {
  size_t bytes = 0;
  prefill_workspace_of(nullptr, tokens, k, hidden, inter, bytes);
  return std::max(bytes, decode_experts_workspace(tokens, k, hidden, inter));
}

cudaError_t prefill_experts(const PrefillExpertsArguments& arguments, PrefillForms forms,
                            cudaStream_t stream) {
  const bool bf16 = (static_cast<int>(forms) & static_cast<int>(PrefillForms::kBf16)) != 0;
  const bool fp8 = (static_cast<int>(forms) & static_cast<int>(PrefillForms::kFp8)) != 0;
  if (!valid(arguments) || !(bf16 || fp8)) return cudaErrorInvalidValue;
  bool compiled = false;
  cudaError_t status = compiled_for_device(compiled);
  if (status != cudaSuccess) return status;
  if (!compiled) return fp8 ? cudaErrorNotSupported : decode_experts(arguments, stream);
  int device = 0, blocks = 0;
  status = cudaGetDevice(&device);
  if (status == cudaSuccess)
    status = cudaDeviceGetAttribute(&blocks, cudaDevAttrMultiProcessorCount, device);
  if (status != cudaSuccess) return status;
  const int clusters = std::max(1, blocks / kClusterBlocks);
  size_t bytes = 0;
  const PrefillWorkspace workspace = prefill_workspace_of(
      arguments.workspace, arguments.tokens, arguments.k, arguments.hidden, arguments.inter, bytes);
  if (bf16) status = launch_form<false>(arguments, workspace, clusters, false, stream);
  if (fp8 && status == cudaSuccess)
    status = launch_form<true>(arguments, workspace, clusters, bf16, stream);
  if (status == cudaSuccess)
    status = combine_parts(arguments, static_cast<int>(forms), workspace.part, stream);
  return status;
}

}  // namespace thermoe::cuda
