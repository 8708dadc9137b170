// One launch of a kernel for experts, with everything that it reads and writes, and what float64
// makes of the same.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <ostream>
#include <random>
#include <string>
#include <vector>

#include "kernels/cuda/device_experts.h"
#include "kernels/cuda/prefill_experts.h"
#include "thermoe/routing_plan.h"

namespace thermoe::test {

constexpr cuda::ExpertForm kBf16 = cuda::ExpertForm::kBf16, kInt8 = cuda::ExpertForm::kInt8,
                           kInt4 = cuda::ExpertForm::kInt4, kFp8 = cuda::ExpertForm::kFp8;

struct ExpertCase {
  std::string name;
  int tokens, k, hidden, inter;
  std::vector<cuda::ExpertForm> forms;  // of the instances
  int hot = 0;                          // tokens that all use instance 0
  bool holes = false;                   // some slots unused
};

inline void PrintTo(const ExpertCase& c, std::ostream* out) { *out << c.name; }

// Random distinct instances for each token.
inline RoutingPlan random_plan(const ExpertCase& c, std::mt19937& generator) {
  RoutingPlan plan;
  const int instances = static_cast<int>(c.forms.size());
  plan.tokens = c.tokens;
  plan.experts = instances;
  plan.k = c.k;
  std::vector<int32_t> all(static_cast<size_t>(instances));
  for (int i = 0; i < instances; ++i) all[static_cast<size_t>(i)] = i;
  std::uniform_real_distribution<float> weight(0.05f, 1.0f);
  for (int t = 0; t < c.tokens; ++t) {
    std::shuffle(all.begin(), all.end(), generator);
    if (t < c.hot) std::swap(all[0], *std::find(all.begin(), all.end(), 0));
    for (int s = 0; s < c.k; ++s) {
      const bool hole = c.holes && s > 0 && s >= c.k - t % c.k;
      plan.instances.push_back(hole ? -1 : all[static_cast<size_t>(s)]);
      plan.weights.push_back(hole ? 0.0f : weight(generator));
    }
  }
  plan.ids = plan.instances;
  pack(plan, instances);
  return plan;
}

// Everything of one launch, in device memory.
struct Launch {
  std::vector<TestExpert> experts;
  std::vector<float> x;  // representable in bf16
  RoutingPlan plan;
  cuda::DeviceArray<cuda::DeviceExpert> device_experts;
  cuda::DeviceArray<uint16_t> device_x, fragments, out;
  cuda::DeviceArray<int32_t> instances, offsets, packed;
  cuda::DeviceArray<float> weights;
  cuda::DeviceBytes workspace;
  cuda::DecodeExpertsArguments arguments;

  Launch(const ExpertCase& c, uint32_t seed) {
    std::mt19937 generator(seed);
    std::vector<cuda::DeviceExpert> table;
    for (size_t i = 0; i < c.forms.size(); ++i) {
      experts.emplace_back(c.forms[i], c.hidden, c.inter, seed + static_cast<uint32_t>(i));
      table.push_back(experts.back().device());
    }
    const StoredWeight stored = random_weight(DType::kBf16, c.tokens, c.hidden, seed + 1000);
    x = stored.floats;
    plan = random_plan(c, generator);
    device_experts = cuda::DeviceArray<cuda::DeviceExpert>(table);
    device_x = cuda::DeviceArray<uint16_t>(stored.halves);
    fragments = cuda::DeviceArray<uint16_t>(stored.halves.size());
    cuda::check(cuda::to_fragment_order(reinterpret_cast<const __nv_bfloat16*>(device_x.data()),
                                        reinterpret_cast<__nv_bfloat16*>(fragments.data()),
                                        static_cast<int64_t>(fragments.size()), nullptr),
                "to_fragment_order");
    out = cuda::DeviceArray<uint16_t>(stored.halves.size());
    instances = cuda::DeviceArray<int32_t>(plan.instances);
    offsets = cuda::DeviceArray<int32_t>(plan.offsets);
    packed = cuda::DeviceArray<int32_t>(plan.packed);
    weights = cuda::DeviceArray<float>(plan.weights);
    workspace =
        cuda::DeviceBytes(cuda::prefill_experts_workspace(c.tokens, c.k, c.hidden, c.inter));
    workspace.fill(0);
    arguments.tokens = c.tokens;
    arguments.k = c.k;
    arguments.hidden = c.hidden;
    arguments.inter = c.inter;
    arguments.instances = plan.experts;
    arguments.experts = device_experts.data();
    arguments.x = reinterpret_cast<const __nv_bfloat16*>(fragments.data());
    arguments.plan_instances = instances.data();
    arguments.plan_weights = weights.data();
    arguments.offsets = offsets.data();
    arguments.packed = packed.data();
    arguments.out = reinterpret_cast<__nv_bfloat16*>(out.data());
    arguments.workspace = workspace.data();
  }

  // The output of `launch`, a function of the arguments that returns a status.
  template <typename Function>
  std::vector<uint16_t> run(const Function& launch) {
    out.fill(0xFF);  // NaN
    cuda::check(launch(arguments), "launching");
    cuda::check(cudaDeviceSynchronize(), "running");
    return out.host();
  }

  // Every pair's expert in float64; `run(expert, x)` is one's.
  template <typename Run>
  std::vector<std::vector<double>> parts(const Run& run) const {
    std::vector<std::vector<double>> all(plan.instances.size());
    for (size_t pair = 0; pair < all.size(); ++pair)
      if (const int i = plan.instances[pair]; i >= 0)
        all[pair] = run(
            experts[static_cast<size_t>(i)],
            x.data() + pair / static_cast<size_t>(plan.k) * static_cast<size_t>(arguments.hidden));
    return all;
  }

  double reference(int t, int row, const std::vector<std::vector<double>>& parts) const {
    double sum = 0;
    for (int s = 0; s < plan.k; ++s) {
      const size_t pair = static_cast<size_t>(t * plan.k + s);
      if (plan.instances[pair] >= 0)
        sum += static_cast<double>(plan.weights[pair]) * parts[pair][static_cast<size_t>(row)];
    }
    return sum;
  }
};

inline float widen(uint16_t bits) {
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &wide, 4);
  return value;
}

// ||out - reference|| / ||reference||; NaN where an output is none. `parts`: [T, k] of [hidden].
inline double relative_error(const Launch& launch, const std::vector<std::vector<double>>& parts,
                             const std::vector<uint16_t>& out) {
  const int hidden = launch.arguments.hidden;
  double error = 0, norm = 0;
  for (int t = 0; t < launch.plan.tokens; ++t)
    for (int row = 0; row < hidden; ++row) {
      const double expected = launch.reference(t, row, parts);
      const double got = widen(out[static_cast<size_t>(t * hidden + row)]);
      error += (got - expected) * (got - expected);
      norm += expected * expected;
    }
  return std::sqrt(error / norm);
}

inline std::vector<cuda::ExpertForm> forms(int count,
                                           std::initializer_list<cuda::ExpertForm> cycle) {
  std::vector<cuda::ExpertForm> all;
  for (int i = 0; i < count; ++i)
    all.push_back(cycle.begin()[static_cast<size_t>(i) % cycle.size()]);
  return all;
}

}  // namespace thermoe::test
