// pack_plan: one block counts (pairs read once), then a warp an instance looks through all pairs
// for its own, 32 at a time: I * pairs / 32 loads, from the L2 cache. For evaluation; a decode
// step's plan is packed where it is made (routing.h).
// Reference: thermoe::pack (tests/kernels/cuda/plan_pack_test.cpp), exact.
#include "kernels/cuda/plan_pack.h"

namespace thermoe::cuda {
namespace {

constexpr int kThreads = 1024;

__global__ void __launch_bounds__(kThreads)
    count_kernel(const int32_t* plan_instances, int64_t pairs, int instances, int32_t* offsets) {
  __shared__ int32_t counts[kThreads];
  const int thread = static_cast<int>(threadIdx.x);
  counts[thread] = 0;
  __syncthreads();
  for (int64_t p = thread; p < pairs; p += kThreads)
    if (const int32_t i = plan_instances[p]; i >= 0 && i < instances) atomicAdd(&counts[i], 1);
  __syncthreads();
  for (int step = 1; step < kThreads; step *= 2) {
    const int32_t before = thread >= step ? counts[thread - step] : 0;
    __syncthreads();
    counts[thread] += before;
    __syncthreads();
  }
  if (thread < instances) offsets[thread + 1] = counts[thread];
  if (thread == 0) offsets[0] = 0;
}

__global__ void fill_kernel(const int32_t* plan_instances, int64_t pairs, int instances,
                            const int32_t* offsets, int32_t* packed) {
  const int instance = static_cast<int>((blockIdx.x * blockDim.x + threadIdx.x) / 32);
  const int lane = static_cast<int>(threadIdx.x % 32);
  if (instance >= instances) return;
  int32_t place = offsets[instance];
  const int32_t end = offsets[instance + 1];
  for (int64_t first = 0; first < pairs && place < end; first += 32) {
    const int64_t p = first + lane;
    const bool own = p < pairs && plan_instances[p] == instance;
    const unsigned who = __ballot_sync(~0u, own);
    if (own) packed[place + __popc(who & ((1u << lane) - 1))] = static_cast<int32_t>(p);
    place += __popc(who);
  }
}

__global__ void one_kernel(int rows, int32_t* instances, float* weights, int32_t* offsets,
                           int32_t* packed) {
  const int row = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (row < 2) offsets[row] = row * rows;
  if (row >= rows) return;
  instances[row] = 0;
  weights[row] = 1.0f;
  packed[row] = row;
}

}  // namespace

cudaError_t pack_plan(const int32_t* plan_instances, int64_t pairs, int instances, int32_t* offsets,
                      int32_t* packed, cudaStream_t stream) {
  if (pairs < 1 || pairs > INT32_MAX || instances < 1 || instances > kThreads)
    return cudaErrorInvalidValue;
  count_kernel<<<1, kThreads, 0, stream>>>(plan_instances, pairs, instances, offsets);
  constexpr int kBlock = 128;
  const auto blocks = static_cast<unsigned>((instances * 32 + kBlock - 1) / kBlock);
  fill_kernel<<<blocks, kBlock, 0, stream>>>(plan_instances, pairs, instances, offsets, packed);
  return cudaGetLastError();
}

cudaError_t plan_of_one(int rows, int32_t* instances, float* weights, int32_t* offsets,
                        int32_t* packed, cudaStream_t stream) {
  if (rows < 1) return cudaErrorInvalidValue;
  constexpr int kBlock = 256;
  one_kernel<<<static_cast<unsigned>((rows + kBlock - 1) / kBlock), kBlock, 0, stream>>>(
      rows, instances, weights, offsets, packed);
  return cudaGetLastError();
}

}  // namespace thermoe::cuda
