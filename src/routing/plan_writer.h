// From the solver's choice to the plan that the request's caller reads.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "routing/open_set.h"
#include "thermoe/routing_policy.h"

namespace thermoe {

// What each token uses: [T, k] instances in any order, -1 for an empty slot.
using InstanceChoice = std::vector<int32_t>;

// For a set of open instances each token's best k of it, ties by higher score, then by lower id:
// the state itself breaks ties as its history has it.
class ChoiceMaker {
 public:
  void choose(const Program& program, const OpenSet& state, ConstMatrix scores,
              InstanceChoice& choice);

 private:
  void choose_token(const Program& program, const OpenSet& state, const float* scores, int t,
                    int32_t* out);
  struct Item {
    double value;
    float score;
    int32_t instance;
  };
  static bool before(const Item& a, const Item& b);
  std::vector<Item> items_;
};

// Overwrites the plan's own top-k (fill_top_k) with the choice where it differs, sizes
// plan.instances, fills `changed` and the report's counts and gate mass.
class PlanWriter {
 public:
  void write(const RoutingRequest& request, const Program& program, const InstanceChoice& choice,
             std::span<const float> masses, RoutingPlan& plan);

 private:
  double write_token(const RoutingRequest& request, const Program& program,
                     std::span<const int32_t> chosen, float mass, int t, RoutingPlan& plan);
  std::vector<int32_t> sorted_;
  std::vector<uint8_t> used_experts_, used_instances_;
};

}  // namespace thermoe
