// Closes the gap between plan and bound: tries every plan that the bound does not rule out.
#pragma once

#include <cstdint>
#include <vector>

#include "routing/dual_bound.h"
#include "routing/open_set.h"

namespace thermoe {

// At a fixed theta the bound is a sum over experts, so giving expert e the subset S instead of its
// best one lowers the bound by regret(e, S) = max_S' A_e(S') - A_e(S): a plan that deviates from
// the best subsets by a total regret of bound - incumbent or more is not better than the incumbent.
// What is left is usually a handful of subsets, which are tried one by one, depth first by rising
// regret; each costs a few openings and closings of the state.
class ExactSearch {
 public:
  // Leaves the best set found in `state` (never a worse one). True where nothing can be better.
  bool run(const Program& program, const DualBound& dual, OpenSet& state, int nodes);

 private:
  struct Alternative {
    double regret;
    int32_t expert;
    uint32_t subset;
  };
  void collect(const Program& program, const DualBound& dual, double gap);
  void descend(const Program& program, OpenSet& state, size_t from, double used);
  void to_bound_set(const Program& program, OpenSet& state);
  bool close_rest(const Program& program, OpenSet& state, int expert);
  void assign(const Program& program, OpenSet& state, int expert, uint32_t subset);
  double outlook(const Program& program, const OpenSet& state, int expert) const;
  void note(const OpenSet& state);

  std::vector<Alternative> alternatives_;  // by rising regret
  std::vector<uint32_t> current_;          // [E] subset that is open
  std::vector<uint8_t> touched_;           // [E] deviates on the current path
  std::vector<uint8_t> best_flags_;        // [I]
  std::vector<int32_t> pending_;           // experts that could not yet close
  double bound_ = 0, best_ = 0;
  int nodes_left_ = 0;
  bool complete_ = true;
};

}  // namespace thermoe
