// attend(): a warp a unit of up to 16 query rows (rows of a sequence times the query heads that
// share a KV head) and a KV head; with `split` 8 warps share the keys of one unit, 32 positions in
// turn, and join their sums in shared memory (64 KB at head_dim 128).
//   bytes: keys and values of the unit's context, 4 head_dim a position, from the L1 cache where
//          neighbouring warps work on one sequence; FLOPs: 4 * 16 * head_dim a position and unit,
//          of which the unit's own rows are worth something
// Reference and tolerance: tests/kernels/cuda/attention_test.cpp (float64).
#include <algorithm>

#include "kernels/cuda/attention.h"
#include "kernels/cuda/decode_tile.cuh"

namespace thermoe::cuda {
namespace {

constexpr int kSplitWarps = 8, kUnitWarps = 4;
constexpr int kTileKeys = 32;

// A thread's part of a warp's sums: rows g and g + 8, of each 8 dimensions 2t and 2t + 1.
template <int Dim>
struct Sums {
  Accumulator out[Dim / 8];
  float most[2] = {-INFINITY, -INFINITY};  // of the scores, times log2(e)
  float total[2] = {0, 0};                 // this thread's share until reduced
};

struct Place {
  const AttentionArguments* a;
  AttentionUnit unit;
  int kv_head, group;  // query heads of a KV head
  // The batch row and query head of query row m; row -1: none.
  __device__ int row_of(int m) const {
    return m < unit.count * group ? a->order[unit.begin + m / group] : -1;
  }
  __device__ int head_of(int m) const { return kv_head * group + m % group; }
};

template <int Dim>
__device__ void load_queries(const Place& place, int lane, uint4 (&q)[Dim / 32][2]) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int m = lane / 4 + 8 * half, row = place.row_of(m);
    const __nv_bfloat16* from =
        place.a->queries + (int64_t{row} * place.a->heads + place.head_of(m)) * Dim;
#pragma unroll
    for (int d = 0; d < Dim / 32; ++d)
      q[d][half] =
          row < 0 ? uint4{} : *reinterpret_cast<const uint4*>(from + 32 * d + 8 * (lane % 4));
  }
}

template <int Dim>
__device__ void score_keys(const uint4 (&q)[Dim / 32][2], const __nv_bfloat16* keys, int lane,
                           Accumulator (&scores)[4]) {
#pragma unroll
  for (int n = 0; n < 4; ++n) {
    const __nv_bfloat16* key = keys + (8 * n + lane / 4) * Dim + 8 * (lane % 4);
#pragma unroll
    for (int d = 0; d < Dim / 32; ++d) {
      const uint4 k = *reinterpret_cast<const uint4*>(key + 32 * d);
      const uint32_t first[4] = {q[d][0].x, q[d][1].x, q[d][0].y, q[d][1].y};
      const uint32_t second[4] = {q[d][0].z, q[d][1].z, q[d][0].w, q[d][1].w};
      multiply_add(scores[n], first, k.x, k.y);
      multiply_add(scores[n], second, k.z, k.w);
    }
  }
}

__device__ inline float over_row(float value, bool largest) {
#pragma unroll
  for (int mask = 1; mask <= 2; mask *= 2) {
    const float other = __shfl_xor_sync(~0u, value, mask);
    value = largest ? fmaxf(value, other) : value + other;
  }
  return value;
}

__device__ inline uint32_t two_bf16(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&pair);
}

// Scores of 32 keys to probabilities relative to the highest score so far. `last`: the last
// position that rows g and g + 8 see. Returns the operand of the product with the values.
template <int Dim>
__device__ void soften(Accumulator (&scores)[4], int first_key, const int (&last)[2], float scale,
                       int lane, Sums<Dim>& sums, uint32_t (&p)[2][4]) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float most = sums.most[half];
#pragma unroll
    for (int n = 0; n < 4; ++n)
#pragma unroll
      for (int odd = 0; odd < 2; ++odd) {
        float& score = scores[n].v[2 * half + odd];
        const int key = first_key + 8 * n + 2 * (lane % 4) + odd;
        score = key <= last[half] ? score * scale : -INFINITY;
        most = fmaxf(most, score);
      }
    most = over_row(most, true);
    const float shrink = most == -INFINITY ? 1.0f : exp2f(sums.most[half] - most);
    sums.most[half] = most;
    sums.total[half] *= shrink;
#pragma unroll
    for (int d = 0; d < Dim / 8; ++d) {
      sums.out[d].v[2 * half] *= shrink;
      sums.out[d].v[2 * half + 1] *= shrink;
    }
#pragma unroll
    for (int n = 0; n < 4; ++n) {
      float probability[2];
#pragma unroll
      for (int odd = 0; odd < 2; ++odd) {
        const float score = scores[n].v[2 * half + odd];
        probability[odd] = score == -INFINITY ? 0.0f : exp2f(score - most);
        sums.total[half] += probability[odd];
      }
      p[n / 2][2 * (n % 2) + half] = two_bf16(probability[0], probability[1]);
    }
  }
}

template <int Dim>
__device__ void add_values(const uint32_t (&p)[2][4], const __nv_bfloat16* values, int lane,
                           Sums<Dim>& sums) {
#pragma unroll
  for (int d = 0; d < Dim / 8; ++d) {
    const uint4 v =
        *reinterpret_cast<const uint4*>(values + (8 * d + lane / 4) * kTileKeys + 8 * (lane % 4));
    multiply_add(sums.out[d], p[0], v.x, v.y);
    multiply_add(sums.out[d], p[1], v.z, v.w);
  }
}

// Tiles `first`, `first + step`, ... of the unit's context.
template <int Dim>
__device__ void run_tiles(const Place& place, int first, int step, int lane, Sums<Dim>& sums) {
  const AttentionArguments& a = *place.a;
  const int64_t head = int64_t{place.unit.sequence} * a.cache.kv_heads + place.kv_head;
  const __nv_bfloat16* keys = a.cache.keys + head * a.cache.positions * Dim;
  const __nv_bfloat16* values = a.cache.values + head * a.cache.positions * Dim;
  const float scale = rsqrtf(static_cast<float>(Dim)) * 1.4426950408889634f;  // log2(e)
  uint4 q[Dim / 32][2];
  load_queries<Dim>(place, lane, q);
  int last[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = place.row_of(lane / 4 + 8 * half);
    last[half] = row < 0 ? -1 : a.positions[row];
  }
  const int end = a.positions[a.order[place.unit.begin + place.unit.count - 1]] + 1;
  for (int tile = first; tile * kTileKeys < end; tile += step) {
    Accumulator scores[4];
    uint32_t p[2][4];
    const int64_t at = int64_t{tile} * kTileKeys * Dim;
    score_keys<Dim>(q, keys + at, lane, scores);
    soften<Dim>(scores, tile * kTileKeys, last, scale, lane, sums, p);
    add_values<Dim>(p, values + at, lane, sums);
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) sums.total[half] = over_row(sums.total[half], false);
}

template <int Dim>
__device__ void write_row(const Place& place, int m, int dim, float low, float high) {
  const int row = place.row_of(m);
  if (row < 0) return;
  const int64_t at = (int64_t{row} * place.a->heads + place.head_of(m)) * Dim + dim;
  *reinterpret_cast<uint32_t*>(place.a->out + at) = two_bf16(low, high);
}

template <int Dim>
__global__ void __launch_bounds__(kUnitWarps * 32) units_kernel(AttentionArguments a) {
  const int unit = static_cast<int>(blockIdx.x) * kUnitWarps + static_cast<int>(threadIdx.x / 32);
  if (unit >= a.units) return;
  const int lane = static_cast<int>(threadIdx.x % 32);
  const Place place{&a, a.unit[unit], static_cast<int>(blockIdx.y), a.heads / a.cache.kv_heads};
  Sums<Dim> sums;
  run_tiles<Dim>(place, 0, 1, lane, sums);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float share = 1.0f / sums.total[half];
#pragma unroll
    for (int d = 0; d < Dim / 8; ++d)
      write_row<Dim>(place, lane / 4 + 8 * half, 8 * d + 2 * (lane % 4),
                     sums.out[d].v[2 * half] * share, sums.out[d].v[2 * half + 1] * share);
  }
}

// What the warps of a split unit leave for each other.
template <int Dim>
struct SplitBoard {
  float out[kSplitWarps][kQueryRows][Dim];
  float most[kSplitWarps][kQueryRows], total[kSplitWarps][kQueryRows];
};

template <int Dim>
__global__ void __launch_bounds__(kSplitWarps * 32) split_kernel(AttentionArguments a) {
  extern __shared__ __align__(16) unsigned char shared[];
  SplitBoard<Dim>& board = *reinterpret_cast<SplitBoard<Dim>*>(shared);
  const int warp = static_cast<int>(threadIdx.x / 32), lane = static_cast<int>(threadIdx.x % 32);
  const Place place{&a, a.unit[blockIdx.x], static_cast<int>(blockIdx.y),
                    a.heads / a.cache.kv_heads};
  Sums<Dim> sums;
  run_tiles<Dim>(place, warp, kSplitWarps, lane, sums);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int m = lane / 4 + 8 * half;
    board.most[warp][m] = sums.most[half];
    board.total[warp][m] = sums.total[half];
#pragma unroll
    for (int d = 0; d < Dim / 8; ++d) {
      board.out[warp][m][8 * d + 2 * (lane % 4)] = sums.out[d].v[2 * half];
      board.out[warp][m][8 * d + 2 * (lane % 4) + 1] = sums.out[d].v[2 * half + 1];
    }
  }
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < kQueryRows * Dim / 2; i += kSplitWarps * 32) {
    const int m = i / (Dim / 2), dim = i % (Dim / 2) * 2;
    float most = -INFINITY, total = 0, low = 0, high = 0;
    for (int w = 0; w < kSplitWarps; ++w) most = fmaxf(most, board.most[w][m]);
    for (int w = 0; w < kSplitWarps; ++w) {
      if (board.most[w][m] == -INFINITY) continue;
      const float weight = exp2f(board.most[w][m] - most);
      total += weight * board.total[w][m];
      low += weight * board.out[w][m][dim];
      high += weight * board.out[w][m][dim + 1];
    }
    write_row<Dim>(place, m, dim, low / total, high / total);
  }
}

template <int Dim>
cudaError_t launch(const AttentionArguments& a, cudaStream_t stream) {
  const auto heads = static_cast<unsigned>(a.cache.kv_heads);
  if (!a.split) {
    const dim3 grid(static_cast<unsigned>(ceil_div(a.units, kUnitWarps)), heads);
    units_kernel<Dim><<<grid, kUnitWarps * 32, 0, stream>>>(a);
    return cudaGetLastError();
  }
  constexpr int kBytes = sizeof(SplitBoard<Dim>);
  const cudaError_t status =
      cudaFuncSetAttribute(split_kernel<Dim>, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
  if (status != cudaSuccess) return status;
  split_kernel<Dim>
      <<<dim3(static_cast<unsigned>(a.units), heads), kSplitWarps * 32, kBytes, stream>>>(a);
  return cudaGetLastError();
}

}  // namespace

cudaError_t attend(const AttentionArguments& a, cudaStream_t stream) {
  const CacheView& cache = a.cache;
  if (a.units < 1 || a.heads < 1 || cache.kv_heads < 1 || a.heads % cache.kv_heads != 0 ||
      rows_of_unit(a.heads, cache.kv_heads) < 1 || cache.kv_heads > 65535 ||
      cache.positions < kTileKeys || cache.positions % kTileKeys != 0)
    return cudaErrorInvalidValue;
  switch (cache.head_dim) {
    case 32:
      return launch<32>(a, stream);
    case 64:
      return launch<64>(a, stream);
    case 96:
      return launch<96>(a, stream);
    case 128:
      return launch<128>(a, stream);
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace thermoe::cuda
