// MoeLayer: gate, routing, experts, weighted combine.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "thermoe/adaptive_router.h"
#include "thermoe/simple_expert.h"
#include "thermoe/thread_pool.h"

namespace thermoe {

struct MoeSettings {
  int top_k = 0;
  bool renormalize = true;  // norm_topk_prob
  int layer = 0;            // this layer's number, passed to the policy
};

// Called once per routed group with the plan just made, before the experts run.
class PlanObserver {
 public:
  virtual ~PlanObserver() = default;
  virtual void on_plan(int layer, const RoutingPlan& plan) = 0;
};

// Tokens that route together: rows [first, first + count) of a batch are one group.
struct RowGroup {
  int64_t first = 0;
  int64_t count = 0;
};

// Not thread-safe (owns scratch); its weights are views of the checkpoint, which must outlive it.
class MoeLayer {
 public:
  // gate: [E, hidden].
  MoeLayer(const WeightView& gate, std::vector<SimpleExpert> experts, const MoeSettings& settings);

  int experts() const { return static_cast<int>(experts_.size()); }
  const MoeSettings& settings() const { return settings_; }

  // out = moe(x), both [N, hidden] f32. `groups` partition the rows in order; each is routed by
  // `policy` as one batch at `prices`; then every expert runs once over all rows that chose it.
  // Throws InvalidArgument (from the policy) when router logits are not finite, naming the layer.
  void forward(ConstMatrix x, std::span<const RowGroup> groups, RoutingPolicy& policy,
               const ExpertPrices* prices, Matrix out, ThreadPool& pool,
               PlanObserver* observer = nullptr);

 private:
  WeightView gate_;
  std::vector<SimpleExpert> experts_;
  MoeSettings settings_;
  RoutingPlan group_plan_, merged_;
  std::vector<float> scores_, scratch_;
};

}  // namespace thermoe
