// The routing program of a whole batch by local search: PrimalSearch::climb on OpenSet
// (src/routing), one block. Warp w keeps the tokens w, w + warps, ...; warp 0 also chooses the
// moves. A closing concerns the tokens that hold the instance, or would fall back to it: a few
// warps with one token each, between two barriers.
#pragma once

#include "kernels/cuda/routing_pack.cuh"
#include "kernels/cuda/routing_utility.cuh"

namespace thermoe::cuda {

struct ClimbShape {
  int warps = 1;
  int rows = 0;        // ceil(I / 32)
  int words = 0;       // ceil(T / 32)
  bool shared = true;  // values and scores stand in shared memory, else in the workspace
};

// The state of the search. Values are utility - charge.
struct ClimbBoard {
  PackBoard pack;
  Fixed* open;             // [rows * 32] prices of opening
  Fixed* charge;           // [rows * 32] prices of a token
  Fixed* gain;             // [rows * 32] of closing an open instance: open - what its users lose
  Fixed* next_value;       // [T] of the best open instance not held; kNever: there is none
  Fixed* least;            // [T] least value held; only while openings are looked for
  Fixed* alternative;      // [T, k] what a held instance's token falls back to
  int* held;               // [T, k]
  int* own;                // [T, k] the token's own top-k
  int* next;               // [T] the instance of next_value
  unsigned* held_slots;    // [T, 32] which of each lane's slots are of held experts
  float* mass;             // [T]
  unsigned char* is_open;  // [rows * 32]
  Fixed* values;           // [T, rows * 32]
  float* scores;           // [T, E]
};

// The bytes of values and scores, wherever they stand.
__host__ __device__ inline size_t table_bytes(const ClimbShape& shape, const RouterInput& input) {
  const size_t tokens = static_cast<size_t>(input.tokens);
  return tokens * (static_cast<size_t>(shape.rows) * 32 * sizeof(Fixed) +
                   static_cast<size_t>(input.experts) * sizeof(float));
}

// Where things stand; returns the bytes of shared memory. `base` null: only the bytes.
__host__ __device__ inline size_t carve_climb(unsigned char* base, unsigned char* workspace,
                                              const ClimbShape& shape, const RouterInput& input,
                                              ClimbBoard* board) {
  Carver carver{base};
  const size_t padded = static_cast<size_t>(shape.rows) * 32;
  const size_t tokens = static_cast<size_t>(input.tokens), pairs = tokens * input.k;
  ClimbBoard out{};
  out.pack = carve_pack(carver, padded, shape.words, pairs);
  out.open = carver.take<Fixed>(padded);
  out.charge = carver.take<Fixed>(padded);
  out.gain = carver.take<Fixed>(padded);
  out.next_value = carver.take<Fixed>(tokens);
  out.least = carver.take<Fixed>(tokens);
  out.alternative = carver.take<Fixed>(pairs);
  out.held = carver.take<int>(pairs);
  out.own = carver.take<int>(pairs);
  out.next = carver.take<int>(tokens);
  out.held_slots = carver.take<unsigned>(tokens * 32);
  out.mass = carver.take<float>(tokens);
  out.is_open = carver.take<unsigned char>(padded);
  unsigned char* table =
      shape.shared ? carver.take<unsigned char>(table_bytes(shape, input)) : workspace;
  out.values = reinterpret_cast<Fixed*>(table);
  out.scores = reinterpret_cast<float*>(table + tokens * padded * sizeof(Fixed));
  if (base != nullptr) *board = out;
  return carver.at;
}

// One thread's part in the search.
struct Climber {
  const RoutingLaunch& launch;
  const ClimbShape& shape;
  ClimbBoard board;
  Catalog catalog;
  int k, lane, warp;
  unsigned open_slots = 0;  // which of the lane's slots are open
  int open_experts = 0;     // warp 0 only

  __device__ Fixed* row(int t) const { return board.values + t * shape.rows * 32; }
  __device__ const float* scores(int t) const {
    return board.scores + static_cast<size_t>(t) * catalog.experts;
  }
  __device__ unsigned all_slots() const {
    unsigned slots = 0;
    for (int r = 0; r < shape.rows; ++r)
      if (r * 32 + lane < catalog.instances) slots |= 1u << r;
    return slots;
  }
  __device__ static Fixed loss_of(Fixed value, Fixed alternative) {
    return alternative == kNeverFixed ? 0 : value - alternative;
  }
  __device__ void add_gain(int i, Fixed change) const { add_fixed(board.gain + i, change); }

  // The best open instance of i's expert other than i itself; -1: none.
  __device__ int sibling_of(const Fixed* values, int i) const {
    if (catalog.single) return -1;
    int best = -1;
    const int e = catalog.expert_of(i);
    for (int j = catalog.begin_of(e); j < catalog.end_of(e); ++j)
      if (j != i && board.is_open[j] != 0 && (best < 0 || values[j] > values[best])) best = j;
    return best;
  }

  __device__ Fixed find_next(int t, unsigned held_slots) const {
    const Best best =
        best_of_row<false>(row(t), nullptr, catalog, open_slots & ~held_slots, shape.rows, lane);
    const Fixed value = best.index == kNoIndex ? kNeverFixed : fixed_of(best.key);
    if (lane == 0) {
      board.next[t] = best.index == kNoIndex ? -1 : static_cast<int>(best.index);
      board.next_value[t] = value;
    }
    return value;
  }

  __device__ Fixed alternative_of(const Fixed* values, int held, Fixed next_value) const {
    const int sibling = sibling_of(values, held);
    return sibling < 0 ? next_value : max(next_value, values[sibling]);
  }

  // A token that holds `held` (lane s < k), nothing known of it yet.
  __device__ void settle(int t, int held) const {
    const Fixed* values = row(t);
    unsigned held_slots = 0;
    for (int s = 0; s < k; ++s)
      held_slots |= catalog.slots_of(__shfl_sync(kAllLanes, held, s), lane);
    board.held_slots[t * 32 + lane] = held_slots;
    const Fixed next_value = find_next(t, held_slots);
    if (lane >= k) return;
    const Fixed alternative = alternative_of(values, held, next_value);
    board.held[t * k + lane] = held;
    board.alternative[t * k + lane] = alternative;
    add_gain(held, -loss_of(values[held], alternative));
  }

  // The token's part of closing i, which is marked closed.
  __device__ void close_for(int t, int i) const {
    const Fixed* values = row(t);
    const int before = lane < k ? board.held[t * k + lane] : -1;
    const int next = board.next[t];
    unsigned held_slots = board.held_slots[t * 32 + lane];
    Fixed next_value = board.next_value[t];
    int held = before;
    bool keeps_next = false;
    if (__any_sync(kAllLanes, before == i)) {
      const int sibling = sibling_of(values, i);
      keeps_next = sibling >= 0 && values[sibling] >= next_value;
      if (before == i) held = keeps_next ? sibling : next;
      if (!keeps_next) {
        held_slots = (held_slots & ~catalog.slots_of(i, lane)) | catalog.slots_of(next, lane);
        board.held_slots[t * 32 + lane] = held_slots;
      }
    }
    __syncwarp();
    if (!keeps_next) next_value = find_next(t, held_slots);
    if (lane < k) {
      const Fixed old = board.alternative[t * k + lane];
      const Fixed alternative = alternative_of(values, held, next_value);
      const Fixed loss = loss_of(values[held], alternative);
      add_gain(held, (held == before ? loss_of(values[held], old) : 0) - loss);
      board.held[t * k + lane] = held;
      board.alternative[t * k + lane] = alternative;
    }
    __syncwarp();
  }

  // Marks i closed. Every warp does: all write the same.
  __device__ void accept_closing(int i) {
    open_slots &= ~(lane == (i & 31) ? 1u << (i >> 5) : 0u);
    if (lane == 0) board.is_open[i] = 0;
    __syncwarp();
    if (warp != 0) return;
    if (sibling_of(row(0), i) < 0) --open_experts;
    if (lane == 0) ++board.pack.counts->closings;
  }

  // Concerned is every token that values i at least like its next best.
  __device__ void close_for_all(int i) const {
    const int own = warp + lane * shape.warps;
    const bool concerned = own < launch.input.tokens && row(own)[i] >= board.next_value[own];
    for (unsigned left = __ballot_sync(kAllLanes, concerned); left != 0; left &= left - 1)
      close_for(warp + (__ffs(static_cast<int>(left)) - 1) * shape.warps, i);
  }

  // The lane's open slots whose expert is open in another instance too.
  __device__ unsigned doubled_slots() const {
    unsigned slots = 0;
    if (catalog.single) return slots;
    for (int r = 0; r < shape.rows; ++r) {
      if (((open_slots >> r) & 1u) == 0) continue;
      const int i = r * 32 + lane, e = catalog.expert_of(i);
      for (int j = catalog.begin_of(e); j < catalog.end_of(e); ++j)
        if (j != i && board.is_open[j] != 0) slots |= 1u << r;
    }
    return slots;
  }

  // Of the lanes' `slots` the instance that gains most, and something: ties by lower instance.
  __device__ Best best_gain(unsigned slots, bool opening) const {
    Key key = 0;
    unsigned index = kNoIndex;
#pragma unroll 4
    for (int r = 0; r < shape.rows; ++r) {
      const int i = r * 32 + lane;
      const Fixed gain = opening ? board.gain[i] - board.open[i] : board.gain[i];
      if (((slots >> r) & 1u) == 0 || gain <= 0 || static_cast<Key>(gain) <= key) continue;
      key = static_cast<Key>(gain);
      index = static_cast<unsigned>(i);
    }
    return warp_best<false>(key, 0, index);
  }

  // Warp 0: the closing that gains most by the gains as they stand.
  __device__ void pick_closing(Pick& pick) const {
    const Best best = best_gain(open_experts > k ? open_slots : doubled_slots(), false);
    if (lane == 0) pick = {best.key, static_cast<int>(best.index)};
  }

  // Closes, one at a time, what gains most. While the warps with concerned tokens lower the gains,
  // warp 0 already picks the next closing. Every gain it reads is at least what it will be at the
  // barrier, since closings lower gains only; so if the picked one has not been lowered there, no
  // other is better, and the pick stands.
  __device__ void close_while_it_gains() {
    Pick* picks = board.pack.counts->picks;
    int turn = 0;  // a slow warp may still read the other pick
    if (warp == 0) pick_closing(picks[turn]);
    __syncthreads();
    for (;;) {
      const int i = picks[turn].instance;
      if (i < 0) break;
      const bool stands = static_cast<Key>(board.gain[i]) == picks[turn].gain;
      turn ^= 1;
      if (stands) {
        accept_closing(i);
        close_for_all(i);
      }
      if (warp == 0) pick_closing(picks[turn]);
      __syncthreads();
    }
  }

  // After is_open has changed by more than a closing.
  __device__ void read_open() {
    open_slots = 0;
    int experts = 0;
    for (int r = 0; r < shape.rows; ++r) {
      const int i = r * 32 + lane;
      if (i >= catalog.instances || board.is_open[i] == 0) continue;
      open_slots |= 1u << r;
      bool first = true;
      if (!catalog.single)
        for (int j = catalog.begin_of(catalog.expert_of(i)); j < i; ++j)
          first = first && board.is_open[j] == 0;
      experts += first ? 1 : 0;
    }
    open_experts = __reduce_add_sync(kAllLanes, experts);
  }

  __device__ void reset_gains() const {
    for (int i = threadIdx.x; i < shape.rows * 32; i += blockDim.x) board.gain[i] = board.open[i];
  }

  // What tokens would gain, together, by each instance, into gain. As OpenSet::opening_gains.
  __device__ void sum_opening_gains() const {
    const int padded = shape.rows * 32, threads = static_cast<int>(blockDim.x);
    for (int i = threadIdx.x; i < padded; i += threads) board.gain[i] = 0;
    for (int t = warp; t < launch.input.tokens; t += shape.warps) {
      const Key value = lane < k ? key_of(row(t)[board.held[t * k + lane]]) : ~0ULL;
      const Key least = ~warp_best<false>(~value, 0, 0).key;
      if (lane == 0) board.least[t] = fixed_of(least);
    }
    __syncthreads();
    const int groups = max(1, threads / padded);
    const int group = groups > 1 ? static_cast<int>(threadIdx.x) / padded : 0;
    const int begin = static_cast<int>(threadIdx.x) - group * padded;
    for (int i = begin; i < padded && group<groups; i += groups> 1 ? padded : threads) {
      Fixed sum = 0;
      for (int t = group; t < launch.input.tokens; t += groups)
        sum += max(Fixed{0}, row(t)[i] - board.least[t]);
      add_gain(i, sum);
    }
    if (!catalog.single)
      for (int t = warp; t < launch.input.tokens; t += shape.warps) correct_siblings(t);
  }

  // A token that holds the expert compares with the instance it holds.
  __device__ void correct_siblings(int t) const {
    if (lane >= k) return;
    const Fixed* values = row(t);
    const int held = board.held[t * k + lane], e = catalog.expert_of(held);
    for (int i = catalog.begin_of(e); i < catalog.end_of(e); ++i)
      add_gain(i,
               max(Fixed{0}, values[i] - values[held]) - max(Fixed{0}, values[i] - board.least[t]));
  }

  // Whether an opening gained. All threads.
  __device__ bool open_best() {
    sum_opening_gains();
    __syncthreads();
    if (warp == 0) {
      const int i = static_cast<int>(best_gain(all_slots() & ~open_slots, true).index);
      if (lane == 0) {
        board.pack.counts->opening = i;
        if (i >= 0) {
          board.is_open[i] = 1;
          ++board.pack.counts->openings;
        }
      }
    }
    __syncthreads();
    if (board.pack.counts->opening < 0) return false;
    read_open();
    reset_gains();
    __syncthreads();
    for (int t = warp; t < launch.input.tokens; t += shape.warps)
      settle(t, select_of_row<false>(row(t), nullptr, catalog, open_slots, shape.rows, k, lane));
    __syncthreads();
    return true;
  }

  // From the union of the tokens' own best, which stands in held and is_open.
  __device__ void climb() {
    read_open();
    for (int t = warp; t < launch.input.tokens; t += shape.warps)
      settle(t, lane < k ? board.held[t * k + lane] : -1);
    __syncthreads();
    close_while_it_gains();
    // Nothing was closed: every token has its own best, no opening gains.
    while (board.pack.counts->closings > 0 && open_best()) close_while_it_gains();
  }
};

}  // namespace thermoe::cuda
