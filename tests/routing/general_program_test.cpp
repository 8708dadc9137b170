// Every kind of routing program against the true optimum of small instances.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <set>
#include <string>

#include "brute_force.h"
#include "thermoe/adaptive_router.h"

namespace thermoe {
namespace {

struct Sweep {
  std::string name;
  CaseKinds kinds;
  double least_optimal_frac;  // of the solved cases
  bool warm_start = false;    // from whatever was solved before, of the same shape
  double error_weight = 1;
};

// The plan keeps the contract, recomputed from scratch.
void expect_valid(const SmallCase& c, const RoutingPlan& plan) {
  std::vector<uint32_t> choices(static_cast<size_t>(plan.tokens), 0);
  std::vector<std::vector<double>> utilities;
  for (int t = 0; t < plan.tokens; ++t) {
    utilities.push_back(token_utilities(c, t));
    std::set<int32_t> experts;
    for (int s = 0; s < plan.k; ++s) {
      const size_t at = static_cast<size_t>(t * plan.k + s);
      const int32_t i = plan.instances[at];
      ASSERT_EQ(i < 0, plan.ids[at] < 0);
      if (i < 0) {
        EXPECT_EQ(plan.weights[at], 0.0f);
        continue;
      }
      EXPECT_EQ(c.layout.instances[static_cast<size_t>(i)].expert, plan.ids[at]);
      experts.insert(plan.ids[at]);
      choices[static_cast<size_t>(t)] |= 1u << i;
    }
    EXPECT_EQ(static_cast<int>(experts.size()), std::popcount(choices[static_cast<size_t>(t)]));
    EXPECT_GE(static_cast<int>(experts.size()), c.min_k);
  }
  const Worth worth = worth_of(c, utilities, choices);
  const RoutingReport& report = plan.report;
  EXPECT_NEAR(report.utility, worth.utility, 1e-6);
  EXPECT_NEAR(report.cost, worth.cost, 1e-6);
  if (report.status != RoutingStatus::kSolved) {
    EXPECT_GT(report.limit_excess, 0.0);
    return;
  }
  EXPECT_EQ(report.limit_excess, 0.0);
  EXPECT_TRUE(worth.within_capacity);
  if (c.goal.kind == RoutingGoal::Kind::kLeastCost) {
    EXPECT_GE(worth.utility, c.goal.limit * plan.tokens - 1e-6);
    EXPECT_NEAR(report.objective, worth.cost, 1e-6);
  } else if (c.goal.kind == RoutingGoal::Kind::kBestQuality) {
    EXPECT_LE(worth.cost, c.goal.limit + 1e-6);
    EXPECT_NEAR(report.objective, worth.utility, 1e-6);
  } else {
    EXPECT_NEAR(report.objective, worth.utility - worth.cost, 1e-6);
  }
}

class GeneralProgram : public testing::TestWithParam<Sweep> {};

TEST_P(GeneralProgram, BracketsTheOptimum) {
  const Sweep& sweep = GetParam();
  std::mt19937 random(5);
  UtilityModel utility = UtilityModel::gate_mass();
  utility.variant_error_weight = static_cast<float>(sweep.error_weight);
  AdaptiveRouter router({.utility = utility, .warm_start = sweep.warm_start});
  RoutingPlan plan;
  int solved = 0, optimal = 0, tight = 0;
  for (int n = 0; n < 150; ++n) {
    SmallCase c = random_case(sweep.kinds, 4, 4, random);
    c.error_weight = sweep.error_weight;
    router.route(c.request(), plan);
    expect_valid(c, plan);
    const double best = optimum(c);
    if (std::isnan(best)) {
      EXPECT_EQ(plan.report.status, RoutingStatus::kInfeasible) << n;
      continue;
    }
    const double sign = c.goal.kind == RoutingGoal::Kind::kLeastCost ? -1.0 : 1.0;
    EXPECT_GE(sign * plan.report.bound, sign * best - 1e-6) << n;
    if (plan.report.status != RoutingStatus::kSolved) continue;
    EXPECT_LE(sign * plan.report.objective, sign * best + 1e-6) << n;
    ++solved;
    optimal += sign * plan.report.objective >= sign * best - 1e-6;
    tight += plan.report.gap_frac < 0.01;
  }
  RecordProperty("solved", solved);
  RecordProperty("optimal", optimal);
  RecordProperty("tight", tight);
  EXPECT_GE(optimal, sweep.least_optimal_frac * solved);
}

constexpr auto kLeastCost = RoutingGoal::Kind::kLeastCost;
constexpr auto kBestQuality = RoutingGoal::Kind::kBestQuality;

INSTANTIATE_TEST_SUITE_P(
    Kinds, GeneralProgram,
    testing::Values(Sweep{"plain", {}, 1.0}, Sweep{"variants", {.variants = true}, 1.0},
                    Sweep{"measured", {.variants = true, .measured = true}, 1.0},
                    Sweep{"measured_weighted", {.variants = true, .measured = true}, 1.0, false, 6},
                    Sweep{"variable_k", {.variable_k = true}, 1.0},
                    Sweep{"variants_variable_k", {.variants = true, .variable_k = true}, 1.0},
                    Sweep{"devices", {.devices = true}, 0.8},
                    Sweep{"capacities", {.capacities = true}, 0.8},
                    Sweep{
                        "everything",
                        {.variants = true, .devices = true, .capacities = true, .variable_k = true},
                        0.6},
                    Sweep{"devices_warm", {.devices = true}, 0.8, true},
                    Sweep{"capacities_warm", {.capacities = true}, 0.8, true},
                    Sweep{"least_cost_warm", {.goal = kLeastCost}, 0.8, true},
                    Sweep{"best_quality_warm", {.goal = kBestQuality}, 0.8, true},
                    Sweep{"least_cost", {.goal = kLeastCost}, 0.8},
                    Sweep{"least_cost_everything",
                          {.variants = true,
                           .devices = true,
                           .capacities = true,
                           .variable_k = true,
                           .goal = kLeastCost},
                          0.6},
                    Sweep{"best_quality", {.goal = kBestQuality}, 0.8},
                    Sweep{"best_quality_everything",
                          {.variants = true,
                           .devices = true,
                           .capacities = true,
                           .variable_k = true,
                           .goal = kBestQuality},
                          0.6}),
    [](const auto& sweep) { return sweep.param.name; });

}  // namespace
}  // namespace thermoe
