// Local search over choices by the request's true goal: capacities, the slowest device, budgets.
#pragma once

#include <vector>

#include "routing/choice_state.h"

namespace thermoe {

// Moves: close an instance (its tokens go to their best open alternatives), open one (it takes the
// tokens that it suits better), exchange two, move a single token. Each is done, judged by the goal
// and taken back if it is no better; the order is the state's own, so permuting the batch permutes
// what is found. Ends where no move helps or after `rounds`;
// exchanges, which take longest, only where asked for. Keeps its storage.
class ChoiceSearch {
 public:
  void run(const Program& program, const Costs& costs, const Aim& aim, ChoiceState& state,
           int rounds, bool exchange);

 private:
  bool keep_if_better(const Aim& aim, ChoiceState& state, size_t mark);
  bool close(const Program& program, ChoiceState& state, int32_t i);
  bool open(const Program& program, const Costs& costs, ChoiceState& state, int32_t i);
  bool try_instances(const Program& program, const Costs& costs, const Aim& aim,
                     ChoiceState& state);
  bool try_exchanges(const Program& program, const Costs& costs, const Aim& aim,
                     ChoiceState& state);
  bool try_tokens(const Program& program, const Aim& aim, ChoiceState& state);
  void rank_closed(const Program& program, ChoiceState& state);

  struct Gain {
    double value;
    int32_t rank, index;
  };
  std::vector<Gain> gains_, closed_;
  std::vector<double> least_, sums_;
  Merit best_;
};

}  // namespace thermoe
