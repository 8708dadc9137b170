// The certificate: an upper bound on every plan's objective, from the program's dual.
#pragma once

#include <span>
#include <vector>

#include "routing/drop_rule.h"

namespace thermoe {

// With a margin price theta[t] for each token's slots, weak duality gives, for any theta,
//   objective <= k * sum_t theta[t] + sum_e max(0, sum_t max(0, value[t, e] - theta[t]) - open[e]),
// which is the cost-sharing dual with q[t, e] = max(0, value[t, e] - theta[t]) scaled into open[e].
// Minimised over theta by subgradient steps of Polyak's length towards the primal objective, which
// is a sharp target because the relaxation is nearly always tight. Keeps its storage.
class DualBound {
 public:
  // The least bound found in at most `iterations` steps; stops early when (bound - objective) falls
  // to gap_frac of |bound|. `objective` is that of the plan in `primal`, from which it starts.
  // Never below `objective`.
  double run(const FixedProgram& program, const DropRule& primal, double objective, int iterations,
             double gap_frac);

 private:
  void start(const FixedProgram& program, const DropRule& primal);
  double evaluate(const FixedProgram& program);
  double slope_norm_squared(const FixedProgram& program);

  std::vector<double> value_;    // [T, E]
  std::vector<double> open_;     // [E]
  std::vector<double> theta_;    // [T]
  std::vector<double> surplus_;  // [E] sum_t max(0, value - theta), less open
  std::vector<double> slope_;    // [T] a subgradient at theta_
};

}  // namespace thermoe
