// bf16 weights to the prefill kernel's fp8: each value is read twice and written once. A warp a
// row.
#include <cuda_fp8.h>

#include "kernels/cuda/decode_tile.cuh"
#include "kernels/cuda/prefill_experts.h"

namespace thermoe::cuda {
namespace {

struct Packing {
  const __nv_bfloat16* from[2];  // rows for `data` and for `lo`: row 8 tile + r stands at
                                 // from + (tile * tile_rows + r) * columns
  uint8_t* to[2];
  float* scales;
  int tile_rows, tiles, columns;
  int used_tiles;  // the others are zero
};

// Which column of 32 stands at place `at` of fragment order: fragment_position()'s inverse.
__device__ inline int column_at(int at) {
  return at % 8 / 4 * 16 + at / 2 % 2 * 8 + at / 8 * 2 + at % 2;
}

__global__ void pack_fp8_kernel(const __grid_constant__ Packing p) {
  const int row = static_cast<int>((blockIdx.x * blockDim.x + threadIdx.x) / kWarp);
  if (row >= 16 * p.tiles) return;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int tile = row / 16, half = row / 8 % 2, r = row % 8;
  const bool used = tile < p.used_tiles;
  const __nv_bfloat16* from =
      p.from[half] + (int64_t{tile} * p.tile_rows + r) * (used ? p.columns : 0);
  float largest = 0;
  for (int c = lane; used && c < p.columns; c += kWarp)
    largest = fmaxf(largest, fabsf(__bfloat162float(from[c])));
#pragma unroll
  for (int step = 1; step < kWarp; step *= 2)
    largest = fmaxf(largest, __shfl_xor_sync(0xFFFFFFFFu, largest, step));
  const float inverse = largest > 0 ? 448.0f / largest : 0.0f;
  if (lane == 0) p.scales[row] = largest / 448.0f;
  const int blocks = padded_128(p.columns) / 128;
  uint8_t* to = p.to[half] + int64_t{tile} * blocks * 1024 + r * 128;
  for (int i = lane; i < blocks * 128; i += kWarp) {
    const int column = i / 32 * 32 + column_at(i % 32);
    const float value = used && column < p.columns ? __bfloat162float(from[column]) * inverse : 0;
    const int vector = i % 128 / 16;
    to[int64_t{i / 128} * 1024 + (vector ^ r) * 16 + i % 16] =
        __nv_cvt_float_to_fp8(value, __NV_SATFINITE, __NV_E4M3);
  }
}

cudaError_t pack(const Packing& packing, cudaStream_t stream) {
  if (packing.columns <= 0 || packing.columns % kGroup != 0) return cudaErrorInvalidValue;
  constexpr int kBlock = 256;
  pack_fp8_kernel<<<ceil_div(16 * packing.tiles * kWarp, kBlock), kBlock, 0, stream>>>(packing);
  return cudaGetLastError();
}

}  // namespace

cudaError_t pack_gate_up_fp8(const __nv_bfloat16* gate, const __nv_bfloat16* up, int hidden,
                             int inter, uint8_t* data, uint8_t* lo, float* scales,
                             cudaStream_t stream) {
  if (inter <= 0 || inter % kGroup != 0) return cudaErrorInvalidValue;
  return pack({{gate, up}, {data, lo}, scales, 8, padded_128(inter) / 8, hidden, inter / 8},
              stream);
}

cudaError_t pack_down_fp8(const __nv_bfloat16* down, int hidden, int inter, uint8_t* data,
                          uint8_t* lo, float* scales, cudaStream_t stream) {
  if (hidden <= 0 || hidden % kGroup != 0) return cudaErrorInvalidValue;
  return pack(
      {{down, down + int64_t{8} * inter}, {data, lo}, scales, 16, hidden / 16, inter, hidden / 16},
      stream);
}

}  // namespace thermoe::cuda
