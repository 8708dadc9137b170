// The general program: several devices, capacities, budgets.
#pragma once

#include <vector>

#include "routing/additive_solver.h"
#include "routing/capacity_repair.h"
#include "routing/choice_search.h"
#include "routing/choice_state.h"
#include "routing/lagrangian.h"
#include "routing/merit.h"

namespace thermoe {

// Where a search ended, for the next one of a like program to begin: any multipliers are valid.
struct WarmStart {
  bool filled = false;
  RoutingGoal::Kind kind = RoutingGoal::Kind::kPrices;
  DualMultipliers multipliers;

  bool fits(const Aim& aim, const Costs& costs, const Program& program) const {
    return filled && kind == aim.kind &&
           multipliers.lambda.size() == static_cast<size_t>(costs.devices) &&
           multipliers.mu.size() == static_cast<size_t>(program.instances);
  }
};

// Alternates between the two sides: at given multipliers the additive program proposes a choice,
// which is brought within its capacities and improved by the true goal; the best choice's worth is
// the target towards which the bound, and with it the multipliers, are improved. For a budget the
// worth of cost, rho, is found by bisection between choices that keep the limit and that do not.
class GeneralSearch {
 public:
  // Results are choice(), merit() and bound(). `warm`, where given, is begun from and overwritten.
  void solve(Program& program, const Costs& costs, const Aim& aim, ConstMatrix scores,
             const SearchEffort& effort, WarmStart* warm = nullptr);

  const InstanceChoice& choice() const { return best_choice_; }
  const Merit& merit() const { return best_; }
  // No choice that keeps all limits has a better objective (in the goal's own sense: kLeastCost: no
  // lower cost).
  double bound() const { return bound_; }

 private:
  struct Call {
    Program& program;
    const Costs& costs;
    const Aim& aim;
    ConstMatrix scores;
    const SearchEffort& effort;
  };
  enum class Improve { kNo, kMoves, kExchanges };
  Merit propose(const Call& call, Improve improve);
  bool start(const Call& call, const WarmStart* warm);
  void find_rho(const Call& call);
  void seek_limit(const Call& call);
  void improve_bound(const Call& call, double rho, int iterations);
  double most_at(const Call& call, double rho, int iterations);
  double next_possible_cost(const Call& call, double bound) const;
  double bound_gap() const;  // for a budget
  double most_utility(const Program& program);
  void polish_best(const Call& call);
  void keep(const Merit& merit);
  double lower_target(const Call& call, double rho) const;

  AdditiveSolver solver_;
  ChoiceMaker choice_maker_;
  CapacityRepair repair_;
  ChoiceState state_;
  ChoiceSearch search_;
  Lagrangian lagrangian_;
  InstanceChoice proposal_, best_choice_;
  Merit best_;
  std::vector<double> bests_;  // [E] of one token
  bool found_ = false, dual_started_ = false;
  double bound_ = 0, rho_low_ = 0, rho_high_ = 0;
  double rho_guess_ = 1, rho_factor_ = 0;  // where the bracket is sought first, and in what steps
};

}  // namespace thermoe
