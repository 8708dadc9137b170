// How good a choice is for the request's goal, limits first.
#pragma once

#include <cstdint>

#include "routing/costs.h"
#include "thermoe/routing_policy.h"

namespace thermoe {

// A goal with its limit in the solver's unit.
struct Aim {
  RoutingGoal::Kind kind = RoutingGoal::Kind::kPrices;
  double limit = 0;  // least utility of the batch (kLeastCost) or most cost (kBestQuality)
};

// Compared in this order: tokens beyond capacities, the goal's own limit, the objective, and among
// equals what the goal does not ask for.
struct Merit {
  int64_t excess_load = 0;
  double violation = 0;
  double objective = 0;  // to be as high as possible (kLeastCost: minus the cost)
  double second = 0;

  bool feasible() const { return excess_load == 0 && violation == 0.0; }
  bool better_than(const Merit& other) const {
    if (excess_load != other.excess_load) return excess_load < other.excess_load;
    if (violation != other.violation) return violation < other.violation;
    if (objective != other.objective) return objective > other.objective;
    return second > other.second;
  }
};

inline Merit merit_of(const Aim& aim, double utility, const CostTally& tally) {
  const double cost = tally.cost();
  Merit merit{tally.excess_load(), 0.0, 0.0, 0.0};
  switch (aim.kind) {
    case RoutingGoal::Kind::kPrices:
      merit.objective = utility - cost;
      break;
    case RoutingGoal::Kind::kLeastCost:
      merit.violation = utility < aim.limit ? aim.limit - utility : 0.0;
      merit.objective = -cost;
      merit.second = utility;
      break;
    case RoutingGoal::Kind::kBestQuality:
      merit.violation = cost > aim.limit ? cost - aim.limit : 0.0;
      merit.objective = utility;
      merit.second = -cost;
      break;
  }
  return merit;
}

}  // namespace thermoe
