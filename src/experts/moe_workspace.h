// The buffers of a MoE layer's forward pass; they keep their capacity from step to step.
#pragma once

#include <cstdint>
#include <vector>

#include "experts/expert_tasks.h"
#include "thermoe/routing_plan.h"
#include "thermoe/views.h"

namespace thermoe {

// Grows `buffer` to `size` at least; what it held is lost.
inline float* at_least(std::vector<float>& buffer, size_t size) {
  if (buffer.size() < size) buffer.resize(size);
  return buffer.data();
}

struct MoeWorkspace {
  RoutingPlan group_plan, plan;        // of one group; of all rows
  std::vector<float> packed;           // [N, padded hidden] in the experts' order
  std::vector<float> packed_for_gate;  // likewise in the gate's, where that differs
  std::vector<float> scores;           // [N, E]
  std::vector<float> inner, outputs;   // [N * k, ...] in the plan's packed order
  std::vector<int32_t> tokens;         // [used pairs] row of each, in packed order
  std::vector<int32_t> places;  // [N * k] where in packed order a used pair (token, slot) stands
  std::vector<ExpertTarget> targets;  // [I] what each instance of the layout runs
  std::vector<ExpertTile> tiles;
  std::vector<std::vector<float>> worker_scratch;
  QuantizedWorkspace quantized;
};

}  // namespace thermoe
