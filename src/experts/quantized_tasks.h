// The work of the quantised experts of one layer, cut into tasks for the thread pool.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "thermoe/quantized_expert.h"
#include "thermoe/thread_pool.h"
#include "thermoe/views.h"

namespace thermoe {

// Pairs [first, first + count) of a plan's packed order: some rows of one expert.
struct QuantizedTile {
  const QuantizedExpert* expert = nullptr;
  Planes planes = Planes::kBoth;
  int64_t first = 0, count = 0;
};

// Buffers of run_quantized_tiles(); they keep their capacity from call to call.
struct QuantizedWorkspace {
  std::vector<std::byte> input;               // the quantised rows of x
  std::vector<std::byte> inner;               // likewise of silu(gate) * up, of each pair
  std::vector<std::vector<float>> activated;  // of each worker: a panel before it is quantised
};

// outputs[p] = expert of p (x[tokens[p]]) for the pairs p of all tiles, whose experts have one
// shape; tokens and outputs span all pairs of the plan. x [N, hidden] is quantised once for all
// experts, what goes into down once per pair. The values are those of QuantizedExpert::run(), to
// the bit, whatever the thread count. An expert of m rows reads weight_bytes() and does
// 6 * m * hidden * intermediate operations.
void run_quantized_tiles(std::span<const QuantizedTile> tiles, ConstMatrix x, const int32_t* tokens,
                         Matrix outputs, QuantizedWorkspace& workspace, ThreadPool& pool);

}  // namespace thermoe
