// MoeLayer: gate, routing, experts, weighted combine.
#pragma once

#include <cstdint>
#include <memory>
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

// Buffers of a forward pass. Layers that run one after the other may share one.
struct MoeWorkspace;
std::shared_ptr<MoeWorkspace> make_moe_workspace();

// Not thread-safe (writes its workspace); its weights are views of the checkpoint, which must
// outlive it.
class MoeLayer {
 public:
  // gate: [E, hidden]; E experts of one shape and dtype. Without a workspace the layer makes its
  // own. Throws InvalidArgument where shapes disagree, there is no expert, or top_k is outside [1,
  // E].
  MoeLayer(const WeightView& gate, std::vector<SimpleExpert> experts, const MoeSettings& settings,
           std::shared_ptr<MoeWorkspace> workspace = nullptr);

  int experts() const { return static_cast<int>(experts_.size()); }
  const MoeSettings& settings() const { return settings_; }

  // out = moe(x), both [N, hidden] f32, not overlapping. `groups` partition the rows in order; each
  // is routed by `policy` as one batch at `prices`, on softmax probabilities of the router's
  // logits; then every expert runs once over all rows that chose it. A row's output is the sum of
  // its experts' outputs in the order of the plan's slots (falling score), whatever the thread
  // count; zero where a plan leaves all of its slots unused. A plan may have more slots than top_k.
  // Throws InvalidArgument where the views' shapes don't fit or groups are no partition, for router
  // logits that are not finite (naming layer, row and expert), and for a plan that isn't one.
  void forward(ConstMatrix x, std::span<const RowGroup> groups, RoutingPolicy& policy,
               const ExpertPrices* prices, Matrix out, ThreadPool& pool,
               PlanObserver* observer = nullptr);

 private:
  void check_arguments(ConstMatrix x, std::span<const RowGroup> groups, Matrix out) const;
  void score(ConstMatrix x, ThreadPool& pool);
  void route(std::span<const RowGroup> groups, RoutingPolicy& policy, const ExpertPrices* prices,
             PlanObserver* observer);
  void run_experts(ThreadPool& pool);
  void combine(Matrix out, ThreadPool& pool);

  WeightView gate_;
  std::vector<SimpleExpert> experts_;
  MoeSettings settings_;
  std::shared_ptr<MoeWorkspace> workspace_;
};

}  // namespace thermoe
