// Local search over sets of open instances: close, open, swap, while the objective rises.
#pragma once

#include <vector>

#include "routing/open_set.h"

namespace thermoe {

// Steepest ascent: of all moves of a kind the one that gains most, ties by lower id. Every accepted
// move raises the objective on the grid, so the search ends. Keeps its storage.
class PrimalSearch {
 public:
  // Closes and opens one at a time until neither gains.
  void climb(const Program& program, OpenSet& state);
  // Exchanges an open instance for a closed one (another expert's, or the expert's other instance)
  // as long as that gains, climbing after each. Whether anything was found.
  bool climb_by_swaps(const Program& program, OpenSet& state);

 private:
  bool close_best(const Program& program, OpenSet& state);
  bool open_best(const Program& program, OpenSet& state);
  bool swap_best(const Program& program, OpenSet& state);
  bool try_swap(OpenSet& state, int closing, int opening);

  std::vector<double> gains_, swap_gains_;
};

}  // namespace thermoe
