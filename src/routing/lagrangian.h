// Bounds for the general program: multipliers on devices, capacities and budgets make it additive.
#pragma once

#include <vector>

#include "routing/costs.h"
#include "routing/dual_bound.h"
#include "routing/program.h"

namespace thermoe {

// For any rho >= 0, lambda >= 0 with sum 1, mu >= 0 and any choice that keeps the capacities
//   utility - rho cost <= [utility - sum_i (rho (slope + lambda_g device_slope) + mu_i) load_i
//                          - rho sum_i (open + lambda_g device_open) used_i]
//                         - rho sum_g lambda_g base_g + sum_i mu_i capacity_i,
// because the slowest device costs at least the lambda-mean of all. The bracket is an additive
// program's objective, so DualBound bounds it.
struct DualMultipliers {
  double rho = 1;              // worth of a unit of cost
  std::vector<double> lambda;  // [devices]
  std::vector<double> mu;      // [I], on the grid
};

class Lagrangian {
 public:
  // lambda equal on all devices, no mu.
  void start(const Costs& costs, int instances, double rho);
  DualMultipliers& multipliers() { return now_; }
  // Gives `program` the prices of the multipliers.
  void price(const Costs& costs, Program& program);
  // What is added to a bound of the priced program.
  double constant(const Costs& costs) const;

  // Improves theta, lambda and mu together by Polyak steps towards `target`, a lower bound on the
  // optimum of utility - rho cost; `dual` was started on this program. Leaves the best multipliers
  // set (and priced) and returns the least bound on utility - rho cost.
  double improve(const Costs& costs, Program& program, DualBound& dual, double target,
                 int iterations, double gap_frac);

 private:
  double slope_norm_squared(const Costs& costs, const Program& program, const DualBound& dual);
  void step(const Costs& costs, double length);

  DualMultipliers now_, best_;
  std::vector<double> charge_, opening_;         // [I]
  std::vector<double> lambda_slope_, mu_slope_;  // of the bound
  std::vector<int32_t> loads_;                   // [I]
  std::vector<uint8_t> uses_;                    // [I]
};

}  // namespace thermoe
