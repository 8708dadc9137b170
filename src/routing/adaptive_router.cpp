#include "thermoe/adaptive_router.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "routing/additive_solver.h"
#include "routing/costs.h"
#include "routing/general_search.h"
#include "routing/merit.h"
#include "routing/plan_writer.h"
#include "routing/request_check.h"
#include "routing/top_k.h"
#include "routing/utility.h"
#include "thermoe/error.h"

namespace thermoe {
namespace {

void check_settings(const AdaptiveRouterSettings& settings) {
  check_utility_model(settings.utility);
  check_goal(settings.goal);
  const auto good = [](float price) { return price >= 0.0f && std::isfinite(price); };
  if (!good(settings.open_price) || !good(settings.slope_price))
    throw InvalidArgument(
        fmt::format("the router's own prices are {} and {}: they must be finite and not negative",
                    settings.open_price, settings.slope_price));
  if (settings.min_k < 0)
    throw InvalidArgument(fmt::format("min_k is {}: it must be 0 or more", settings.min_k));
  if (settings.dual_iterations < 0)
    throw InvalidArgument(
        fmt::format("dual_iterations is {}: it must be 0 or more", settings.dual_iterations));
  if (settings.exact_nodes < 0)
    throw InvalidArgument(
        fmt::format("exact_nodes is {}: it must be 0 or more", settings.exact_nodes));
  if (!(settings.dual_gap_frac >= 0.0))
    throw InvalidArgument(
        fmt::format("dual_gap_frac is {}: it must be 0 or more", settings.dual_gap_frac));
}

// The limit of utility allows for the rounding of utilities to the grid: top-k itself keeps a limit
// of 1.
Aim aim_of(const RoutingGoal& goal, const RoutingPlan& plan, double top_k_utility) {
  Aim aim{goal.kind, goal.limit};
  if (goal.kind == RoutingGoal::Kind::kLeastCost)
    aim.limit = goal.limit * top_k_utility - kGridStep * plan.tokens * plan.k;
  return aim;
}

// Objective, bound and gap of a report with utility and cost. The bound is never on the wrong side
// of a plan that keeps the limits.
void report_objective(const Aim& aim, double bound, RoutingReport& report) {
  const bool least_cost = aim.kind == RoutingGoal::Kind::kLeastCost;
  report.objective = least_cost                                    ? report.cost
                     : aim.kind == RoutingGoal::Kind::kBestQuality ? report.utility
                                                                   : report.utility - report.cost;
  report.bound = bound;
  if (report.status == RoutingStatus::kSolved)
    report.bound =
        least_cost ? std::min(bound, report.objective) : std::max(bound, report.objective);
  report.gap_frac =
      std::abs(report.bound - report.objective) / std::max(std::abs(report.bound), 1e-12);
}

void report_top_k(const Aim& aim, double cost, double utility, RoutingPlan& plan) {
  RoutingReport& report = plan.report;
  report.distinct_experts = report.distinct_instances = report.top_k_distinct_experts;
  report.utility = utility;
  report.cost = cost;
  if (aim.kind == RoutingGoal::Kind::kBestQuality && cost > aim.limit) {
    report.status = RoutingStatus::kInfeasible;
    report.limit_excess = cost - aim.limit;
  }
  report_objective(aim,
                   aim.kind == RoutingGoal::Kind::kLeastCost ? cost
                   : aim.kind == RoutingGoal::Kind::kPrices  ? utility - cost
                                                             : utility,
                   report);
}

}  // namespace

struct AdaptiveRouter::Impl {
  AdaptiveRouterSettings settings;
  Costs costs;
  Program program;
  AdditiveSolver solver;
  ChoiceMaker choice_maker;
  InstanceChoice choice;
  CostTally tally;
  PlanWriter writer;
  std::vector<float> masses;
  std::vector<uint8_t> seen;
  GeneralSearch general;
  std::vector<WarmStart> warm_starts;  // by layer
  KeptUtility kept;
  std::vector<double> charge, opening, row;
  double bound = 0;

  void route(const RoutingRequest& request, RoutingPlan& plan);
  // What plain top-k is worth, without errors of variants.
  double worth_of(const RoutingRequest& request, const RoutingPlan& top_k);
  void build_program(const RoutingRequest& request, const RoutingPlan& top_k);
  WarmStart* warm_start_of(int layer);
  void solve(const RoutingRequest& request, const RoutingPlan& top_k, const Aim& aim);
  void report_choice(const Aim& aim, RoutingReport& report);
};

double AdaptiveRouter::Impl::worth_of(const RoutingRequest& request, const RoutingPlan& top_k) {
  double worth = 0;
  for (int t = 0; t < top_k.tokens; ++t)
    worth += top_k_utility(settings.utility, request.layer, request.scores.row_span(t),
                           top_k.token_ids(t), masses[static_cast<size_t>(t)]);
  return worth;
}

void AdaptiveRouter::Impl::build_program(const RoutingRequest& request, const RoutingPlan& top_k) {
  const ExpertLayout* layout = request.layout;
  program.resize(top_k.tokens, top_k.experts,
                 layout ? std::span<const int32_t>(layout->first) : std::span<const int32_t>());
  program.k = request.k;
  program.min_k = request.min_k > 0 ? request.min_k : settings.min_k;
  if (program.min_k == 0 || program.min_k > request.k) program.min_k = request.k;
  kept.read(settings.utility, layout, program.experts);
  row.resize(static_cast<size_t>(program.experts));
  for (int t = 0; t < program.tokens; ++t) {
    double* to = program.utility_row(t);
    const std::span<double> utilities =
        layout ? std::span<double>(row) : std::span<double>(to, row.size());
    fill_utilities(settings.utility, request.layer, kept, request.scores.row_span(t),
                   top_k.token_ids(t), masses[static_cast<size_t>(t)], utilities);
    if (layout)
      for (int i = 0; i < program.instances; ++i)
        to[i] = to_grid(row[program.expert[i]] * kept.instance[i]);
    std::fill(to + program.instances, to + program.stride, kNever);
  }
}

WarmStart* AdaptiveRouter::Impl::warm_start_of(int layer) {
  if (!settings.warm_start) return nullptr;
  const size_t at = static_cast<size_t>(layer);
  if (at >= warm_starts.size()) warm_starts.resize(at + 1);
  return &warm_starts[at];
}

// Leaves the result in choice and bound.
void AdaptiveRouter::Impl::solve(const RoutingRequest& request, const RoutingPlan& top_k,
                                 const Aim& aim) {
  const SearchEffort effort{settings.dual_iterations, settings.dual_gap_frac, settings.exact_nodes};
  if (aim.kind != RoutingGoal::Kind::kPrices || costs.limited || !costs.additive()) {
    general.solve(program, costs, aim, request.scores, effort, warm_start_of(request.layer));
    choice = general.choice();
    bound = general.bound();
    return;
  }
  charge.resize(static_cast<size_t>(program.instances));
  opening.resize(static_cast<size_t>(program.instances));
  for (int i = 0; i < program.instances; ++i) {
    charge[i] = costs.slope[i] + costs.device_slope[i];
    opening[i] = costs.open[i] + costs.device_open[i];
  }
  program.reprice(charge, opening);
  // Without slopes a token's best values are its best scores, known already.
  const auto own_experts =
      program.priced ? std::span<const int32_t>() : std::span<const int32_t>(top_k.ids);
  const auto own_best = request.layout == nullptr ? own_experts : std::span<const int32_t>();
  if (settings.search == AdaptiveRouterSettings::Search::kClimb)
    solver.solve_by_closing(program, own_experts);
  else if (costs.zero())  // every token's own best is best
    solver.climb(program, own_best);
  else
    solver.solve(program, own_best, effort);
  choice_maker.choose(program, solver.state(), request.scores, choice);
  bound = (costs.zero() ? solver.state().objective() : solver.bound()) - costs.least_base();
}

void AdaptiveRouter::Impl::report_choice(const Aim& aim, RoutingReport& report) {
  tally.reset(costs, program.instances);
  const size_t k = static_cast<size_t>(program.k);
  report.utility = 0;
  for (size_t s = 0; s < choice.size(); ++s) {
    if (choice[s] < 0) continue;
    tally.add(costs, choice[s], 1);
    report.utility += program.utility_row(static_cast<int>(s / k))[choice[s]];
  }
  report.cost = tally.cost();
  const Merit merit = merit_of(aim, report.utility, tally);
  if (!merit.feasible()) report.status = RoutingStatus::kInfeasible;
  report.limit_excess = std::max(merit.violation, static_cast<double>(tally.worst_excess(costs)));
  report_objective(aim, bound, report);
}

void AdaptiveRouter::Impl::route(const RoutingRequest& request, RoutingPlan& plan) {
  check_request(request);
  check_utility_layer(settings.utility, request.layer, static_cast<int>(request.scores.cols));
  fill_top_k(request, plan, masses);
  plan.report = RoutingReport{};
  plan.report.top_k_distinct_experts = count_distinct(plan, seen);
  const int instances = request.layout ? request.layout->count() : plan.experts;
  costs.read(request, instances, settings.open_price, settings.slope_price);
  const RoutingGoal goal = request.goal.value_or(settings.goal);
  const bool undecided = !costs.zero() || (request.layout != nullptr && !request.layout->plain());
  // At given prices nobody asks what top-k is worth.
  const bool worth_needed = !undecided || goal.kind == RoutingGoal::Kind::kLeastCost;
  const double top_k_worth = worth_needed ? worth_of(request, plan) : 0.0;
  const Aim aim = aim_of(goal, plan, top_k_worth);
  if (!undecided) {
    report_top_k(aim, costs.least_base(), top_k_worth,
                 plan);  // nothing to decide: top-k's own bits
  } else {
    build_program(request, plan);
    solve(request, plan, aim);
    writer.write(request, program, choice, masses, plan);
    report_choice(aim, plan.report);
  }
  pack(plan, instances);
}

AdaptiveRouter::AdaptiveRouter(AdaptiveRouterSettings settings) : impl_(std::make_unique<Impl>()) {
  check_settings(settings);
  impl_->settings = std::move(settings);
}

AdaptiveRouter::~AdaptiveRouter() = default;

const AdaptiveRouterSettings& AdaptiveRouter::settings() const { return impl_->settings; }

void AdaptiveRouter::route(const RoutingRequest& request, RoutingPlan& plan) {
  impl_->route(request, plan);
}

}  // namespace thermoe
