// Brings a choice within its capacities.
#pragma once

#include <vector>

#include "routing/choice_state.h"

namespace thermoe {

// First moves, off each overfull instance, the tokens that lose least; then, where a token finds no
// room, shifts a chain of tokens (a shortest augmenting path of the flow from tokens to instances),
// so that a choice within the capacities is found whenever there is one. Keeps its storage.
class CapacityRepair {
 public:
  // Whether every capacity is kept now.
  bool run(const Program& program, const Costs& costs, ChoiceState& state);

 private:
  void shed(const Program& program, const Costs& costs, ChoiceState& state, int32_t i);
  bool shift_chain(const Program& program, const Costs& costs, ChoiceState& state, int32_t from);
  struct Loss {
    double value;
    int32_t rank, token;
  };
  struct Step {
    int32_t from, token;  // the token that would move here, and from which instance
  };
  std::vector<Loss> losses_;
  std::vector<Step> reached_;  // [I] from -2: not reached
  std::vector<int32_t> queue_;
};

}  // namespace thermoe
