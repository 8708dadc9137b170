// The routing program of a whole batch by closing experts in rounds: ClosingRounds (src/routing),
// one block. Warp w keeps the tokens w, w + warps, ... A round is two steps, a barrier after each:
// tokens say what may close, then those concerned fall back, which is one search of a row a token.
#pragma once

#include "kernels/cuda/routing_pack.cuh"
#include "kernels/cuda/routing_utility.cuh"

namespace thermoe::cuda {

// Where the tokens' tables and states stand.
enum class TokenPlace {
  kRegisters,  // tables in shared memory, states in registers: a token a warp
  kPairs,      // the same with two tokens a warp
  kShared,     // both in shared memory
  kWorkspace,  // tables in the workspace
};
__host__ __device__ constexpr int tokens_in_registers(TokenPlace place) {
  return place == TokenPlace::kRegisters ? 1 : place == TokenPlace::kPairs ? 2 : 0;
}

struct BatchShape {
  int warps = 1;
  int rows = 0;   // ceil(I / 32)
  int words = 0;  // ceil(T / 32)
  TokenPlace place = TokenPlace::kRegisters;

  __host__ __device__ size_t instances() const { return static_cast<size_t>(rows) * 32; }
};

// A sum of at most 256 Fixed in two words, each by 32-bit atomics: the hardware has no others in
// shared memory. The low words' sum stays below 2^32.
struct SplitSum {
  int low, high;

  static constexpr int kLowBits = 23;
  static constexpr Fixed kLowMask = (1LL << kLowBits) - 1;

  __device__ Fixed value() const {
    return (static_cast<Fixed>(high) << kLowBits) + static_cast<unsigned>(low);
  }
  __device__ static SplitSum of(Fixed value) {
    return {static_cast<int>(value & kLowMask), static_cast<int>(value >> kLowBits)};
  }
  // What `before` was added as is taken back.
  __device__ void add(Fixed value, Fixed before) {
    const SplitSum now = of(value), old = of(before);
    atomicAdd(&low, now.low - old.low);
    atomicAdd(&high, now.high - old.high);
  }
};

// The last rounds in which a token was for the expert's closing and against it.
struct Vote {
  int closing, veto;
};

struct BatchBoard {
  PackBoard pack;
  Fixed* open;              // [rows * 32] prices of opening
  Fixed* charge;            // [rows * 32] prices of a token
  double* kept;             // [rows * 32] of the utility, by each instance
  SplitSum* lack;           // [rows * 32] open less what its expert gives the holders by i
  SplitSum* fallback;       // [E] what its holders' next are worth
  Vote* votes;              // [E]
  int* chosen;              // [E] instance of an open expert
  unsigned* span;           // [E] kHasFree, the number of instances, the first (16 bits)
  unsigned char* is_open;   // [E] at first
  unsigned char* is_fixed;  // [E] a holder has no next
  // What TokenState has; not where it is in registers.
  Fixed* next_value;           // [T]
  float* mass;                 // [T]
  short* item;                 // [T, 32]
  unsigned short* held_slots;  // [T, 32]
  short* own;                  // [T, k]
  // The tables.
  Fixed* utility;  // [T, E] in the expert's most accurate instance
  float* scores;   // [T, E]
};

// The bytes of the tables, wherever they stand.
__host__ __device__ inline size_t table_bytes(const RouterInput& input) {
  return static_cast<size_t>(input.tokens) * static_cast<size_t>(input.experts) *
         (sizeof(Fixed) + sizeof(float));
}

// Where things stand; returns the bytes of shared memory. `base` null: only the bytes.
__host__ __device__ inline size_t carve_batch(unsigned char* base, unsigned char* workspace,
                                              const BatchShape& shape, const RouterInput& input,
                                              BatchBoard* board) {
  Carver carver{base};
  const size_t padded = shape.instances(),
               experts = (static_cast<size_t>(input.experts) + 31) / 32 * 32;
  const size_t tokens = static_cast<size_t>(input.tokens), pairs = tokens * input.k;
  BatchBoard out{};
  out.pack = carve_pack(carver, padded, shape.words, pairs);
  out.open = carver.take<Fixed>(padded);
  out.charge = carver.take<Fixed>(padded);
  out.kept = carver.take<double>(padded);
  out.lack = carver.take<SplitSum>(padded);
  out.fallback = carver.take<SplitSum>(experts);
  out.votes = carver.take<Vote>(experts);
  out.chosen = carver.take<int>(experts);
  out.span = carver.take<unsigned>(experts);
  out.is_open = carver.take<unsigned char>(experts);
  out.is_fixed = carver.take<unsigned char>(experts);
  if (tokens_in_registers(shape.place) == 0) {
    out.next_value = carver.take<Fixed>(tokens);
    out.mass = carver.take<float>(tokens);
    out.item = carver.take<short>(tokens * 32);
    out.held_slots = carver.take<unsigned short>(tokens * 32);
    out.own = carver.take<short>(pairs);
  }
  unsigned char* table = shape.place == TokenPlace::kWorkspace
                             ? workspace
                             : carver.take<unsigned char>(table_bytes(input));
  out.utility = reinterpret_cast<Fixed*>(table);
  out.scores =
      reinterpret_cast<float*>(table + tokens * static_cast<size_t>(input.experts) * sizeof(Fixed));
  if (base != nullptr) *board = out;
  return carver.at;
}

// One lane's part of what a token holds, with keys of kKeys of the lane's experts.
template <int kKeys>
struct TokenState {
  int item = -1;            // lane s < k: an expert held; lane k: the next one; -1: none
  unsigned held_slots = 0;  // which of the lane's experts are held
  int own = -1;             // lane s < k: the s-th of the token's own top-k
  float mass = 0;
  Fixed next_value = 0;                 // 0 where there is no next
  Key key[kKeys > 0 ? kKeys : 1] = {};  // of the worth; 0: closed or held
};

// One thread's part in the search. kSlots experts a lane; kSingle: an instance an expert.
template <int kSlots, bool kSingle, TokenPlace kPlace>
struct RoundSearch {
  const RoutingLaunch& launch;
  const BatchShape& shape;
  BatchBoard board;
  int experts, instances, k, lane, warp;
  bool priced = false;      // some charge is not zero
  unsigned open_slots = 0;  // which of the lane's experts are open

  static constexpr int kHeld = tokens_in_registers(kPlace);
  using State = TokenState<(kHeld > 0 ? kSlots : 0)>;
  State mine[kHeld > 0 ? kHeld : 1] = {};

  __device__ const Fixed* utility(int t) const {
    return board.utility + static_cast<size_t>(t) * experts;
  }
  __device__ const float* scores(int t) const {
    return board.scores + static_cast<size_t>(t) * experts;
  }
  static constexpr unsigned kHasFree = 1u << 31;  // some instance opens at no price
  __device__ unsigned span_of(int e) const {
    return kSingle ? static_cast<unsigned>(e) : board.span[e];
  }
  __device__ static int first_of(unsigned span) {
    return static_cast<int>(kSingle ? span : span & 0xffffu);
  }
  __device__ static int count_of(unsigned span) {
    return kSingle ? 1 : static_cast<int>(span >> 16 & 0x7fffu);
  }
  __device__ Fixed utility_in(Fixed utility, int i) const {
    return kSingle ? utility : to_fixed(__dmul_rn(from_fixed(utility), board.kept[i]));
  }
  __device__ Fixed value_in(Fixed utility, int i) const {
    return utility_in(utility, i) - board.charge[i];
  }
  // In the instance that suits the token best.
  __device__ Fixed worth(int t, int e) const {
    const Fixed value = utility(t)[e];
    if (!priced) return value;
    Fixed best = kNeverFixed;
    const unsigned span = span_of(e);
#pragma unroll 1
    for (int n = 0; n < count_of(span); ++n) best = max(best, value_in(value, first_of(span) + n));
    return best;
  }
  // In the best of the instances that open at no price.
  __device__ Fixed free_value(Fixed utility, unsigned span) const {
    Fixed best = kNeverFixed;
    if constexpr (!kSingle) {
      if ((span & kHasFree) == 0) return best;
#pragma unroll 1
      for (int i = first_of(span); i < first_of(span) + count_of(span); ++i)
        if (board.open[i] == 0) best = max(best, value_in(utility, i));
    }
    return best;
  }
  // The instance that the token uses of an open expert: the chosen one, or one at no price.
  __device__ int instance_for(Fixed utility, int e) const {
    if constexpr (kSingle) return e;
    const int chosen = board.chosen[e];
    const unsigned span = board.span[e];
    if ((span & kHasFree) == 0) return chosen;
    int best = -1;
    Fixed most = 0;
#pragma unroll 1
    for (int i = first_of(span); i < first_of(span) + count_of(span); ++i) {
      if (i != chosen && board.open[i] != 0) continue;
      const Fixed value = value_in(utility, i);
      if (best >= 0 && value <= most) continue;
      best = i;
      most = value;
    }
    return best;
  }
  __device__ unsigned slot_of(int e) const { return lane == (e & 31) ? 1u << (e >> 5) : 0u; }

  // Does body(t, state) for each of the warp's tokens; states that `body` says it changed are kept.
  template <typename Body>
  __device__ void for_tokens(const Body& body) {
    if constexpr (kHeld > 0) {
// The states take turns at the first place: the code stands there once, and fits the cache.
#pragma unroll 1
      for (int n = 0; n < kHeld; ++n) {
        if (const int t = warp + n * shape.warps; t < launch.input.tokens) body(t, mine[0]);
        if constexpr (kHeld == 2) {
          const State first = mine[0];
          mine[0] = mine[1];
          mine[1] = first;
        }
      }
    } else {
      for (int t = warp; t < launch.input.tokens; t += shape.warps) {
        State state{board.item[t * 32 + lane], board.held_slots[t * 32 + lane],
                    lane < k ? board.own[t * k + lane] : -1, board.mass[t], board.next_value[t]};
        if (!body(t, state)) continue;
        __syncwarp();
        board.item[t * 32 + lane] = static_cast<short>(state.item);
        board.held_slots[t * 32 + lane] = static_cast<unsigned short>(state.held_slots);
        if (lane < k) board.own[t * k + lane] = static_cast<short>(state.own);
        if (lane != 0) continue;
        board.mass[t] = state.mass;
        board.next_value[t] = state.next_value;
      }
    }
  }

  // The token has come to hold the expert of this lane.
  __device__ void add_holder(int t, int e) const {
    const Fixed value = utility(t)[e];
    const unsigned span = span_of(e);
    const Fixed free = free_value(value, span);
#pragma unroll 1
    for (int i = first_of(span); i < first_of(span) + count_of(span); ++i)
      board.lack[i].add(-max(free, value_in(value, i)), 0);
  }

  // Of the open experts the best that is not held; `joined` is the lane that holds its expert only
  // now, k: none; `first`: the token has had no next before.
  __device__ void find_next(int t, State& state, int joined, bool first) const {
    Key key = 0;
    unsigned index = kNoIndex;
    const unsigned slots = open_slots & ~state.held_slots;
#pragma unroll
    for (int r = 0; r < kSlots; ++r) {
      Key other = 0;
      if constexpr (kHeld > 0)
        other = state.key[r];
      else if (((slots >> r) & 1u) != 0)
        other = key_of(worth(t, r * 32 + lane));
      if (other <= key) continue;
      key = other;
      index = static_cast<unsigned>(r * 32 + lane);
    }
    const Best best = warp_best<false>(key, 0, index);
    const bool found = best.index != kNoIndex;
    const Fixed value = found ? fixed_of(best.key) : 0;
    if (lane < k) {
      board.fallback[state.item].add(value, first || lane == joined ? 0 : state.next_value);
      if (!found) board.is_fixed[state.item] = 1;
    }
    if (lane == k) state.item = found ? static_cast<int>(best.index) : -1;
    state.next_value = value;
  }

  // What closing e would gain: what the cheapest of its instances costs beyond its holders' loss.
  __device__ Fixed gain_of(int e) const {
    const unsigned span = span_of(e);
    const int first = first_of(span), count = count_of(span);
    Fixed least = board.lack[first].value();
    if constexpr (!kSingle) {
      least = min(least, board.lack[first + (count > 1 ? 1 : 0)].value());
#pragma unroll 1
      for (int n = 2; n < count; ++n) least = min(least, board.lack[first + n].value());
    }
    return least + board.fallback[e].value();
  }

  // As ClosingRounds: of what it holds, and its next, a token lets only what gains most close.
  __device__ void vote(const State& state, int round) const {
    const int e = state.item;
    unsigned rank = 0;
    if (e >= 0) {
      const Fixed gain = gain_of(e);
      rank = (__float_as_uint(__ll2float_rn(gain)) >> 8 << 9) | static_cast<unsigned>(511 - e);
      if (gain <= 0 || board.is_fixed[e] != 0) rank = 0;
    }
    const unsigned best = __reduce_max_sync(kAllLanes, rank);
    if (rank == 0) return;
    if (rank == best)
      board.votes[e].closing = round;
    else
      board.votes[e].veto = round;
  }

  __device__ bool closes(int e, int round) const {
    const Vote vote = board.votes[e];
    return vote.closing == round && vote.veto != round;
  }

  __device__ static void drop_keys(State& state, unsigned slots) {
    if constexpr (kHeld > 0) {
#pragma unroll
      for (int r = 0; r < kSlots; ++r)
        if (((slots >> r) & 1u) != 0) state.key[r] = 0;
    }
  }

  // Whether the round's closings concern the token; one of what it holds, or its next, at most.
  __device__ bool leave(int t, State& state, unsigned closed_slots, int round) const {
    const unsigned closed = __ballot_sync(kAllLanes, state.item >= 0 && closes(state.item, round));
    drop_keys(state, closed_slots);
    if (closed == 0) return false;
    const int gone = __ffs(static_cast<int>(closed)) - 1;
    if (gone < k) {
      const int next = __shfl_sync(kAllLanes, state.item, k);
      state.held_slots |= slot_of(next);
      drop_keys(state, slot_of(next));
      if (lane == gone) {
        state.item = next;
        add_holder(t, next);
      }
    }
    find_next(t, state, gone, false);
    return true;
  }

  // From what the tokens hold and is_open to the experts that stay open. All threads.
  __device__ void run() {
    for (int r = 0; r * 32 + lane < experts; ++r)
      if (board.is_open[r * 32 + lane] != 0) open_slots |= 1u << r;
    for_tokens([&](int t, State& state) {
      drop_keys(state, ~open_slots | state.held_slots);
      find_next(t, state, k, true);
      return true;
    });
    __syncthreads();
    int closings = 0, round = 1;
    for (;; ++round) {
      for_tokens([&](int, State& state) {
        vote(state, round);
        return false;
      });
      __syncthreads();
      unsigned closed = 0;
#pragma unroll
      for (int r = 0; r < kSlots; ++r)
        if (r * 32 + lane < experts && closes(r * 32 + lane, round)) closed |= 1u << r;
      if (!__any_sync(kAllLanes, closed != 0)) break;
      closings += __popc(closed);
      open_slots &= ~closed;
      for_tokens([&](int t, State& state) { return leave(t, state, closed, round); });
      __syncthreads();
    }
    if (warp != 0) return;
    closings = __reduce_add_sync(kAllLanes, closings);
    if (lane != 0) return;
    board.pack.counts->closings = closings;
    board.pack.counts->rounds = round - 1;
  }

  // The instance in which each expert is best for its holders together. All threads.
  __device__ void choose_instances() const {
    for (int e = threadIdx.x; e < experts; e += blockDim.x) {
      const unsigned span = span_of(e);
      int best = first_of(span);
      for (int i = best + 1; i < first_of(span) + count_of(span); ++i)
        if (board.lack[i].value() < board.lack[best].value()) best = i;
      board.chosen[e] = best;
    }
  }
};

}  // namespace thermoe::cuda
