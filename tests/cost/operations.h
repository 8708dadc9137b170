// Single operations to ask the shipped profiles for.
#pragma once

#include <string>
#include <vector>

#include "cost/paths.h"
#include "thermoe/kernel_cost_model.h"

namespace thermoe::test {

// For queries of single operations no shape is needed.
inline KernelCostModel device(const char* name, const CostShape& shape = {},
                              const KernelChoice& choice = {}) {
  return {source_path(std::string("data/profiles/") + name + ".json"), shape, choice};
}
inline const KernelCostModel& h100() {
  static const KernelCostModel model = device("h100-sxm", cost_shape("qwen3-30b-a3b"));
  return model;
}
inline ExpertsQuery experts_of(const char* name, double tokens) {
  const CostShape& s = cost_shape(name);
  return {s.hidden_size, s.expert_inter_size, s.experts, s.top_k, 1, 1, tokens, "balanced"};
}
inline HardwareState at_clock(double mhz) {
  HardwareState state;
  state.present = true;
  state.sm_clock_mhz = mhz;
  return state;
}

// One of each kind, from decode and from prefill.
inline std::vector<CostEstimate> some_of_each(const KernelCostModel& m,
                                              const HardwareState* s = nullptr) {
  return {m.experts(experts_of("qwen3-30b-a3b", 16), s),
          m.experts(experts_of("qwen3-235b-a22b", 300), s),
          m.linear({16, 2048, 5120}, s),
          m.linear({8192, 4096, 4096}, s),
          m.attention({16, 1, 2000, 32, 4, 128}, s),
          m.attention({1, 4096, 4096, 32, 4, 128}, s),
          m.elementwise({16, 2048, 2, 2}, s),
          m.elementwise({100000, 2048, 2, 2}, s)};
}

}  // namespace thermoe::test
