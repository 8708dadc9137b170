#include "routing/additive_solver.h"

#include <algorithm>

namespace thermoe {

void AdditiveSolver::climb(const Program& program, std::span<const int32_t> own_best) {
  state_.start(program, own_best);
  primal_.climb(program, state_);
}

void AdditiveSolver::solve_by_closing(const Program& program, std::span<const int32_t> own_best) {
  if (program.empty_slots() > 0) {
    climb(program, {});
  } else {
    state_.start(program, program.single ? own_best : std::span<const int32_t>());
    state_.go_to(rounds_.run(program, own_best));
  }
  dual_.start(program, state_);
  bound_ = std::max(dual_.bound(), state_.objective());
}

void AdditiveSolver::climb_by_exchanges(const Program& program) {
  climb(program, {});
  primal_.climb_by_swaps(program, state_);
}

// True where the plan is proven best.
bool AdditiveSolver::close_gap(const Program& program, int iterations, double gap_frac, int nodes) {
  bound_ = dual_.improve(program, state_.objective(), iterations, gap_frac);
  const bool proven = exact_.run(program, dual_, state_, nodes);
  bound_ = proven ? state_.objective() : std::max(bound_, state_.objective());
  return proven;
}

void AdditiveSolver::solve(const Program& program, std::span<const int32_t> own_best,
                           const SearchEffort& effort) {
  climb(program, own_best);
  dual_.start(program, state_);
  // Most batches end at the first of these: a rough bound leaves few sets to try.
  const int first_iterations = std::min(effort.dual_iterations, 12);
  const int first_nodes = std::min(effort.exact_nodes, 64);
  if (close_gap(program, first_iterations, effort.dual_gap_frac, first_nodes)) return;
  primal_.climb_by_swaps(program, state_);
  close_gap(program, effort.dual_iterations - first_iterations, effort.dual_gap_frac,
            effort.exact_nodes);
}

}  // namespace thermoe
