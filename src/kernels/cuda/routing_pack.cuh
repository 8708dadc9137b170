// From every token's choice to the plan: the token's ids and weights, and the packed order. A block
// notes who uses each instance in a bitmask over its tokens: a pair's place is the instance's
// offset plus the number of bits below the token's, so packing is stable without sorting anything.
#pragma once

#include "kernels/cuda/routing_warp.cuh"

namespace thermoe::cuda {

// What a block counts, in shared memory.
struct BlockCounts {
  unsigned first_bad;  // token * kBadBase + its bad expert + 1 (0: no score at all), else kNoIndex
  int changed, experts, instances;
  int closings, rounds;  // of the search
  Fixed utility, cost;
};
constexpr unsigned kBadBase = 1024;  // > kMostExperts

// Lays arrays out one after the other, 16 bytes aligned. `base` null: only counts the bytes.
struct Carver {
  unsigned char* base;
  size_t at = 0;

  template <typename T>
  __host__ __device__ T* take(size_t count) {
    unsigned char* begin = base + at;
    at += (count * sizeof(T) + 15) / 16 * 16;
    return reinterpret_cast<T*>(begin);
  }
};

// The pack's part of a block's shared memory. `words` of 32 tokens an instance.
struct PackBoard {
  BlockCounts* counts;
  unsigned* users;  // [I, words]
  int* total;       // [I] tokens of the whole batch, padded to rows of 32
  int* offset;      // [I + 1]
  int* placed;      // [tokens of the block, k] instances
  int words;

  __device__ void clear(int instances) const {
    for (int n = threadIdx.x; n < instances * words; n += blockDim.x) users[n] = 0;
    if (threadIdx.x == 0) {
      *counts = BlockCounts{};
      counts->first_bad = kNoIndex;
    }
  }
  __device__ int load_of(int i) const {
    int load = 0;
    for (int w = 0; w < words; ++w) load += __popc(users[i * words + w]);
    return load;
  }
  // Users of i in the block before its token n.
  __device__ int users_before(int i, int n) const {
    int before = 0;
    for (int w = 0; w < (n >> 5); ++w) before += __popc(users[i * words + w]);
    return before + __popc(users[i * words + (n >> 5)] & ((1u << (n & 31)) - 1u));
  }
};

// `padded`: instances, padded to rows of 32; `pairs`: of the block.
__host__ __device__ inline PackBoard carve_pack(Carver& carver, size_t padded, int words,
                                                size_t pairs) {
  PackBoard board{};
  board.counts = carver.take<BlockCounts>(1);
  board.users = carver.take<unsigned>(padded * words);
  board.total = carver.take<int>(padded);
  board.offset = carver.take<int>(padded + 1);
  board.placed = carver.take<int>(pairs);
  board.words = words;
  return board;
}

__device__ inline void note_bad(const PackBoard& board, unsigned bad_expert, float mass, int t,
                                int lane) {
  if (lane != 0 || (bad_expert == kNoIndex && mass > 0.0f)) return;
  const unsigned expert = bad_expert == kNoIndex ? 0u : bad_expert + 1u;
  atomicMin(&board.counts->first_bad, static_cast<unsigned>(t) * kBadBase + expert);
}

// Lane s < k has a chosen expert, its instance and score, in any order, and the s-th of the token's
// own top-k. n: the token's number in the block.
__device__ inline void write_token(const RoutingLaunch& launch, const PackBoard& board, int id,
                                   int instance, float score, float mass, int own_id, int t, int n,
                                   int lane) {
  const int k = launch.input.k;
  const int rank = rank_by_score(instance, score, k, lane);
  const bool used = lane < k;
  const int own_there = __shfl_sync(kAllLanes, own_id, rank & 31);
  const bool changed = __any_sync(kAllLanes, used && id != own_there);
  if (used) {
    const int64_t at = static_cast<int64_t>(t) * k + rank;
    launch.output.ids[at] = id;
    launch.output.instances[at] = instance;
    launch.output.weights[at] = share_of(score, mass, launch.input.renormalize);
    board.placed[n * k + rank] = instance;
    atomicOr(&board.users[instance * board.words + (n >> 5)], 1u << (n & 31));
  }
  if (lane != 0) return;
  launch.output.changed[t] = changed ? 1 : 0;
  if (changed) atomicAdd(&board.counts->changed, 1);
}

// Counts what `total` says is used. All threads.
__device__ inline void count_distinct(const Catalog& catalog, const PackBoard& board) {
  for (int i = threadIdx.x; i < catalog.instances; i += blockDim.x) {
    if (board.total[i] == 0) continue;
    atomicAdd(&board.counts->instances, 1);
    bool first = true;
    if (!catalog.single)
      for (int j = catalog.begin_of(catalog.expert_of(i)); j < i; ++j)
        first = first && board.total[j] == 0;
    if (first) atomicAdd(&board.counts->experts, 1);
  }
}

// offset[i] = total[0] + .. + total[i - 1]. One warp; lane l sums `rows` numbers from l * rows on.
__device__ inline void sum_offsets(const PackBoard& board, int instances, int rows, int lane) {
  const int begin = lane * rows, end = min(begin + rows, instances);
  int sum = 0;
  for (int i = begin; i < end; ++i) sum += board.total[i];
  int before = sum;
  for (int step = 1; step < 32; step <<= 1) {
    const int other = __shfl_up_sync(kAllLanes, before, step);
    if (lane >= step) before += other;
  }
  const int all = __shfl_sync(kAllLanes, before, 31);
  before -= sum;
  for (int i = begin; i < end; ++i) {
    board.offset[i] = before;
    before += board.total[i];
  }
  if (lane == 0) board.offset[instances] = all;
}

__device__ inline void write_offsets(const RoutingLaunch& launch, const PackBoard& board,
                                     int instances) {
  for (int i = threadIdx.x; i <= instances; i += blockDim.x)
    launch.output.offsets[i] = board.offset[i];
}

// The block's tokens are begin .. begin + count - 1; `before` [I]: users in the blocks before, or
// null.
__device__ inline void write_packed(const RoutingLaunch& launch, const PackBoard& board,
                                    const int* before, int begin, int count) {
  const int k = launch.input.k;
  for (int pair = threadIdx.x; pair < count * k; pair += blockDim.x) {
    const int i = board.placed[pair];
    int at = board.offset[i] + board.users_before(i, pair / k);
    if (before != nullptr) at += before[i];
    launch.output.packed[at] = begin * k + pair;
  }
}

__device__ inline void write_report(const BlockCounts& counts, GpuRoutingReport* out) {
  GpuRoutingReport report;
  report.bad_token = -1;
  report.bad_expert = -1;
  if (counts.first_bad != kNoIndex) {
    report.bad_token = static_cast<int32_t>(counts.first_bad / kBadBase);
    report.bad_expert = static_cast<int32_t>(counts.first_bad % kBadBase) - 1;
  }
  report.changed_tokens = counts.changed;
  report.distinct_experts = counts.experts;
  report.distinct_instances = counts.instances;
  report.closings = counts.closings;
  report.rounds = counts.rounds;
  report.reserved = 0;
  report.utility = from_fixed(counts.utility);
  report.cost = from_fixed(counts.cost);
  *out = report;
}

}  // namespace thermoe::cuda
