// bf16 weights and activations to the order in which the decode kernel reads them: each value is
// read and written once, no arithmetic. A thread a vector of 8 values.
#include "kernels/cuda/decode_tile.cuh"

namespace thermoe::cuda {
namespace {

// Vector i of a row in fragment order: 4 words of 2 values, each from its place.
__device__ inline uint4 fragment(const uint32_t* row, int i) {
  const uint32_t* group = row + i / 4 * 16 + i % 4;
  return {group[0], group[4], group[8], group[12]};
}

__global__ void fragments_kernel(const uint32_t* x, uint4* fragments, int vectors) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < vectors) fragments[i] = fragment(x, i);
}

// A thread a vector of the result: both halves are [tiles, groups, 32 vectors].
__global__ void pack_kernel(const uint32_t* upper, const uint32_t* lower, int64_t tile_words,
                            int64_t vectors, int groups, uint4* to_upper, uint4* to_lower) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= vectors) return;
  const int lane = swizzled(static_cast<int>(i % kWarp));  // whose operand stands here
  const int group = static_cast<int>(i / kWarp % groups);
  const int64_t row = i / kWarp / groups * tile_words + int64_t{lane / 4} * groups * (kGroup / 2);
  to_upper[i] = fragment(upper + row, 4 * group + lane % 4);
  to_lower[i] = fragment(lower + row, 4 * group + lane % 4);
}

cudaError_t pack(const __nv_bfloat16* upper, const __nv_bfloat16* lower, int tile_rows, int tiles,
                 int cols, uint8_t* to_upper, uint8_t* to_lower, cudaStream_t stream) {
  if (tiles <= 0 || cols <= 0 || cols % kGroup != 0) return cudaErrorInvalidValue;
  constexpr int kBlock = 256;
  const int groups = cols / kGroup;
  const int64_t vectors = int64_t{tiles} * groups * kWarp;
  const auto blocks = static_cast<unsigned>((vectors + kBlock - 1) / kBlock);
  pack_kernel<<<blocks, kBlock, 0, stream>>>(
      reinterpret_cast<const uint32_t*>(upper), reinterpret_cast<const uint32_t*>(lower),
      int64_t{tile_rows} * cols / 2, vectors, groups, reinterpret_cast<uint4*>(to_upper),
      reinterpret_cast<uint4*>(to_lower));
  return cudaGetLastError();
}

}  // namespace

cudaError_t to_fragment_order(const __nv_bfloat16* x, __nv_bfloat16* fragments, int64_t count,
                              cudaStream_t stream) {
  if (count <= 0 || count % kGroup != 0 || count / 8 > (int64_t{1} << 30))
    return cudaErrorInvalidValue;
  constexpr int kBlock = 256;
  const int vectors = static_cast<int>(count / 8);
  fragments_kernel<<<ceil_div(vectors, kBlock), kBlock, 0, stream>>>(
      reinterpret_cast<const uint32_t*>(x), reinterpret_cast<uint4*>(fragments), vectors);
  return cudaGetLastError();
}

cudaError_t pack_gate_up(const __nv_bfloat16* gate, const __nv_bfloat16* up, int hidden, int inter,
                         uint8_t* data, uint8_t* lo, cudaStream_t stream) {
  if (inter % 8 != 0) return cudaErrorInvalidValue;
  return pack(gate, up, 8, inter / 8, hidden, data, lo, stream);
}

cudaError_t pack_down(const __nv_bfloat16* down, int hidden, int inter, uint8_t* data, uint8_t* lo,
                      cudaStream_t stream) {
  if (hidden % 16 != 0) return cudaErrorInvalidValue;
  return pack(down, down + int64_t{8} * inter, 16, hidden / 16, inter, data, lo, stream);
}

}  // namespace thermoe::cuda
