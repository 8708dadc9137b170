#include "thermoe/adaptive_router.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "routing/drop_rule.h"
#include "routing/dual_bound.h"
#include "routing/request_check.h"
#include "routing/top_k.h"
#include "thermoe/error.h"

namespace thermoe {
namespace {

void check_settings(const AdaptiveRouterSettings& settings) {
  if (settings.goal.kind == RoutingGoal::Kind::kLeastCost &&
      !(settings.goal.limit >= 0.0 && settings.goal.limit <= 1.0))
    throw InvalidArgument(fmt::format(
        "the goal keeps {} of top-k's utility: it must be between 0 and 1", settings.goal.limit));
  if (settings.dual_iterations < 0)
    throw InvalidArgument(
        fmt::format("dual_iterations is {}: it must be 0 or more", settings.dual_iterations));
}

// The program in fixed point. Without slopes the order of a token's values is that of its scores.
void build_program(const RoutingRequest& request, std::span<const float> masses, bool use_slopes,
                   FixedProgram& program) {
  program.tokens = static_cast<int>(request.scores.rows);
  program.experts = static_cast<int>(request.scores.cols);
  program.k = request.k;
  const size_t experts = static_cast<size_t>(program.experts);
  const auto price = [](const std::vector<float>& prices, size_t e) {
    return prices.empty() ? 0.0 : static_cast<double>(prices[e]);
  };
  program.open.resize(experts);
  for (size_t e = 0; e < experts; ++e) program.open[e] = to_fixed(price(request.prices->open, e));
  program.value.resize(masses.size() * experts);
  program.utility.resize(masses.size() * experts);
  for (size_t t = 0; t < masses.size(); ++t) {
    const float* scores = request.scores.row(static_cast<int64_t>(t));
    for (size_t e = 0; e < experts; ++e) {
      const int64_t utility = to_fixed(static_cast<double>(scores[e]) / masses[t]);
      program.utility[t * experts + e] = utility;
      program.value[t * experts + e] =
          utility - (use_slopes ? to_fixed(price(request.prices->slope, e)) : 0);
    }
  }
}

// Writes a token's new experts by falling score, ties by lower id; says whether the set changed.
bool replace_ids(std::span<const float> scores, std::span<const int32_t> chosen,
                 std::span<int32_t> ids, std::vector<int32_t>& sorted) {
  sorted.assign(chosen.begin(), chosen.end());
  std::sort(sorted.begin(), sorted.end(), [scores](int32_t a, int32_t b) {
    const float score_a = scores[static_cast<size_t>(a)], score_b = scores[static_cast<size_t>(b)];
    return score_a != score_b ? score_a > score_b : a < b;
  });
  if (std::equal(sorted.begin(), sorted.end(), ids.begin())) return false;
  std::copy(sorted.begin(), sorted.end(), ids.begin());
  return true;
}

}  // namespace

struct AdaptiveRouter::Impl {
  AdaptiveRouterSettings settings;
  FixedProgram program;
  DropRule drop_rule;
  DualBound dual_bound;
  std::vector<float> masses;
  std::vector<int32_t> sorted;
  std::vector<uint8_t> seen;

  void solve(const RoutingRequest& request) {
    std::optional<int64_t> least_utility;
    const RoutingGoal goal = request.goal.value_or(settings.goal);
    if (goal.kind == RoutingGoal::Kind::kLeastCost)
      least_utility = to_fixed(goal.limit * static_cast<double>(masses.size()));
    build_program(request, masses, /*use_slopes=*/true, program);
    drop_rule.run(program, least_utility);
    if (!least_utility || drop_rule.utility() >= *least_utility) return;
    // The slope prices alone moved tokens below the budget: choose without them.
    build_program(request, masses, /*use_slopes=*/false, program);
    drop_rule.run(program, least_utility);
    build_program(request, masses, /*use_slopes=*/true, program);
  }

  void write_plan(const RoutingRequest& request, RoutingPlan& plan) {
    const size_t k = static_cast<size_t>(plan.k);
    for (int t = 0; t < plan.tokens; ++t) {
      const size_t i = static_cast<size_t>(t);
      const auto scores = request.scores.row_span(t);
      const std::span<int32_t> ids(plan.ids.data() + i * k, k);
      if (!replace_ids(scores, drop_rule.experts_of(t), ids, sorted)) continue;
      plan.changed[i] = 1;
      ++plan.report.changed_tokens;
      share_weights(scores, ids, masses[i], request.renormalize, {plan.weights.data() + i * k, k});
    }
  }
};

AdaptiveRouter::AdaptiveRouter(AdaptiveRouterSettings settings) : impl_(std::make_unique<Impl>()) {
  check_settings(settings);
  impl_->settings = settings;
}

AdaptiveRouter::~AdaptiveRouter() = default;

void AdaptiveRouter::route(const RoutingRequest& request, RoutingPlan& plan) {
  check_request(request);
  Impl& impl = *impl_;
  fill_top_k(request, plan, impl.masses);
  plan.report = RoutingReport{};
  plan.report.top_k_distinct_experts = count_distinct(plan, impl.seen);
  if (request.prices == nullptr || request.prices->zero()) {
    plan.report.distinct_experts = plan.report.top_k_distinct_experts;
    plan.report.objective = plan.report.bound = plan.tokens;
    plan.instances = plan.ids;
    pack(plan, plan.experts);
    return;
  }
  impl.solve(request);
  impl.write_plan(request, plan);
  plan.instances = plan.ids;
  pack(plan, plan.experts);
  RoutingReport& report = plan.report;
  report.distinct_experts = impl.drop_rule.open_count();
  report.gate_mass_frac = std::min(1.0, from_fixed(impl.drop_rule.utility()) / plan.tokens);
  report.objective = from_fixed(impl.drop_rule.objective(impl.program));
  report.bound = impl.dual_bound.run(impl.program, impl.drop_rule, report.objective,
                                     impl.settings.dual_iterations, impl.settings.dual_gap_frac);
  report.gap_frac = (report.bound - report.objective) / std::max(std::abs(report.bound), 1e-12);
}

}  // namespace thermoe
