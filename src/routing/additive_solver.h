// Plan and bound of a program with additive prices: search, bound, and what closes the gap.
#pragma once

#include <span>

#include "routing/closing_rounds.h"
#include "routing/dual_bound.h"
#include "routing/exact_search.h"
#include "routing/open_set.h"
#include "routing/primal_search.h"

namespace thermoe {

struct SearchEffort {
  int dual_iterations = 100;
  double dual_gap_frac = 1e-4;
  int exact_nodes = 4000;
};

class AdditiveSolver {
 public:
  // own_best as for OpenSet::start. The result is state() and bound(), which is never below the
  // objective of any plan, and equal to state().objective() where that is proven best.
  void solve(const Program& program, std::span<const int32_t> own_best, const SearchEffort& effort);
  // The plan by closing in rounds (ClosingRounds), of programs with empty slots by climb(), and the
  // bound where the dual begins. own_best as for ClosingRounds::run.
  void solve_by_closing(const Program& program, std::span<const int32_t> own_best);
  // Only the plan, by closings and openings alone, or by exchanges too.
  void climb(const Program& program, std::span<const int32_t> own_best);
  void climb_by_exchanges(const Program& program);

  OpenSet& state() { return state_; }
  DualBound& dual() { return dual_; }
  double bound() const { return bound_; }

 private:
  bool close_gap(const Program& program, int iterations, double gap_frac, int nodes);

  OpenSet state_;
  PrimalSearch primal_;
  ClosingRounds rounds_;
  DualBound dual_;
  ExactSearch exact_;
  double bound_ = 0;
};

}  // namespace thermoe
