// Each value is written once, from a hash of its number: the same on every GPU. A thread a value of
// logits, a stride of the grid for the rest.
#include "kernels/cuda/synthetic.h"

namespace thermoe::cuda {
namespace {

constexpr int kThreads = 256, kBlocks = 1024;

// The finaliser of MurmurHash3 (Appleby).
__device__ inline uint32_t hash(uint32_t x) {
  x ^= x >> 16;
  x *= 0x85EBCA6Bu;
  x ^= x >> 13;
  x *= 0xC2B2AE35u;
  return x ^ (x >> 16);
}

__device__ inline uint32_t hash(uint64_t number, uint32_t seed) {
  return hash(hash(static_cast<uint32_t>(number) ^ seed) + static_cast<uint32_t>(number >> 32));
}

// Four bytes of a word, each uniform of variance 1/12.
__device__ inline float about_normal(uint32_t word) {
  float sum = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) sum += static_cast<float>((word >> (8 * i)) & 255u);
  return (sum * (1.0f / 256) - 2.0f) * 1.7320508f;  // variance 4/12 to 1
}

__global__ void random_kernel(__nv_bfloat16* values, int64_t count, float deviation,
                              uint32_t seed) {
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; 2 * i < count; i += step) {
    const uint32_t first = hash(static_cast<uint64_t>(i), seed);
    reinterpret_cast<__nv_bfloat162*>(values)[i] = __floats2bfloat162_rn(
        deviation * about_normal(first), deviation * about_normal(hash(first ^ 0x9E3779B9u)));
  }
}

__global__ void bytes_kernel(uint8_t* values, int64_t count, int low, int span, uint32_t seed) {
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += step)
    values[i] = static_cast<uint8_t>(
        low + static_cast<int>(hash(static_cast<uint64_t>(i), seed) % static_cast<uint32_t>(span)));
}

__global__ void logits_kernel(RecordedLogits recorded, int layer, const int32_t* tokens,
                              const int32_t* positions, int experts, float* logits) {
  const int64_t row = blockIdx.x;
  const uint32_t which =
      hash(static_cast<uint32_t>(tokens[row]) * 0x9E3779B9u +
           static_cast<uint32_t>(positions[row]) * 0x85EBCA77u +
           static_cast<uint32_t>(row) * 0xC2B2AE3Du + static_cast<uint32_t>(layer) * 0x27D4EB2Fu);
  for (int e = static_cast<int>(threadIdx.x); e < experts; e += static_cast<int>(blockDim.x)) {
    const uint32_t from = hash(which + static_cast<uint32_t>(e / recorded.experts)) %
                          static_cast<uint32_t>(recorded.rows);
    logits[row * experts + e] =
        recorded
            .table[(int64_t{layer % recorded.layers} * recorded.rows + from) * recorded.experts +
                   e % recorded.experts];
  }
}

}  // namespace

cudaError_t fill_random(__nv_bfloat16* values, int64_t count, float deviation, uint32_t seed,
                        cudaStream_t stream) {
  if (count < 2 || count % 2 != 0) return cudaErrorInvalidValue;
  random_kernel<<<kBlocks, kThreads, 0, stream>>>(values, count, deviation, seed);
  return cudaGetLastError();
}

cudaError_t fill_random_bytes(uint8_t* values, int64_t count, int low, int high, uint32_t seed,
                              cudaStream_t stream) {
  if (count < 1 || low < 0 || high > 255 || low > high) return cudaErrorInvalidValue;
  bytes_kernel<<<kBlocks, kThreads, 0, stream>>>(values, count, low, high - low + 1, seed);
  return cudaGetLastError();
}

cudaError_t draw_logits(const RecordedLogits& recorded, int layer, const int32_t* tokens,
                        const int32_t* positions, int rows, int experts, float* logits,
                        cudaStream_t stream) {
  if (rows < 1 || experts < 1 || recorded.layers < 1 || recorded.rows < 1 || recorded.experts < 1)
    return cudaErrorInvalidValue;
  logits_kernel<<<static_cast<unsigned>(rows), 128, 0, stream>>>(recorded, layer, tokens, positions,
                                                                 experts, logits);
  return cudaGetLastError();
}

}  // namespace thermoe::cuda
