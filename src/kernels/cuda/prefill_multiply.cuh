// The warpgroups of a block of the prefill kernel that multiply, 64 pairs by 256 rows each, and
// what becomes of the sums.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp8.h>

#include "kernels/cuda/prefill_tiles.cuh"

namespace thermoe::cuda {

#if THERMOE_WGMMA

constexpr float kLargestFp8 = 448.0f;

// Two approximate instructions of the special function unit: a good part of the epilogue's time.
__device__ inline float silu_times(float gate, float up) {
  constexpr float kLog2e = 1.4426950408889634f;
  float exponential, inverse;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(exponential) : "f"(gate * -kLog2e));
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(1.0f + exponential));
  return gate * up * inverse;
}
__device__ inline uint32_t bf16_pair(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&pair);
}
__device__ inline uint32_t fp8_pair(float low, float high) {
  return __nv_cvt_float2_to_fp8x2(make_float2(low, high), __NV_SATFINITE, __NV_E4M3);
}

template <bool Up, bool Fp8>
struct Multiplying {
  const Product& product;
  PrefillShared& shared;
  int group, warp, lane;  // group: which of the warpgroups; warp: in it
  RingPlace place;
  int row[2];  // of the result, for this thread's pairs; -1 where there is none

  // This warp has no more use for a stage; both blocks must hear of it, as either may fill it. Only
  // this block's own gatherers overwrite what was not read by products: the scales.
  __device__ void release(int stage) const {
    __syncwarp();
    if (lane == 0) arrive(&shared.empty[stage]);
    if (lane == 1) arrive_at(&shared.empty[stage], (blockIdx.x + 1) % kClusterBlocks);
  }
  __device__ void await_stage() const {
    wait(&shared.full[place.stage], place.round);
    order_with_products();
  }
  __device__ uint64_t tokens_operand() const {
    return operand<Swizzle::k128Bytes>(shared.stages[place.stage].tokens +
                                       group * 64 * kStageBytes);
  }

  __device__ void warpgroup_barrier() const {
    asm volatile("bar.sync %0, %1;" ::"r"(1 + group), "n"(kWarpgroup) : "memory");
  }

  __device__ void prepare(const Tile& tile);
  __device__ void skip();
  __device__ void multiply_bf16(float (&sums)[128]);
  __device__ void multiply_fp8(float (&sums)[128]);
  __device__ void scale_rows(float (&sums)[128]) const;
  __device__ void write_bf16(const Tile& tile, const float (&sums)[128]) const;
  __device__ void write_inner_fp8(const Tile& tile, float (&sums)[128]) const;
  __device__ void run();
};

// Fetches, while the products are under way, what the result will want.
template <bool Up, bool Fp8>
__device__ void Multiplying<Up, Fp8>::prepare(const Tile& tile) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int pair = 64 * group + 16 * warp + lane / 4 + 8 * half;
    row[half] = pair >= tile.pairs ? -1 : tile.first + pair;
    if (!Up && row[half] >= 0) row[half] = product.packed[row[half]];
  }
  if constexpr (Fp8) {
    warpgroup_barrier();  // the tile before is scaled
    const int first = 2 * (kWarp * warp + lane);
    const DeviceExpert& expert = product.experts[tile.instance];
    const float* scales =
        reinterpret_cast<const float*>((Up ? expert.gate_up : expert.down).scales);
    if (first < 8 * tile.pieces)
      copy_words(&shared.row_scales[group][first], scales + tile.row + first);
  }
}

// Past a tile in which this warpgroup has no pairs.
template <bool Up, bool Fp8>
__device__ void Multiplying<Up, Fp8>::skip() {
  for (int left = product.row_bytes; left > 0; left -= kStageBytes) {
    wait(&shared.full[place.stage], place.round);
    release(place.stage);
    place.advance();
  }
}

// While one warpgroup waits for its products the other's are under way.
template <bool Up, bool Fp8>
__device__ void Multiplying<Up, Fp8>::multiply_bf16(float (&sums)[128]) {
  const int blocks = product.row_bytes / kStageBytes;
  const bool half = product.row_bytes % kStageBytes != 0;  // of a last stage
  pin(sums);
#pragma unroll 1
  for (int block = 0; block < blocks; ++block) {
    await_stage();
    const uint64_t a = tokens_operand();
    const uint64_t b = operand<Swizzle::k64Bytes>(shared.stages[place.stage].weights);
    begin_products();
#pragma unroll
    for (int step = 0; step < 4; ++step)
      multiply_bf16_256(sums, advanced(a, 32 * step), advanced(b, step / 2 * 512 + step % 2 * 32),
                        block > 0 || step > 0);
    commit_products();
    wait_for_products<0>();
    release(place.stage);
    place.advance();
  }
  pin(sums);
  if (!half) return;
  await_stage();
  begin_products();
#pragma unroll
  for (int step = 0; step < 2; ++step)
    multiply_bf16_256(
        sums, advanced(tokens_operand(), 32 * step),
        advanced(operand<Swizzle::k64Bytes>(shared.stages[place.stage].weights), 32 * step),
        blocks > 0 || step > 0);
  commit_products();
  wait_for_products<0>();
  pin(sums);
  release(place.stage);
  place.advance();
}

// The tensor cores' sums of fp8 products have some 14 bits, so 128 columns at a time join f32 sums,
// times their activations' scale; 128 rows at a time, for want of registers, while the other
// warpgroup multiplies.
template <bool Up, bool Fp8>
__device__ void Multiplying<Up, Fp8>::multiply_fp8(float (&sums)[128]) {
  const int blocks = product.row_bytes / kStageBytes;
#pragma unroll
  for (float& sum : sums) sum = 0;
#pragma unroll 1
  for (int block = 0; block < blocks; ++block) {
    await_stage();
    const float* scales = &shared.scales[place.stage][64 * group + 16 * warp + lane / 4];
    const float scale[2] = {scales[0], scales[8]};
    const uint64_t a = tokens_operand();
    const uint64_t b = operand<Swizzle::k128Bytes>(shared.stages[place.stage].weights);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float part[64];
      pin(part);
      begin_products();
#pragma unroll
      for (int step = 0; step < 4; ++step)
        multiply_fp8_128(part, advanced(a, 32 * step), advanced(b, half * 16 * kPiece + 32 * step),
                         step > 0);
      commit_products();
      wait_for_products<0>();
      pin(part);
      if (half == 1) release(place.stage);
#pragma unroll
      for (int i = 0; i < 64; ++i)
        sums[64 * half + i] = fmaf(scale[i / 2 % 2], part[i], sums[64 * half + i]);
    }
    place.advance();
  }
}

template <bool Up, bool Fp8>
__device__ void Multiplying<Up, Fp8>::scale_rows(float (&sums)[128]) const {
  wait_for_copies();
  warpgroup_barrier();
  const float* scales = &shared.row_scales[group][2 * (lane % 4)];
#pragma unroll
  for (int piece = 0; piece < kTilePieces; ++piece) {
    const float2 scale = *reinterpret_cast<const float2*>(scales + 8 * piece);
    sums[4 * piece] *= scale.x;
    sums[4 * piece + 1] *= scale.y;
    sums[4 * piece + 2] *= scale.x;
    sums[4 * piece + 3] *= scale.y;
  }
}

// What a thread has of 32 columns of the result is, in fragment order, 16 contiguous bytes.
template <bool Up, bool Fp8>
__device__ void Multiplying<Up, Fp8>::write_bf16(const Tile& tile, const float (&sums)[128]) const {
  constexpr int kPieces = Up ? 2 : 1;  // a unit of inner takes a row of gate and one of up
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    if (row[half] < 0) continue;
    const int column = tile.row / kPieces;
    uint8_t* to =
        product.out + (int64_t{row[half]} * product.out_columns + column) * 2 + lane % 4 * 16;
#pragma unroll
    for (int part = 0; part < kTilePieces / kPieces / 4; ++part) {
      if (column + 32 * part >= product.out_columns) break;
      uint32_t words[4];
#pragma unroll
      for (int word = 0; word < 4; ++word) {
        const float* from = &sums[(4 * part + word) * kPieces * 4 + 2 * half];
        words[word] = Up ? bf16_pair(silu_times(from[0], from[4]), silu_times(from[1], from[5]))
                         : bf16_pair(from[0], from[1]);
      }
      *reinterpret_cast<uint4*>(to + 64 * part) = {words[0], words[1], words[2], words[3]};
    }
  }
}

// A tile's 128 units of a pair have one scale.
template <bool Up, bool Fp8>
__device__ void Multiplying<Up, Fp8>::write_inner_fp8(const Tile& tile, float (&sums)[128]) const {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float largest = 0;
#pragma unroll
    for (int i = 0; i < 16; ++i) {
#pragma unroll
      for (int odd = 0; odd < 2; ++odd) {
        float& value = sums[8 * i + 2 * half + odd];
        value = silu_times(value, sums[8 * i + 4 + 2 * half + odd]);
        largest = fmaxf(largest, fabsf(value));
      }
    }
    largest = fmaxf(largest, __shfl_xor_sync(0xFFFFFFFFu, largest, 1));
    largest = fmaxf(largest, __shfl_xor_sync(0xFFFFFFFFu, largest, 2));
    const float inverse = largest > 0 ? kLargestFp8 / largest : 0.0f;
    if (row[half] < 0) continue;
    const int column = tile.row / 2;
    if (lane % 4 == 0)
      product.out_scales[int64_t{row[half]} * (product.out_columns / 128) + column / 128] =
          largest / kLargestFp8;
    uint8_t* to = product.out + int64_t{row[half]} * product.out_columns + column + lane % 4 * 8;
#pragma unroll
    for (int part = 0; part < 4; ++part) {
      uint32_t pairs[4];
#pragma unroll
      for (int word = 0; word < 4; ++word) {
        const float* from = &sums[8 * (4 * part + word) + 2 * half];
        pairs[word] = fp8_pair(from[0] * inverse, from[1] * inverse);
      }
      *reinterpret_cast<uint2*>(to + 32 * part) = {pairs[0] | pairs[1] << 16,
                                                   pairs[2] | pairs[3] << 16};
    }
  }
}

template <bool Up, bool Fp8>
__device__ void Multiplying<Up, Fp8>::run() {
  TileCursor tiles(product, shared);
  for (Tile tile; tiles.next(tile);) {
    if (tile.pieces == 0 || tile.pairs <= 64 * group) {
      skip();
      continue;
    }
    prepare(tile);
    float sums[128];
    if constexpr (Fp8) {
      multiply_fp8(sums);
      scale_rows(sums);
    } else {
      multiply_bf16(sums);
    }
    if constexpr (Up && Fp8)
      write_inner_fp8(tile, sums);
    else
      write_bf16(tile, sums);
  }
}

#endif  // THERMOE_WGMMA

}  // namespace thermoe::cuda
