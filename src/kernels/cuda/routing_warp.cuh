// What a warp does with one token's row: gate, top-k, utilities, choice. Lane l holds the experts
// (or instances) l, l + 32, ...: slot r of a lane is number r * 32 + l.
//
// Utilities and prices are counted in steps of 2^-32 (routing/grid.h) as 64-bit integers, which is
// the same as the CPU's doubles on that grid: sums are exact in any order. What comes before the
// rounding to the grid are IEEE operations in the CPU's order, never contracted.
#pragma once

#include "kernels/cuda/routing.h"

namespace thermoe::cuda {

using Fixed = long long;
using Key = unsigned long long;

constexpr unsigned kAllLanes = 0xffffffffu;
constexpr unsigned kNoIndex = 0xffffffffu;
constexpr Fixed kNeverFixed = -(1LL << 62);  // the value of what cannot be chosen
constexpr double kGridShift = 0x1.8p20;      // these four as in routing/grid.h
constexpr double kUtilityLimit = 0x1p18;
constexpr double kPriceLimit = 0x1p20;
constexpr double kStepsPerUnit = 0x1p32;

// The nearest grid point of |value| < 2^19: the last bit of the sum is one step.
__device__ inline Fixed to_fixed(double value) {
  return __double_as_longlong(__dadd_rn(value, kGridShift)) - __double_as_longlong(kGridShift);
}
__device__ inline double from_fixed(Fixed value) {
  return __dmul_rn(static_cast<double>(value), 1.0 / kStepsPerUnit);
}
// The grid point below; 0 where there are no prices.
__device__ inline Fixed price_to_fixed(const float* prices, int i) {
  if (prices == nullptr) return 0;
  const double price = fmin(fmax(static_cast<double>(prices[i]), -kPriceLimit), kPriceLimit);
  return static_cast<Fixed>(floor(__dmul_rn(price, kStepsPerUnit)));
}

// Adds to a sum in shared memory by 32-bit atomics, which the hardware has, where 64 bits would be
// a loop. If all changes are negative, who reads in between reads at least the sum at the end: what
// is still missing from the upper half is never positive.
__device__ inline void add_fixed(Fixed* sum, Fixed change) {
  if (change == 0) return;
  unsigned* words = reinterpret_cast<unsigned*>(sum);
  const unsigned low = static_cast<unsigned>(change);
  const unsigned before = atomicAdd(words, low);
  const unsigned carry = before + low < low ? 1u : 0u;
  const unsigned high = static_cast<unsigned>(static_cast<Key>(change) >> 32) + carry;
  if (high != 0) atomicAdd(words + 1, high);
}

// Keys in the order of the values and never 0, which means nothing.
__device__ inline unsigned order_of(float value) {
  const unsigned bits = __float_as_uint(__fadd_rn(value, 0.0f));  // -0 counts as 0
  return bits ^ ((bits >> 31) != 0 ? 0xffffffffu : 0x80000000u);
}
__device__ inline float value_of(unsigned order) {
  return __uint_as_float(order ^ ((order >> 31) != 0 ? 0x80000000u : 0xffffffffu));
}
__device__ inline Key key_of(Fixed value) { return static_cast<Key>(value) ^ (1ULL << 63); }
__device__ inline Fixed fixed_of(Key key) { return static_cast<Fixed>(key ^ (1ULL << 63)); }

// The largest key of the warp, then the largest `order`, then the lowest index. kNoIndex: all keys
// are 0.
struct Best {
  Key key;
  unsigned index;
};
template <bool kByScore>
__device__ inline Best warp_best(Key key, unsigned order, unsigned index) {
  const unsigned high = static_cast<unsigned>(key >> 32), low = static_cast<unsigned>(key);
  const unsigned top_high = __reduce_max_sync(kAllLanes, high);
  const unsigned top_low = __reduce_max_sync(kAllLanes, high == top_high ? low : 0u);
  bool mine = key != 0 && high == top_high && low == top_low;
  if constexpr (kByScore) {
    const unsigned top_order = __reduce_max_sync(kAllLanes, mine ? order : 0u);
    mine = mine && order == top_order;
  }
  const unsigned best = __reduce_min_sync(kAllLanes, mine ? index : kNoIndex);
  return {(static_cast<Key>(top_high) << 32) | top_low, best};
}

// Which instances the experts have. `single`: instance i is expert i.
struct Catalog {
  bool single;
  int experts, instances;
  const int32_t* first;
  const int32_t* expert;

  __device__ int expert_of(int i) const { return single ? i : expert[i]; }
  __device__ int begin_of(int e) const { return single ? e : first[e]; }
  __device__ int end_of(int e) const { return single ? e + 1 : first[e + 1]; }
  // Which of the lane's slots are instances of i's expert. One at most: an expert has no more than
  // 8 instances, and they stand together.
  __device__ unsigned slots_of(int i, int lane) const {
    if (single) return lane == (i & 31) ? 1u << (i >> 5) : 0u;
    const int e = expert[i], begin = first[e];
    const int own = begin + ((lane - begin) & 31);
    return own < first[e + 1] ? 1u << (own >> 5) : 0u;
  }
};

// `single` where the launch has no `first`.
__device__ inline Catalog catalog_of(const RoutingLaunch& launch, bool single) {
  const int count = launch.instances.count;
  return {single, launch.input.experts, single || count == 0 ? launch.input.experts : count,
          launch.instances.first, launch.instances.expert};
}

// The best of the lanes' slots in `mask` of a row [slots * 32], as ChoiceMaker orders them or, not
// kByScore, by value and instance.
template <bool kByScore>
__device__ inline Best best_of_row(const Fixed* row, const float* scores, const Catalog& catalog,
                                   unsigned mask, int slots, int lane) {
  Key key = 0;
  unsigned order = 0, index = kNoIndex;
#pragma unroll 4
  for (int r = 0; r < slots; ++r) {
    const Key other = ((mask >> r) & 1u) != 0 ? key_of(row[r * 32 + lane]) : 0;
    unsigned other_order = 0;
    if constexpr (kByScore)
      if (other >= key && r * 32 + lane < catalog.instances && other != 0)
        other_order = order_of(scores[catalog.expert_of(r * 32 + lane)]);
    if (other > key || (kByScore && other == key && other_order > order)) {
      key = other;
      order = other_order;
      index = static_cast<unsigned>(r * 32 + lane);
    }
  }
  return warp_best<kByScore>(key, order, index);
}

// Lane s < k: the token's s-th best instance of different experts; -1 in the others.
template <bool kByScore>
__device__ inline int select_of_row(const Fixed* row, const float* scores, const Catalog& catalog,
                                    unsigned mask, int slots, int k, int lane) {
  int mine = -1;
  for (int s = 0; s < k; ++s) {
    const Best best = best_of_row<kByScore>(row, scores, catalog, mask, slots, lane);
    const int i = best.index == kNoIndex ? 0 : static_cast<int>(best.index);
    if (lane == s) mine = i;
    mask &= ~catalog.slots_of(i, lane);
  }
  return mine;
}

__device__ inline Key warp_max(Key key) {
  const unsigned high = static_cast<unsigned>(key >> 32);
  const unsigned top = __reduce_max_sync(kAllLanes, high);
  const unsigned low = high == top ? static_cast<unsigned>(key) : 0u;
  return (static_cast<Key>(top) << 32) | __reduce_max_sync(kAllLanes, low);
}
__device__ inline float warp_max(float value) {
  return value_of(__reduce_max_sync(kAllLanes, order_of(value)));
}
__device__ inline float warp_sum(float value) {
  for (int step = 16; step > 0; step >>= 1) value += __shfl_xor_sync(kAllLanes, value, step);
  return value;
}

__device__ inline Fixed warp_sum(Fixed value) {
  for (int step = 16; step > 0; step >>= 1) value += __shfl_xor_sync(kAllLanes, value, step);
  return value;
}

// One token's scores (gate probabilities) in the lanes' slots, 0 where there is no expert.
// `bad_expert`: the first bad one, which counts as 0, or kNoIndex. fetch() and then gate(), or
// both.
template <int kSlots>
struct TokenScores {
  float score[kSlots];
  unsigned bad_expert;

  __device__ void load(const RouterInput& input, int t, int lane) {
    fetch(input, t, lane);
    gate(input, lane);
  }

  // What stands in memory, -inf where there is no expert.
  __device__ void fetch(const RouterInput& input, int t, int lane) {
    const int64_t stride = input.row_stride > 0 ? input.row_stride : input.experts;
    const int64_t at = static_cast<int64_t>(t) * stride;
#pragma unroll
    for (int r = 0; r < kSlots; ++r) {
      const int e = r * 32 + lane;
      score[r] = -INFINITY;
      if (e >= input.experts) continue;
      if (input.type == ScoreType::kF32)
        score[r] = static_cast<const float*>(input.scores)[at + e];
      else
        score[r] = __uint_as_float(
            static_cast<unsigned>(static_cast<const unsigned short*>(input.scores)[at + e]) << 16);
    }
  }

  __device__ void gate(const RouterInput& input, int lane) {
    unsigned bad = kNoIndex;
#pragma unroll
    for (int r = 0; r < kSlots; ++r) {
      const int e = r * 32 + lane;
      const float x = score[r];
      score[r] = input.gate == Gate::kSoftmax ? -INFINITY : 0.0f;
      if (e >= input.experts) continue;
      const bool good = input.gate == Gate::kNone ? x >= 0.0f && x < INFINITY : x < INFINITY;
      if (good)
        score[r] = x;
      else
        bad = min(bad, static_cast<unsigned>(e));
      if (input.gate == Gate::kSigmoid) score[r] = good ? sigmoid(x) : 0.0f;
    }
    bad_expert = __any_sync(kAllLanes, bad != kNoIndex) ? __reduce_min_sync(kAllLanes, bad) : bad;
    if (input.gate == Gate::kSoftmax) softmax();
  }

  __device__ void store(float* row, int experts, int lane) const {
#pragma unroll
    for (int r = 0; r < kSlots; ++r)
      if (r * 32 + lane < experts) row[r * 32 + lane] = score[r];
  }

  __device__ static float sigmoid(float x) { return __fdiv_rn(1.0f, 1.0f + expf(-x)); }

  __device__ void softmax() {
    float most = -INFINITY, sum = 0.0f;
#pragma unroll
    for (int r = 0; r < kSlots; ++r) most = fmaxf(most, score[r]);
    most = warp_max(most);
    if (!(most > -INFINITY)) most = 0.0f;  // then every score is 0
#pragma unroll
    for (int r = 0; r < kSlots; ++r) {
      score[r] = expf(score[r] - most);
      sum += score[r];
    }
    sum = warp_sum(sum);
#pragma unroll
    for (int r = 0; r < kSlots; ++r) score[r] = sum > 0.0f ? __fdiv_rn(score[r], sum) : 0.0f;
  }
};

// The token's own top-k: lane s < k has the s-th expert by falling score, ties by lower id.
struct TopK {
  int id;            // -1 in the lanes from k on
  float score;       // of the id
  float mass;        // sum of the k scores, in their order
  unsigned members;  // which of the lane's slots are in the top-k
};

// Lane s < k: the place of its item in the order of falling score, ties by lower id.
__device__ inline int rank_by_score(int id, float score, int k, int lane) {
  const unsigned order = order_of(score);
  const auto before = [](unsigned a, int a_id, unsigned b, int b_id) {
    return a > b || (a == b && a_id < b_id);
  };
  const unsigned next = __shfl_down_sync(kAllLanes, order, 1);
  const int next_id = __shfl_down_sync(kAllLanes, id, 1);
  // Most often the items are in order already.
  if (__all_sync(kAllLanes, lane + 1 >= k || before(order, id, next, next_id))) return lane;
  int rank = 0;
  for (int s = 0; s < k; ++s) {
    const unsigned other = __shfl_sync(kAllLanes, order, s);
    const int other_id = __shfl_sync(kAllLanes, id, s);
    rank += before(other, other_id, order, id) ? 1 : 0;
  }
  return rank;
}

// Puts the k lanes' items in that order.
__device__ inline void sort_by_score(int& id, float& score, int k, int lane) {
  const int rank = rank_by_score(id, score, k, lane);
  const int own_id = id;
  const float own_score = score;
  for (int s = 0; s < k; ++s) {
    const int to = __shfl_sync(kAllLanes, rank, s);
    const int moved_id = __shfl_sync(kAllLanes, own_id, s);
    const float moved_score = __shfl_sync(kAllLanes, own_score, s);
    if (lane == to) {
      id = moved_id;
      score = moved_score;
    }
  }
}

// As top_k_mass of routing/top_k.h.
__device__ inline float mass_of(float score, int k) {
  float mass = 0.0f;
  for (int s = 0; s < k; ++s) mass = __fadd_rn(mass, __shfl_sync(kAllLanes, score, s));
  return mass;
}

template <int kSlots>
__device__ inline TopK select_top_k(const TokenScores<kSlots>& scores, const RouterInput& input,
                                    int lane) {
  unsigned key[kSlots];
#pragma unroll
  for (int r = 0; r < kSlots; ++r) {
    const int e = r * 32 + lane;
    const bool real = e < input.experts;
    const float bias = real && input.bias != nullptr ? input.bias[e] : 0.0f;
    key[r] = real ? order_of(__fadd_rn(scores.score[r], bias)) : 0u;
  }
  TopK top{-1, 0.0f, 0.0f, 0u};
  for (int s = 0; s < input.k; ++s) {
    unsigned most = 0, index = kNoIndex;
    float score = 0.0f;
#pragma unroll
    for (int r = 0; r < kSlots; ++r) {
      if (key[r] <= most) continue;
      most = key[r];
      index = static_cast<unsigned>(r * 32 + lane);
      score = scores.score[r];
    }
    const unsigned best = __reduce_max_sync(kAllLanes, most);
    const unsigned id = __reduce_min_sync(kAllLanes, most == best ? index : kNoIndex);
    score = input.bias != nullptr ? __shfl_sync(kAllLanes, score, static_cast<int>(id & 31u))
                                  : value_of(best);
    if (lane == s) {
      top.id = static_cast<int>(id);
      top.score = score;
    }
#pragma unroll
    for (int r = 0; r < kSlots; ++r) {
      if (id != static_cast<unsigned>(r * 32 + lane)) continue;
      key[r] = 0;
      top.members |= 1u << r;
    }
  }
  if (input.bias != nullptr) sort_by_score(top.id, top.score, input.k, lane);
  top.mass = mass_of(top.score, input.k);
  return top;
}

// As share_weights of routing/top_k.h.
__device__ inline float share_of(float score, float mass, bool renormalize) {
  return renormalize ? __fdiv_rn(score, mass) : score;
}

}  // namespace thermoe::cuda
