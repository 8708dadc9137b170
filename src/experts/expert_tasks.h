// The work of all experts of one layer, cut into tasks for the thread pool.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "experts/quantized_tasks.h"
#include "kernels/cpu/rows.h"
#include "thermoe/moe_layer.h"
#include "thermoe/routing_plan.h"
#include "thermoe/thread_pool.h"

namespace thermoe {

// What an instance of a plan runs.
struct ExpertTarget {
  int expert = 0;
  Precision precision = Precision::kStored;
};

// Pairs [first, first + count) of the packed order: some rows of one expert.
struct ExpertTile {
  ExpertTarget target;
  int64_t first = 0, count = 0;
};

// Cuts the plan's packed order into tiles of one instance and a bounded number of rows; `targets`
// [I] of the plan's instances. Those of stored experts come first.
void make_tiles(const RoutingPlan& plan, std::span<const ExpertTarget> targets,
                std::vector<ExpertTile>& tiles);

// Where the experts read and write, all in the plan's packed order.
struct ExpertBuffers {
  cpu::PackedRows input;            // of the tokens, as stored experts read them; no ids
  ConstMatrix rows;                 // of the tokens, dense: what quantised experts read
  const int32_t* tokens = nullptr;  // [pairs] the row of each pair
  Matrix inner;                     // [pairs, padded intermediate] silu(gate) * up, packed
  Matrix outputs;                   // [pairs, hidden]
  std::span<std::vector<float>> worker_scratch;  // one per worker
  QuantizedWorkspace* quantized = nullptr;       // of the quantised experts
};

// out[r] = expert(x[r]) of dense rows in one precision, on the calling thread; `scratch` grows as
// needed.
void run_expert(const ExpertWeights& expert, Precision precision, ConstMatrix x, Matrix out,
                std::vector<float>& scratch);

// outputs[p] = expert of p (input[tokens[p]]) for all pairs. Shapes: an expert of m rows reads
// 6 * hidden * intermediate bytes of bf16 weights, about 3.1 in int8 and 1.6 in int4, and does
// 6 * m * hidden * intermediate FLOPs.
void run_tiles(std::span<const ExpertWeights> experts, std::span<const ExpertTile> tiles,
               const ExpertBuffers& buffers, ThreadPool& pool);

}  // namespace thermoe
