// The experts of a MoE layer for few tokens each, in one launch.
//
//   x [T, hidden] bf16; per expert gate, up [inter, hidden], down [hidden, inter], bf16 or nested
//   inner[pair] = silu(gate x) * up x   [pairs, inter] bf16       kUp jobs, a tile of units each
//   part[pair]  = down inner            [pairs, hidden] f32       kDown jobs, a tile of rows each
//   out[t]      = sum_slots weight * part                         kCombine jobs
//
// Grid: a block a multiprocessor; block b does the jobs with tickets b, b + grid, ...; all blocks
// have to fit on the device at once. Block: two teams of 8 warps multiply, a job each, the columns
// of a stage shared between a team's warps. What takes about as long as a tile has a warp of its
// own: two fetch weights, past what the products wait for; one waits for other blocks (kDown needs
// its expert's kUp) and fetches activations; one tells other blocks what is done. Shared memory: a
// ring of units (decode_tile.cuh), and Shared (decode_block.cuh).
// Bytes: each used expert's weights once (3 hidden inter times 2, 1.03 or 0.53), T hidden 2 in and
// out; inner and part stay in the L2 cache. FLOPs 6 hidden inter a pair.
// Tolerance: inner rounded to bf16, so 2^-8 of an output's terms; else f32 sums.
// Reference: tests/kernels/cuda/decode_experts_test.cpp (float64).
#include <algorithm>

#include "kernels/cuda/decode_fetch.cuh"
#include "kernels/cuda/decode_multiply.cuh"

namespace thermoe::cuda {
namespace {

__device__ void init_barriers(Shared& shared, int unit_count) {
  for (int i = 0; i < unit_count; ++i) {
    init_barrier(&shared.full[i], kCopyArrivals);
    shared.emptied[i] = 0;
  }
  for (int i = 0; i < kJobRing; ++i) {
    init_barrier(&shared.job_full[i], 2);  // fetcher and feeder
    init_barrier(&shared.job_empty[i], kMultiplyWarps);
  }
  for (int i = 0; i < kSignalRing; ++i) {
    for (int team = 0; team < kTeams; ++team) {
      init_barrier(&shared.written[team][i], kTeamWarps);
      init_barrier(&shared.signalled[team][i], 1);
    }
  }
  publish_barriers();
}

// The last block leaves the counters as the first found them.
__device__ void leave(const Workspace& workspace) {
  __syncthreads();
  bool last = false;
  if (threadIdx.x == 0) {
    __threadfence();
    last = atomicInc(reinterpret_cast<unsigned*>(workspace.exits), gridDim.x - 1) == gridDim.x - 1;
  }
  if (__syncthreads_or(last) == 0) return;
  for (int i = static_cast<int>(threadIdx.x); i < 2 * kMostInstances; i += kThreads)
    workspace.up_done[i] = 0;
}

__global__ void __launch_bounds__(kThreads, 1)
    decode_experts_kernel(const __grid_constant__ DecodeExpertsArguments arguments,
                          int unit_count) {
  extern __shared__ __align__(128) unsigned char memory[];
  Shared& shared = *reinterpret_cast<Shared*>(memory + unit_count * kUnitBytes);
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const Block block{arguments,
                    shared,
                    memory,
                    unit_count,
                    workspace_of(arguments),
                    static_cast<int>(threadIdx.x) % kWarp};
  if (threadIdx.x == 0) init_barriers(shared, unit_count);
  if (warp == kFetchWarp) fill_job_table(arguments, block.lane, shared.table);
  __syncthreads();
  if (warp < kMultiplyWarps)
    Multiplier{block, warp / kTeamWarps, warp % kTeamWarps,
               static_cast<int>(threadIdx.x) % kTeamThreads}
        .run();
  else if (warp < kFeedWarp)
    Fetcher{block, warp - kFetchWarp}.run();
  else if (warp == kFeedWarp)
    Feeder{block}.run();
  else if (block.lane == 0)
    Teller{block}.run();
  __syncwarp();
  leave(block.workspace);
}

bool valid(const DecodeExpertsArguments& a) {
  return a.tokens > 0 && a.k > 0 && a.hidden > 0 && a.inter > 0 && a.hidden % kGroup == 0 &&
         a.inter % kGroup == 0 && a.instances > 0 && a.instances <= kMostInstances &&
         int64_t{a.tokens} * a.k < (int64_t{1} << 31) / std::max(a.hidden, a.inter);
}

}  // namespace

size_t decode_experts_workspace(int tokens, int k, int hidden, int inter) {
  const size_t pairs = static_cast<size_t>(tokens) * static_cast<size_t>(k);
  return (64 + 2 * kMostInstances) * sizeof(int) + aligned(pairs * static_cast<size_t>(inter) * 2) +
         pairs * static_cast<size_t>(hidden) * 4;
}

cudaError_t decode_experts(const DecodeExpertsArguments& arguments, cudaStream_t stream) {
  if (!valid(arguments)) return cudaErrorInvalidValue;
  int device = 0, blocks = 0, shared_bytes = 0;
  cudaError_t status = cudaGetDevice(&device);
  if (status == cudaSuccess)
    status = cudaDeviceGetAttribute(&blocks, cudaDevAttrMultiProcessorCount, device);
  if (status == cudaSuccess)
    status = cudaDeviceGetAttribute(&shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  if (status != cudaSuccess) return status;
  const int room = (shared_bytes - static_cast<int>(kSharedBytes)) / kUnitBytes;
  const int units = std::min(kMostUnits, room);
  if (units < 6) return cudaErrorInvalidValue;
  const int bytes = units * kUnitBytes + static_cast<int>(kSharedBytes);
  status = cudaFuncSetAttribute(decode_experts_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                bytes);
  if (status != cudaSuccess) return status;
  decode_experts_kernel<<<blocks, kThreads, bytes, stream>>>(arguments, units);
  return cudaGetLastError();
}

}  // namespace thermoe::cuda
