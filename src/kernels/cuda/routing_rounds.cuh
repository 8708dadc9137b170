// The routing program of a whole batch by closing experts in rounds: ClosingRounds (src/routing),
// one block. Warp w keeps the tokens w, w + warps, ... A round is two steps, a barrier after each:
// tokens say what may close, then those concerned fall back, which is one search of a row a token.
#pragma once

#include "kernels/cuda/routing_pack.cuh"
#include "kernels/cuda/routing_utility.cuh"

namespace thermoe::cuda {

// Where the tokens' tables and states stand.
enum class TokenPlace {
  kRegisters,  // tables in shared memory, one token a warp: states in registers
  kShared,     // both in shared memory
  kWorkspace,  // tables in the workspace
};

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

  __device__ Fixed value() const { return (static_cast<Fixed>(high) << kLowBits) + static_cast<unsigned>(low);
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
  SplitSum* lack;           // [rows * 32] open less what the holders of its expert value i at
  SplitSum* fallback;       // [E] what its holders' next are worth
  Vote* votes;              // [E]
  int* chosen;              // [E] instance of an open expert
  unsigned short* first;    // [E + 1] as Catalog's
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
  out.first = carver.take<unsigned short>(experts + 1);
  out.is_open = carver.take<unsigned char>(experts);
  out.is_fixed = carver.take<unsigned char>(experts);
  if (shape.place != TokenPlace::kRegisters) {
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

// One lane's part of what a token holds.
struct TokenState {
  int item = -1;            // lane s < k: an expert held; lane k: the next one; -1: none
  unsigned held_slots = 0;  // which of the lane's experts are held
  int own = -1;             // lane s < k: the s-th of the token's own top-k
  float mass = 0;
  Fixed next_value = 0;  // 0 where there is no next
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
  TokenState mine = {};     // of the warp's token, where states are in registers

  __device__ const Fixed* utility(int t) const {
    return board.utility + static_cast<size_t>(t) * experts;
  }
  __device__ const float* scores(int t) const {
    return board.scores + static_cast<size_t>(t) * experts;
  }
  __device__ int begin_of(int e) const { return kSingle ? e : board.first[e]; }
  __device__ int end_of(int e) const { return kSingle ? e + 1 : board.first[e + 1]; }
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
    for (int i = begin_of(e); i < end_of(e); ++i) best = max(best, value_in(value, i));
    return best;
  }
  __device__ unsigned slot_of(int e) const { return lane == (e & 31) ? 1u << (e >> 5) : 0u; }

  // Does body(t, state) for each of the warp's tokens; states that `body` says it changed are kept.
  template <typename Body>
  __device__ void for_tokens(const Body& body) {
    if constexpr (kPlace == TokenPlace::kRegisters) {
      if (warp < launch.input.tokens) body(warp, mine);
    } else {
      for (int t = warp; t < launch.input.tokens; t += shape.warps) {
        TokenState state{board.item[t * 32 + lane], board.held_slots[t * 32 + lane],
                         lane < k ? board.own[t * k + lane] : -1, board.mass[t],
                         board.next_value[t]};
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
    for (int i = begin_of(e); i < end_of(e); ++i) board.lack[i].add(-value_in(value, i), 0);
  }

  // Of the open experts the best that is not held; `joined` is the lane that holds its expert only
  // now, k: none; `first`: the token has had no next before.
  __device__ void find_next(int t, TokenState& state, int joined, bool first) const {
    Key key = 0;
    unsigned index = kNoIndex;
    const unsigned slots = open_slots & ~state.held_slots;
#pragma unroll
    for (int r = 0; r < kSlots; ++r) {
      const Key other = ((slots >> r) & 1u) != 0 ? key_of(worth(t, r * 32 + lane)) : 0;
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
    Fixed least = board.lack[begin_of(e)].value();
    for (int i = begin_of(e) + 1; i < end_of(e); ++i) least = min(least, board.lack[i].value());
    return least + board.fallback[e].value();
  }

  // As ClosingRounds: of what it holds, and its next, a token lets only what gains most close.
  __device__ void vote(const TokenState& state, int round) const {
    const int e = state.item;
    unsigned rank = 0;
    if (e >= 0 && board.is_fixed[e] == 0)
      if (const Fixed gain = gain_of(e); gain > 0)
        rank = (__float_as_uint(__ll2float_rn(gain)) >> 8 << 9) | static_cast<unsigned>(511 - e);
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

  // Whether the round's closings concern the token; one of what it holds, or its next, at most.
  __device__ bool leave(int t, TokenState& state, int round) const {
    const unsigned closed = __ballot_sync(kAllLanes, state.item >= 0 && closes(state.item, round));
    if (closed == 0) return false;
    const int gone = __ffs(static_cast<int>(closed)) - 1;
    if (gone < k) {
      const int next = __shfl_sync(kAllLanes, state.item, k);
      state.held_slots |= slot_of(next);
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
    for_tokens([&](int t, TokenState& state) {
      find_next(t, state, k, true);
      return true;
    });
    __syncthreads();
    int closings = 0, round = 1;
    for (;; ++round) {
      for_tokens([&](int, TokenState& state) {
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
      for_tokens([&](int t, TokenState& state) { return leave(t, state, round); });
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
      int best = begin_of(e);
      for (int i = best + 1; i < end_of(e); ++i)
        if (board.lack[i].value() < board.lack[best].value()) best = i;
      board.chosen[e] = best;
    }
  }
};

}  // namespace thermoe::cuda
