// Products of one tile of weights with up to 8 NT tokens, as a warp of a block sees them: its
// blocks of 32 columns out of each stage. m16n8k16 on bf16, sums in f32.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "kernels/cuda/async_copy.cuh"
#include "kernels/cuda/decode_experts.h"

namespace thermoe::cuda {

// A stage is the columns of 32 groups, in units of shared memory: the weights' one or two, then one
// for each 8 tokens.
//   bf16   rows 0 to 7 of the tile | rows 8 to 15      a block of 512 bytes a group
//   int8   plane hi, at kUnitScales the scales | lo    likewise
//   int4   plane hi, at kUnitScales the scales
//   tokens 8 rows of activations, kRowBytes each       kRowPitch apart
constexpr int kGroup = 32;  // columns of a block of nested planes
constexpr int kStageGroups = 32;
constexpr int kBlockBytes = 512, kScaleBlockBytes = 32;
constexpr int kRowBytes = kStageGroups * kGroup * 2;
constexpr int kRowPitch = kRowBytes + 64;  // 64 modulo 128: no bank conflicts
constexpr int kUnitScales = kStageGroups * kBlockBytes;
constexpr int kUnitBytes = kUnitScales + kStageGroups * kScaleBlockBytes;
static_assert(kUnitBytes >= 8 * kRowPitch);

__host__ __device__ constexpr int ceil_div(int a, int b) { return (a + b - 1) / b; }

__host__ __device__ constexpr int weight_units(ExpertForm form) {
  return form == ExpertForm::kInt4 ? 1 : 2;
}
// Token tiles, of 8 tokens each, that a job's products have.
__device__ inline int token_tiles(int count) { return count <= 8 ? 1 : 2; }

// Of 16 rows by 8 tokens, a thread (g, t) = (lane / 4, lane % 4) holds rows g (0, 1) and g + 8
// (2, 3), tokens 2t (0, 2) and 2t + 1 (1, 3).
struct Accumulator {
  float v[4] = {0, 0, 0, 0};
};

__device__ inline void multiply_add(Accumulator& d, const uint32_t (&a)[4], uint32_t b0,
                                    uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d.v[0]), "+f"(d.v[1]), "+f"(d.v[2]), "+f"(d.v[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// A thread's activations of a group: columns 8t .. 8t + 7 of token g, in fragment order.
using Activations = uint4;

// Columns 8t .. 8t + 7, in fragment order, of row g of a unit.
__device__ inline Activations load_rows(const unsigned char* unit, int group, int lane) {
  return *reinterpret_cast<const uint4*>(unit + (lane / 4) * kRowPitch + group * 64 +
                                         (lane % 4) * 16);
}

// Where column c of a group stands in fragment order, in which a thread's 8 values are what
// m16n8k16 wants of two column tiles: columns 2t, 2t + 1, 2t + 8, 2t + 9 of each.
__device__ inline int fragment_position(int c) {
  const int tile = c / 16, half = c / 8 % 2, t = c % 8 / 2, odd = c % 2;
  return 8 * t + 4 * tile + 2 * half + odd;
}

// Where in a block of bf16 weights lane (g, t)'s vector stands: wgmma's swizzle of 64 bytes, so
// that the prefill kernel reads the same weights. Its own inverse.
__host__ __device__ constexpr int swizzled(int lane) { return lane ^ (lane >> 3); }

// bf16: rows g and g + 8.
template <int NT>
__device__ inline void multiply_bf16(const unsigned char* upper_unit,
                                     const unsigned char* lower_unit, int group, int lane,
                                     const Activations (&x)[NT], Accumulator (&sum)[1][NT]) {
  const int at = group * kBlockBytes + swizzled(lane) * 16;
  const uint4 upper = *reinterpret_cast<const uint4*>(upper_unit + at);
  const uint4 lower = *reinterpret_cast<const uint4*>(lower_unit + at);
  const uint32_t first[4] = {upper.x, lower.x, upper.y, lower.y};
  const uint32_t second[4] = {upper.z, lower.z, upper.w, lower.w};
#pragma unroll
  for (int n = 0; n < NT; ++n) {
    multiply_add(sum[0][n], first, x[n].x, x[n].y);
    multiply_add(sum[0][n], second, x[n].z, x[n].w);
  }
}

// Nibbles v + 8 of a word as bf16 128 + (v + 8): exact. One instruction ANDs with a literal and ORs
// with a register, if the compiler can't tell that the register, too, is a constant.
__device__ inline uint32_t exponents_of_128() {
  uint32_t value;
  asm volatile("mov.b32 %0, 0x43004300;" : "=r"(value));
  return value;
}
__device__ inline void unpack(uint32_t word, uint32_t exponents, uint32_t (&a)[4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i)
    asm("lop3.b32 %0, %1, 0x000F000F, %2, 0xEA;"
        : "=r"(a[i])
        : "r"(word >> (4 * i)), "r"(exponents));
}

// A block's scales of rows g, g + 8 (first) and g + 16, g + 24 (second), times 2^-12: their code is
// binary16's, with fewer bits.
__device__ inline void decode_scales(uint32_t codes, float2 (&scales)[2]) {
#pragma unroll
  for (int m = 0; m < 2; ++m) {
    const uint32_t pair = codes >> (8 * m);  // bytes 0 and 2, then 1 and 3
    const uint32_t halves = ((pair & 0x007F007Fu) << 6) | ((pair & 0x00800080u) << 8);
    scales[m] = __half22float2(*reinterpret_cast<const __half2*>(&halves));
  }
}
constexpr float kScaleUnit = 4096.0f;  // 2^12

__device__ inline void scale_add(Accumulator& sum, const Accumulator& part, float2 scale) {
  sum.v[0] = fmaf(scale.x, part.v[0], sum.v[0]);
  sum.v[1] = fmaf(scale.x, part.v[1], sum.v[1]);
  sum.v[2] = fmaf(scale.y, part.v[2], sum.v[2]);
  sum.v[3] = fmaf(scale.y, part.v[3], sum.v[3]);
}

// Nested planes: 32 rows. Nibbles stay biased by 136, which the products begin at minus 136 times
// the group's sum of activations undo: that sum, too, is a product, with a constant.
template <bool Both, int NT>
__device__ inline void multiply_nested(const unsigned char* hi_unit, const unsigned char* lo_unit,
                                       int group, int lane, float ratio, uint32_t exponents,
                                       const Activations (&x)[NT], Accumulator (&sum)[2][NT]) {
  constexpr uint32_t kMinus136 = 0xC308C308u;
  constexpr uint32_t bias[4] = {kMinus136, kMinus136, kMinus136, kMinus136};
  const int at = group * kBlockBytes + lane * 16;
  const uint4 hi = *reinterpret_cast<const uint4*>(hi_unit + at);
  const uint4 lo = Both ? *reinterpret_cast<const uint4*>(lo_unit + at) : uint4{};
  float2 scales[2];
  decode_scales(*reinterpret_cast<const uint32_t*>(hi_unit + kUnitScales +
                                                   group * kScaleBlockBytes + (lane / 4) * 4),
                scales);
  Accumulator start[NT];
#pragma unroll
  for (int n = 0; n < NT; ++n) {
    multiply_add(start[n], bias, x[n].x, x[n].y);
    multiply_add(start[n], bias, x[n].z, x[n].w);
  }
#pragma unroll
  for (int m = 0; m < 2; ++m) {
    uint32_t a[4], b[4];
    unpack(m == 0 ? hi.x : hi.y, exponents, a);
    unpack(m == 0 ? hi.z : hi.w, exponents, b);
    uint32_t c[4], d[4];
    if constexpr (Both) {
      unpack(m == 0 ? lo.x : lo.y, exponents, c);
      unpack(m == 0 ? lo.z : lo.w, exponents, d);
    }
#pragma unroll
    for (int n = 0; n < NT; ++n) {
      Accumulator part = start[n];
      multiply_add(part, a, x[n].x, x[n].y);
      multiply_add(part, b, x[n].z, x[n].w);
      if constexpr (Both) {
        Accumulator fine = start[n];
        multiply_add(fine, c, x[n].x, x[n].y);
        multiply_add(fine, d, x[n].z, x[n].w);
#pragma unroll
        for (int i = 0; i < 4; ++i) part.v[i] = fmaf(ratio, part.v[i], fine.v[i]);
      }
      scale_add(sum[m][n], part, scales[m]);
    }
  }
}

}  // namespace thermoe::cuda
