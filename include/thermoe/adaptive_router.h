// AdaptiveRouter: the routing program of docs/theory.md, solved for one batch of one layer.
#pragma once

#include <cstdint>
#include <memory>

#include "thermoe/routing_policy.h"
#include "thermoe/utility_model.h"

namespace thermoe {

struct AdaptiveRouterSettings {
  // How far the plan is searched at given prices on one device without capacities.
  enum class Search : uint8_t {
    kProven,  // until it is proven best or the limits below are reached
    kClimb,   // experts closed in rounds, nothing taken back, which is what the GPU does
              // (kernels/cuda/routing.h); the bound is the dual's where it begins
  };
  UtilityModel utility = {};
  Search search = Search::kProven;
  // Where a request says nothing of them:
  RoutingGoal goal = {};
  // Of every instance; opening costs open_price times the read_frac of the instance's variant.
  float open_price = 0, slope_price = 0;
  int min_k = 0;                // 0: exactly k
  int dual_iterations = 200;    // at most, for the bound
  double dual_gap_frac = 1e-6;  // stop when the gap is below this
  int exact_nodes = 4000;       // sets of experts tried, at most, to close the gap
  // Budgets, devices and capacities: begin where the last request of the same layer, goal and shape
  // ended. Faster where steps are alike, but the plan then depends on that request too.
  bool warm_start = false;
};

// Chooses, for the whole batch, the plan that is best for the request's goal, and a dual bound as
// certificate: any mix of prices, variants, replicas on devices, capacities and variable k. At
// given prices on one device without capacities the plan is searched until it is proven best (gap
// 0) or the settings' limits are reached (unless the settings say kClimb); elsewhere the gap says
// what may be left. With zero prices
// and nothing else to decide the plan is bit-identical to TopKPolicy's. Tokens whose set changed
// take each chosen expert's raw share of their original top-k mass; the others' weights are
// untouched.
//
// Utilities and prices count in steps of 2^-32 units (a price above 2^20 as 2^20), so that sums are
// exact: plan and report are deterministic, depend on the request and settings alone (without
// warm_start, not on what was routed before), and permute with the tokens and experts. For requests
// of one shape nothing is allocated once the storage has grown to what they need. Not thread-safe:
// one per thread.
class AdaptiveRouter : public RoutingPolicy {
 public:
  // Throws InvalidArgument on settings out of range.
  explicit AdaptiveRouter(AdaptiveRouterSettings settings = {});
  ~AdaptiveRouter() override;
  const char* name() const override { return "adaptive"; }
  const AdaptiveRouterSettings& settings() const;
  void route(const RoutingRequest& request, RoutingPlan& plan) override;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace thermoe
