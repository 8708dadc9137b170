// From scores to plan by the routing program of the whole batch: fills the search's tables, closes,
// writes. One block.
#pragma once

#include "kernels/cuda/routing_rounds.cuh"

namespace thermoe::cuda {

// Lane s < k: the s-th best of the lanes' keys (0: nothing), then by `order`, then lower expert.
template <int kSlots, bool kByScore>
__device__ inline int select_by_keys(Key (&key)[kSlots], const unsigned (&order)[kSlots], int k,
                                     int lane) {
  int mine = -1;
  for (int s = 0; s < k; ++s) {
    Key most = 0;
    unsigned most_order = 0, index = kNoIndex;
#pragma unroll
    for (int r = 0; r < kSlots; ++r) {
      if (key[r] < most || key[r] == 0) continue;
      if (key[r] == most && (!kByScore || order[r] <= most_order)) continue;
      most = key[r];
      most_order = kByScore ? order[r] : 0u;
      index = static_cast<unsigned>(r * 32 + lane);
    }
    const Best best = warp_best<kByScore>(most, most_order, index);
    if (lane == s) mine = static_cast<int>(best.index);
#pragma unroll
    for (int r = 0; r < kSlots; ++r)
      if (best.index == static_cast<unsigned>(r * 32 + lane)) key[r] = 0;
  }
  return mine;
}

// The token's row of the tables and what it takes if everything is open.
template <int kSlots, bool kSingle, TokenPlace kPlace>
__device__ inline void prepare_token(RoundSearch<kSlots, kSingle, kPlace>& search,
                                     TokenScores<kSlots>& scores, int t,
                                     typename RoundSearch<kSlots, kSingle, kPlace>::State& state) {
  const RoutingLaunch& launch = search.launch;
  const BatchBoard& board = search.board;
  const int k = search.k, lane = search.lane;
  const TopK top = select_top_k(scores, launch.input, lane);
  note_bad(board.pack, scores.bad_expert, top.mass, t, lane);
  Fixed* row = board.utility + static_cast<size_t>(t) * search.experts;
  for_each_worth(launch, scores, top, lane, [&](int e, Fixed worth) { row[e] = worth; });
  scores.store(board.scores + static_cast<size_t>(t) * search.experts, search.experts, lane);
  __syncwarp();
  state.item = state.own = top.id;
  state.held_slots = top.members;
  state.mass = top.mass;
  Key key[kSlots];
#pragma unroll
  for (int r = 0; r < kSlots; ++r) {
    key[r] = r * 32 + lane < search.experts ? key_of(search.worth(t, r * 32 + lane)) : 0;
    if constexpr (search.kHeld > 0) state.key[r] = key[r];
  }
  if (search.priced) {
    const unsigned order[kSlots] = {};
    state.item = select_by_keys<kSlots, false>(key, order, k, lane);
    state.held_slots = 0;
#pragma unroll
    for (int r = 0; r < kSlots; ++r)
      if (r * 32 + lane < search.experts && key[r] == 0) state.held_slots |= 1u << r;
  }
  if (lane >= k) return;
  board.is_open[state.item] = 1;
  search.add_holder(t, state.item);
}

// As ChoiceMaker::choose and PlanWriter::write_token: what the token holds is the only best choice
// unless, in the instances that are open now, it is worth no more than another. Returns the utility
// of the lane's instance.
template <int kSlots, bool kSingle, TokenPlace kPlace>
__device__ inline Fixed finish_token(
    const RoundSearch<kSlots, kSingle, kPlace>& search, int t,
    const typename RoundSearch<kSlots, kSingle, kPlace>::State& state) {
  const BatchBoard& board = search.board;
  const Fixed* row = search.utility(t);
  const int k = search.k, lane = search.lane;

  Key key[kSlots], least_held = ~0ULL, most_other = 0;
#pragma unroll
  for (int r = 0; r < kSlots; ++r) {
    const int e = r * 32 + lane;
    const bool open = ((search.open_slots >> r) & 1u) != 0;
    key[r] = open ? key_of(search.value_in(row[e], search.instance_for(row[e], e))) : 0;
    if (open && ((state.held_slots >> r) & 1u) != 0)
      least_held = min(least_held, key[r]);
    else
      most_other = max(most_other, key[r]);
  }
  least_held = ~warp_max(~least_held);
  most_other = warp_max(most_other);
  int held = lane < k ? state.item : -1;
  if (least_held <= most_other) {
    unsigned order[kSlots];
#pragma unroll
    for (int r = 0; r < kSlots; ++r)
      order[r] = key[r] != 0 ? order_of(search.scores(t)[r * 32 + lane]) : 0u;
    held = select_by_keys<kSlots, true>(key, order, k, lane);
  }
  const bool used = lane < k;
  const int instance = used ? search.instance_for(row[held], held) : -1;
  const float score = used ? search.scores(t)[held] : 0.0f;
  write_token(search.launch, board.pack, held, instance, score, state.mass, state.own, t, t, lane);
  return used ? search.utility_in(row[held], instance) : 0;
}

// Loads and what they cost. All threads.
__device__ inline void count_loads(const BatchBoard& board, int instances, int rows, int lane) {
  Fixed cost = 0;
  for (int i = threadIdx.x; i < rows * 32; i += blockDim.x) {
    const int load = i < instances ? board.pack.load_of(i) : 0;
    board.pack.total[i] = load;
    if (load > 0) cost += board.open[i] + load * board.charge[i];
  }
  if (__any_sync(kAllLanes, cost != 0)) cost = warp_sum(cost);
  if (lane == 0) add_fixed(&board.pack.counts->cost, cost);
}

// Experts and instances that are used. All threads.
template <typename Search>
__device__ inline void count_used(const Search& search) {
  const PackBoard& pack = search.board.pack;
  for (int base = static_cast<int>(threadIdx.x) - search.lane; base < search.experts;
       base += static_cast<int>(blockDim.x)) {
    const int e = base + search.lane;
    int used = 0;
    if (e < search.experts) {
      const unsigned span = search.span_of(e);
      for (int n = 0; n < search.count_of(span); ++n)
        used += pack.total[search.first_of(span) + n] > 0 ? 1 : 0;
    }
    const int experts = __popc(__ballot_sync(kAllLanes, used > 0));
    used = __reduce_add_sync(kAllLanes, used);
    if (search.lane != 0 || used == 0) continue;
    atomicAdd(&pack.counts->experts, experts);
    atomicAdd(&pack.counts->instances, used);
  }
}

// As RoundSearch has it.
__device__ inline unsigned read_span(const RoutingLaunch& launch, int e) {
  const int begin = launch.instances.first[e], end = launch.instances.first[e + 1];
  bool has_free = false;
  for (int i = begin; i < end; ++i)
    has_free = has_free || price_to_fixed(launch.prices.open, i) == 0;
  return (has_free ? 1u << 31 : 0u) | static_cast<unsigned>(end - begin) << 16 |
         static_cast<unsigned>(begin);
}

// Clears the board and reads the prices; whether any charge is not zero. All threads.
template <bool kSingle>
__device__ inline bool prepare_board(const RoutingLaunch& launch, const BatchShape& shape,
                                     const BatchBoard& board, int instances) {
  bool priced = false;
  for (int i = threadIdx.x; i < shape.rows * 32; i += blockDim.x) {
    const bool real = i < instances;
    const Fixed open = real ? price_to_fixed(launch.prices.open, i) : 0;
    const Fixed charge = real ? price_to_fixed(launch.prices.slope, i) : 0;
    board.open[i] = open;
    board.charge[i] = charge;
    board.lack[i] = SplitSum::of(open);
    if constexpr (!kSingle)
      board.kept[i] = real && launch.instances.kept_instance != nullptr
                          ? launch.instances.kept_instance[i]
                          : 1.0;
    priced = priced || charge != 0;
  }
  for (int e = threadIdx.x; e < (launch.input.experts + 31) / 32 * 32; e += blockDim.x) {
    board.fallback[e] = {0, 0};
    board.votes[e] = {0, 0};
    board.is_open[e] = 0;
    board.is_fixed[e] = 0;
    if constexpr (!kSingle)
      if (e < launch.input.experts) board.span[e] = read_span(launch, e);
  }
  board.pack.clear(instances);
  return __syncthreads_or(priced ? 1 : 0) != 0;
}

// The kernel's body.
template <int kSlots, bool kSingle, TokenPlace kPlace>
__device__ inline void route_batch(const RoutingLaunch& launch, BatchShape shape,
                                   unsigned char* shared, unsigned char* workspace) {
  shape.place = kPlace;
  const int lane = static_cast<int>(threadIdx.x) & 31, warp = static_cast<int>(threadIdx.x) >> 5;
  const int instances =
      kSingle || launch.instances.count == 0 ? launch.input.experts : launch.instances.count;
  TokenScores<kSlots> scores;  // of the warp's first token: they come while the prices do
  if (warp < launch.input.tokens) scores.fetch(launch.input, warp, lane);
  BatchBoard board;
  carve_batch(shared, workspace, shape, launch.input, &board);
  RoundSearch<kSlots, kSingle, kPlace> search{
      launch, shape, board, launch.input.experts, instances, launch.input.k, lane, warp};
  search.priced = prepare_board<kSingle>(launch, shape, board, instances);
  using State = typename RoundSearch<kSlots, kSingle, kPlace>::State;
  search.for_tokens([&](int t, State& state) {
    if (t != warp) scores.fetch(launch.input, t, lane);
    scores.gate(launch.input, lane);
    prepare_token(search, scores, t, state);
    return true;
  });
  __syncthreads();
  search.run();
  if constexpr (!kSingle) {
    search.choose_instances();
    __syncthreads();
  }
  Fixed utility = 0;
  search.for_tokens([&](int t, State& state) {
    utility += finish_token(search, t, state);
    return false;
  });
  utility = warp_sum(utility);
  if (lane == 0) add_fixed(&board.pack.counts->utility, utility);
  __syncthreads();
  count_loads(board, instances, shape.rows, lane);
  __syncthreads();
  if (warp == 0) sum_offsets(board.pack, instances, shape.rows, lane);
  count_used(search);
  __syncthreads();
  write_packed(launch, board.pack, nullptr, 0, launch.input.tokens);
  write_offsets(launch, board.pack, instances);
  if (threadIdx.x == 0) write_report(*board.pack.counts, launch.output.report);
}

}  // namespace thermoe::cuda
