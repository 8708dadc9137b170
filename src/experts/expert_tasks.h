// The work of all experts of one layer, cut into tasks for the thread pool.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/cpu/rows.h"
#include "thermoe/routing_plan.h"
#include "thermoe/simple_expert.h"
#include "thermoe/thread_pool.h"

namespace thermoe {

// Pairs [first, first + count) of the packed order: some rows of one expert.
struct ExpertTile {
  int expert = 0;
  int64_t first = 0, count = 0;
};

// Cuts the plan's packed order into tiles of one expert and a bounded number of rows.
void make_tiles(const RoutingPlan& plan, std::vector<ExpertTile>& tiles);

// Where the experts read and write, all in the plan's packed order.
struct ExpertBuffers {
  cpu::PackedRows input;            // of the tokens; no ids
  const int32_t* tokens = nullptr;  // [pairs] the row of each pair
  Matrix inner;                     // [pairs, padded intermediate] silu(gate) * up, packed
  Matrix outputs;                   // [pairs, hidden]
  std::span<std::vector<float>> worker_scratch;  // one per worker
};

// outputs[p] = expert of p (input[tokens[p]]) for all pairs. Shapes: an expert of m rows reads
// 6 * hidden * intermediate bytes of bf16 weights and does 6 * m * hidden * intermediate FLOPs.
void run_tiles(std::span<const SimpleExpert> experts, std::span<const ExpertTile> tiles,
               const ExpertBuffers& buffers, ThreadPool& pool);

}  // namespace thermoe
