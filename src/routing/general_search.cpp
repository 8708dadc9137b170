#include "routing/general_search.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>

namespace thermoe {
namespace {

constexpr int kRounds = 3;           // of proposing a choice and improving the multipliers ...
constexpr int kWarmRounds = 2;       // ... and where they were good to begin with
constexpr int kPolishRounds = 6;     // passes of the local search over one choice
constexpr double kColdFactor = 4.0;  // first step towards a bracket of rho from nowhere ...
constexpr double kWarmFactor = 1.2;  // ... and from where the last search ended
constexpr int kBisections = 12;      // of rho: its last ratio is below 1.01
constexpr double kMostRho = 0x1p20;  // where a unit of cost outweighs any batch's utility
constexpr double kLeastRho = 0x1p-20;

}  // namespace

void GeneralSearch::keep(const Merit& merit) {
  if (found_ && !merit.better_than(best_)) return;
  found_ = true;
  best_ = merit;
  best_choice_ = state_.choice();
}

// The additive program's plan at the current multipliers, within its capacities.
Merit GeneralSearch::propose(const Call& call, Improve improve) {
  lagrangian_.price(call.costs, call.program);
  if (improve == Improve::kExchanges)
    solver_.climb_by_exchanges(call.program);
  else
    solver_.climb(call.program, {});
  choice_maker_.choose(call.program, solver_.state(), call.scores, proposal_);
  state_.load(call.program, call.costs, proposal_);
  repair_.run(call.program, call.costs, state_);
  state_.forget();
  const Merit merit = state_.merit(call.aim);
  keep(merit);
  if (improve == Improve::kNo) return merit;
  search_.run(call.program, call.costs, call.aim, state_, kPolishRounds,
              improve == Improve::kExchanges);
  keep(state_.merit(call.aim));
  return merit;
}

void GeneralSearch::polish_best(const Call& call) {
  proposal_ = best_choice_;
  state_.load(call.program, call.costs, proposal_);
  search_.run(call.program, call.costs, call.aim, state_, kPolishRounds, /*exchange=*/true);
  keep(state_.merit(call.aim));
}

// A bracket [rho_low_, rho_high_]: dear enough a unit of cost keeps a limit of cost, cheap enough
// it keeps a limit of utility.
void GeneralSearch::find_rho(const Call& call) {
  const bool by_cost = call.aim.kind == RoutingGoal::Kind::kBestQuality;
  const auto too_high = [&](double rho) {
    lagrangian_.multipliers().rho = rho;
    return (propose(call, Improve::kNo).violation == 0.0) == by_cost;
  };
  rho_low_ = kLeastRho;
  rho_high_ = kMostRho;
  double rho = rho_guess_;
  for (double factor = rho_factor_; rho_low_ < rho && rho < rho_high_; factor *= rho_factor_) {
    const bool high = too_high(rho);
    (high ? rho_high_ : rho_low_) = rho;
    if (rho_low_ > kLeastRho && rho_high_ < kMostRho) break;
    rho = high ? rho / factor : rho * factor;
  }
  for (int i = 0; i < kBisections && rho_high_ > 1.01 * rho_low_; ++i) {
    rho = std::sqrt(rho_low_ * rho_high_);
    (too_high(rho) ? rho_high_ : rho_low_) = rho;
  }
}

// What utility - rho cost can be at least, by the best choice found.
double GeneralSearch::lower_target(const Call& call, double rho) const {
  switch (call.aim.kind) {
    case RoutingGoal::Kind::kPrices:
      return best_.objective;
    case RoutingGoal::Kind::kLeastCost:
      return call.aim.limit + rho * best_.objective;
    case RoutingGoal::Kind::kBestQuality:
      return best_.objective - rho * call.aim.limit;
  }
  return 0;
}

// Costs of one device without slopes are its base plus a sum of opening prices: multiples of their
// greatest common divisor, which is the price itself where all are equal. The least such cost that
// is not below the bound, but for its rounding.
double GeneralSearch::next_possible_cost(const Call& call, double bound) const {
  const Costs& costs = call.costs;
  if (costs.devices > 1) return bound;
  int64_t step = 0;  // in grid steps
  for (size_t i = 0; i < costs.open.size(); ++i) {
    if (costs.slope[i] + costs.device_slope[i] != 0.0) return bound;
    step = std::gcd(step, static_cast<int64_t>((costs.open[i] + costs.device_open[i]) / kGridStep));
  }
  if (step == 0) return bound;
  const double base = costs.least_base(), size = static_cast<double>(step) * kGridStep;
  constexpr double kRounding = 1e-9;  // relative, far above that of the bound's few operations
  const double steps = std::ceil((bound - base) / size * (1.0 - kRounding) - kRounding);
  return std::max(bound, base + steps * size);
}

// The least bound found on utility - rho cost.
double GeneralSearch::most_at(const Call& call, double rho, int iterations) {
  lagrangian_.multipliers().rho = rho;
  lagrangian_.price(call.costs, call.program);
  const double target = lower_target(call, rho), gap_frac = call.effort.dual_gap_frac;
  DualBound& dual = solver_.dual();
  if (call.costs.devices == 1 && !call.costs.limited) {
    // No other multipliers: the additive program's own bound, from its own plan.
    const double constant = lagrangian_.constant(call.costs);
    solver_.climb(call.program, {});
    dual.start(call.program, solver_.state());
    return dual.improve(call.program, target - constant, iterations, gap_frac) + constant;
  }
  if (!dual_started_) dual.start(call.program, solver_.state());
  dual_started_ = true;
  return lagrangian_.improve(call.costs, call.program, dual, target, iterations, gap_frac);
}

void GeneralSearch::improve_bound(const Call& call, double rho, int iterations) {
  const double most = most_at(call, rho, iterations);
  switch (call.aim.kind) {
    case RoutingGoal::Kind::kPrices:
      bound_ = std::min(bound_, most);
      break;
    case RoutingGoal::Kind::kLeastCost:
      bound_ = std::max(bound_, next_possible_cost(call, (call.aim.limit - most) / rho));
      break;
    case RoutingGoal::Kind::kBestQuality:
      bound_ = std::min(bound_, most + rho * call.aim.limit);
      break;
  }
}

// Every token with its k best experts, each in its best instance, whatever they cost.
double GeneralSearch::most_utility(const Program& program) {
  bests_.resize(static_cast<size_t>(program.experts));
  double sum = 0;
  for (int t = 0; t < program.tokens; ++t) {
    const double* row = program.utility_row(t);
    for (int e = 0; e < program.experts; ++e)
      bests_[e] = *std::max_element(row + program.first[e], row + program.first[e + 1]);
    std::partial_sort(bests_.begin(), bests_.begin() + program.k, bests_.end(), std::greater<>());
    sum = std::accumulate(bests_.begin(), bests_.begin() + program.k, sum);
  }
  return sum;
}

// Whether it begins from `warm`.
bool GeneralSearch::start(const Call& call, const WarmStart* warm) {
  found_ = dual_started_ = false;
  switch (call.aim.kind) {
    case RoutingGoal::Kind::kPrices:
      bound_ = most_utility(call.program) - call.costs.least_base();
      break;
    case RoutingGoal::Kind::kLeastCost:
      bound_ = call.costs.least_base();
      break;
    case RoutingGoal::Kind::kBestQuality:
      bound_ = most_utility(call.program);
      break;
  }
  state_.set_orders(call.program, call.costs);
  lagrangian_.start(call.costs, call.program.instances, 1.0);
  rho_guess_ = 1.0;
  rho_factor_ = kColdFactor;
  if (!warm || !warm->fits(call.aim, call.costs, call.program)) return false;
  lagrangian_.multipliers() = warm->multipliers;
  rho_guess_ = warm->multipliers.rho;
  rho_factor_ = kWarmFactor;
  return true;
}

// A budget that no plan kept: the cheapest plan may need experts that no token would choose.
void GeneralSearch::seek_limit(const Call& call) {
  lagrangian_.multipliers().rho = kMostRho;
  propose(call, Improve::kExchanges);
}

void GeneralSearch::solve(Program& program, const Costs& costs, const Aim& aim, ConstMatrix scores,
                          const SearchEffort& effort, WarmStart* warm) {
  const Call call{program, costs, aim, scores, effort};
  const bool warmed = start(call, warm);
  const bool budget = aim.kind != RoutingGoal::Kind::kPrices;
  const bool fixed = costs.devices == 1 && !costs.limited;  // rho is all there is to find
  const int rounds = fixed ? 1 : warmed ? kWarmRounds : kRounds;
  double rho = 1.0;
  for (int round = 0; round < rounds; ++round) {
    if (budget) {
      find_rho(call);
      rho = std::sqrt(rho_low_ * rho_high_);
      if (best_.violation > 0.0) seek_limit(call);
      lagrangian_.multipliers().rho = rho_high_;
      propose(call, Improve::kMoves);
      lagrangian_.multipliers().rho = rho_low_;
    }
    propose(call, Improve::kMoves);
    if (round + 1 == rounds) polish_best(call);
    const int iterations = fixed ? effort.dual_iterations : effort.dual_iterations / kRounds;
    improve_bound(call, rho, iterations);
    if (!budget) continue;
    for (const double factor : {0.7, 1.4, 0.85, 1.2})
      if (bound_gap() > effort.dual_gap_frac) improve_bound(call, rho * factor, iterations / 2);
  }
  if (!warm) return;
  warm->filled = true;
  warm->kind = aim.kind;
  warm->multipliers = lagrangian_.multipliers();
  warm->multipliers.rho = rho;
}

double GeneralSearch::bound_gap() const {
  return std::abs(bound_ - std::abs(best_.objective)) / std::max(std::abs(bound_), 1e-12);
}

}  // namespace thermoe
