// From scores to plan by the routing program of the whole batch: fills the search's table, climbs,
// writes. One block.
#pragma once

#include "kernels/cuda/routing_climb.cuh"

namespace thermoe::cuda {

// The token's row of the table and what it takes if everything is open.
template <int kSlots>
__device__ inline void prepare_token(const Climber& climber, int t, bool own_is_best) {
  const RoutingLaunch& launch = climber.launch;
  const ClimbBoard& board = climber.board;
  const int k = climber.k, lane = climber.lane;
  TokenScores<kSlots> scores;
  scores.load(launch.input, t, lane);
  const TopK top = select_top_k(scores, launch.input, lane);
  note_bad(board.pack, scores.bad_expert, top.mass, t, lane);
  Fixed* row = climber.row(t);
  fill_row(launch, climber.catalog, scores, top, board.charge, row, climber.shape.rows, lane);
  scores.store(board.scores + static_cast<size_t>(t) * climber.catalog.experts,
               climber.catalog.experts, lane);
  if (lane == 0) board.mass[t] = top.mass;
  __syncwarp();
  int held = top.id;
  if (!own_is_best)
    held = select_of_row<false>(row, nullptr, climber.catalog, climber.all_slots(),
                                climber.shape.rows, k, lane);
  if (lane >= k) return;
  board.own[t * k + lane] = top.id;
  board.held[t * k + lane] = held;
  board.is_open[held] = 1;
}

// As ChoiceMaker::choose and PlanWriter::write_token: the held set is the only best one unless a
// held instance is worth no more than what it would fall back to. Returns the utility of the lane's
// instance.
__device__ inline Fixed finish_token(const Climber& climber, int t) {
  const ClimbBoard& board = climber.board;
  const int k = climber.k, lane = climber.lane;
  const Fixed* row = climber.row(t);
  const bool used = lane < k;
  int held = used ? board.held[t * k + lane] : -1;
  const bool tie = used && row[held] <= board.alternative[t * k + lane];
  if (__any_sync(kAllLanes, tie))
    held = select_of_row<true>(row, climber.scores(t), climber.catalog, climber.open_slots,
                               climber.shape.rows, k, lane);
  const Fixed utility = used ? row[held] + board.charge[held] : 0;
  const float score = used ? climber.scores(t)[climber.catalog.expert_of(held)] : 0.0f;
  const int own = used ? board.own[t * k + lane] : -1;
  write_token(climber.launch, climber.catalog, board.pack, held, score, board.mass[t], own, t, t,
              lane);
  return utility;
}

// Loads and what they cost. All threads.
__device__ inline void count_loads(const Climber& climber) {
  const ClimbBoard& board = climber.board;
  Fixed cost = 0;
  for (int i = threadIdx.x; i < climber.catalog.instances; i += blockDim.x) {
    const int load = board.pack.load_of(i);
    board.pack.total[i] = load;
    if (load > 0) cost += board.open[i] + load * board.charge[i];
  }
  cost = warp_sum(cost);
  if (climber.lane == 0) add_fixed(&board.pack.counts->cost, cost);
}

// Clears the board and reads the prices; whether any charge is not zero. All threads.
__device__ inline bool prepare_board(const Climber& climber) {
  const ClimbBoard& board = climber.board;
  const RouterPrices& prices = climber.launch.prices;
  board.pack.clear(climber.catalog.instances);
  __syncthreads();
  for (int i = threadIdx.x; i < climber.shape.rows * 32; i += blockDim.x) {
    const bool real = i < climber.catalog.instances;
    const Fixed open = real ? price_to_fixed(prices.open, i) : 0;
    const Fixed charge = real ? price_to_fixed(prices.slope, i) : 0;
    board.open[i] = board.gain[i] = open;
    board.charge[i] = charge;
    board.is_open[i] = 0;
    if (charge != 0) board.pack.counts->priced = 1;
  }
  __syncthreads();
  return board.pack.counts->priced != 0;
}

// The kernel's body.
template <int kSlots, bool kSingle, bool kShared>
__device__ inline void route_batch(const RoutingLaunch& launch, ClimbShape shape,
                                   unsigned char* shared, unsigned char* workspace) {
  shape.shared = kShared;
  ClimbBoard board;
  carve_climb(shared, workspace, shape, launch.input, &board);
  Climber climber{launch,
                  shape,
                  board,
                  catalog_of(launch, kSingle),
                  launch.input.k,
                  static_cast<int>(threadIdx.x) & 31,
                  static_cast<int>(threadIdx.x) >> 5};
  const bool priced = prepare_board(climber);
  // Without charges a token's best values are its best scores, known already.
  const bool own_is_best = !priced && launch.instances.first == nullptr;
  for (int t = climber.warp; t < launch.input.tokens; t += shape.warps)
    prepare_token<kSlots>(climber, t, own_is_best);
  __syncthreads();
  climber.climb();
  Fixed utility = 0;
  for (int t = climber.warp; t < launch.input.tokens; t += shape.warps)
    utility += finish_token(climber, t);
  utility = warp_sum(utility);
  if (climber.lane == 0) add_fixed(&board.pack.counts->utility, utility);
  __syncthreads();
  count_loads(climber);
  __syncthreads();
  if (climber.warp == 0)
    sum_offsets(board.pack, climber.catalog.instances, shape.rows, climber.lane);
  count_distinct(climber.catalog, board.pack);
  __syncthreads();
  write_packed(launch, board.pack, nullptr, 0, launch.input.tokens);
  write_offsets(launch, board.pack, climber.catalog.instances);
  if (threadIdx.x == 0) write_report(*board.pack.counts, launch.output.report);
}

}  // namespace thermoe::cuda
