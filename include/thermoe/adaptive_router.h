// AdaptiveRouter: the routing program of docs/theory.md, solved for one batch of one layer.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "thermoe/expert_prices.h"
#include "thermoe/routing_plan.h"
#include "thermoe/views.h"

namespace thermoe {

// One batch to route. The views and prices are read during the call only.
struct RoutingRequest {
  ConstMatrix scores;                    // [T, E] gate probabilities (after softmax), finite, >= 0
  int k = 0;                             // experts per token, 1 <= k <= E
  bool renormalize = true;               // weights of an unmodified token sum to 1 (norm_topk_prob)
  const ExpertPrices* prices = nullptr;  // null: zero prices
  int layer = 0;                         // for policies that keep state per layer
};

// Anything that makes a plan of scores: the adaptive router, plain top-k, the published policies.
class RoutingPolicy {
 public:
  virtual ~RoutingPolicy() = default;
  virtual const char* name() const = 0;
  // Fills `plan` (packed included). Throws InvalidArgument on scores that are not finite or
  // negative (naming token and expert), k outside [1, E], T == 0, prices of the wrong length,
  // negative or not finite; `plan` is then unspecified, the policy usable.
  virtual void route(const RoutingRequest& request, RoutingPlan& plan) = 0;
};

// The model's own routing: the k highest scores, ties by lower expert id.
class TopKPolicy : public RoutingPolicy {
 public:
  const char* name() const override { return "topk"; }
  void route(const RoutingRequest& request, RoutingPlan& plan) override;

 private:
  std::vector<float> masses_;
  std::vector<uint8_t> seen_;
};

struct AdaptiveRouterSettings {
  // Least share of the tokens' own top-k mass that a batch keeps on average; closing stops there.
  std::optional<double> min_gate_mass_frac = std::nullopt;
  int dual_iterations = 100;    // at most, for the bound
  double dual_gap_frac = 1e-4;  // stop when the gap is below this
};

// Chooses, for the whole batch, the plan that maximises utility minus price: the drop rule (close
// the expert whose removal costs its tokens least while that is less than its price), and a dual
// bound as certificate. With zero prices the plan is bit-identical to TopKPolicy's. Tokens whose
// set changed take each chosen expert's raw share of their original top-k mass; the others' weights
// are untouched. Deterministic; permuting the tokens permutes the plan. Not thread-safe: one per
// thread.
class AdaptiveRouter : public RoutingPolicy {
 public:
  explicit AdaptiveRouter(AdaptiveRouterSettings settings = {});
  ~AdaptiveRouter() override;
  const char* name() const override { return "adaptive"; }
  void route(const RoutingRequest& request, RoutingPlan& plan) override;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace thermoe
