#include "thermoe/adaptive_router.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <numeric>
#include <set>

#include "policy_plans.h"
#include "thermoe/error.h"

namespace thermoe {
namespace {

RoutingPlan route(const ScoreBatch& batch, int k, const ExpertPrices& prices,
                  AdaptiveRouterSettings settings = {.utility = UtilityModel::gate_mass()},
                  bool renormalize = true) {
  AdaptiveRouter router(settings);
  RoutingPlan plan;
  router.route({.scores = batch.view(), .k = k, .renormalize = renormalize, .prices = &prices},
               plan);
  return plan;
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

TEST(AdaptiveRouter, ZeroPricesAreBitIdenticalToTopK) {
  for (uint32_t seed = 0; seed < 200; ++seed) {
    const ScoreBatch batch =
        random_scores(1 + static_cast<int>(seed % 20), 8 + static_cast<int>(seed % 57), seed);
    const bool renormalize = seed % 2 == 0;
    const RoutingPlan expected = route_top_k(batch, 4, renormalize);
    for (const ExpertPrices& prices :
         {ExpertPrices{}, ExpertPrices::uniform(batch.experts, 0.0f)}) {
      const RoutingPlan plan =
          route(batch, 4, prices, {.utility = UtilityModel::gate_mass()}, renormalize);
      EXPECT_EQ(plan.ids, expected.ids);
      EXPECT_TRUE(same_bits(plan.weights, expected.weights));
      EXPECT_EQ(plan.packed, expected.packed);
      EXPECT_EQ(plan.report.gap_frac, 0.0);
      EXPECT_EQ(plan.report.changed_tokens, 0);
    }
  }
}

TEST(AdaptiveRouter, HandWorkedCase) {
  // Expert 2 is wanted by token 1 alone, which loses (0.4 - 0.3) / 0.9 = 0.111 by moving to 0.
  const ScoreBatch batch{2, 3, {0.6f, 0.3f, 0.1f, 0.3f, 0.5f, 0.4f}};
  RoutingPlan plan = route(batch, 2, ExpertPrices::uniform(3, 0.10f));
  EXPECT_EQ(plan.report.distinct_experts, 3);
  plan = route(batch, 2, ExpertPrices::uniform(3, 0.12f));
  EXPECT_EQ(plan.report.distinct_experts, 2);
  EXPECT_EQ(plan.ids, (std::vector<int32_t>{0, 1, 1, 0}));
  EXPECT_EQ(plan.changed, (std::vector<uint8_t>{0, 1}));
  EXPECT_FLOAT_EQ(plan.weights[2], 0.5f / 0.9f);  // raw shares of the original mass: no refill to 1
  EXPECT_FLOAT_EQ(plan.weights[3], 0.3f / 0.9f);
  EXPECT_NEAR(plan.report.gate_mass_frac, (1.0 + 0.8 / 0.9) / 2, 1e-6);
  EXPECT_NEAR(plan.report.objective, 1.0 + 0.8 / 0.9 - 2 * 0.12, 1e-6);
  EXPECT_NEAR(plan.report.bound, plan.report.objective, 1e-3);
}

TEST(AdaptiveRouter, UnchangedTokensKeepTheirWeightsBitForBit) {
  int changed = 0;
  for (uint32_t seed = 0; seed < 40; ++seed) {
    const ScoreBatch batch = random_scores(16, 64, seed);
    const RoutingPlan top_k = route_top_k(batch, 8);
    const RoutingPlan plan = route(batch, 8, ExpertPrices::uniform(64, 0.03f));
    for (int t = 0; t < batch.tokens; ++t) {
      const auto ids = plan.token_ids(t), old_ids = top_k.token_ids(t);
      const bool same = std::equal(ids.begin(), ids.end(), old_ids.begin());
      EXPECT_EQ(plan.changed[static_cast<size_t>(t)] == 0, same);
      changed += !same;
      if (same) {
        EXPECT_EQ(std::memcmp(plan.token_weights(t).data(), top_k.token_weights(t).data(),
                              8 * sizeof(float)),
                  0);
      }
      EXPECT_EQ(std::set<int32_t>(ids.begin(), ids.end()).size(), 8u);
    }
    EXPECT_LE(plan.report.distinct_experts, plan.report.top_k_distinct_experts);
  }
  EXPECT_GT(changed, 100);
}

TEST(AdaptiveRouter, PermutingTokensPermutesThePlan) {
  std::mt19937 random(7);
  for (uint32_t seed = 0; seed < 60; ++seed) {
    const ScoreBatch batch = random_scores(24, 32, seed);
    std::vector<int> order(24);
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), random);
    ScoreBatch shuffled{24, 32, {}};
    for (const int t : order) {
      const auto row = batch.view().row_span(t);
      shuffled.values.insert(shuffled.values.end(), row.begin(), row.end());
    }
    const ExpertPrices prices =
        ExpertPrices::uniform(32, 0.02f * static_cast<float>(1 + seed % 10), 0.001f);
    const RoutingPlan plan = route(batch, 4, prices), moved = route(shuffled, 4, prices);
    for (int i = 0; i < 24; ++i) {
      const int t = order[static_cast<size_t>(i)];
      EXPECT_TRUE(std::equal(moved.token_ids(i).begin(), moved.token_ids(i).end(),
                             plan.token_ids(t).begin()));
      EXPECT_EQ(std::memcmp(moved.token_weights(i).data(), plan.token_weights(t).data(),
                            4 * sizeof(float)),
                0);
    }
    EXPECT_EQ(moved.report.objective, plan.report.objective);
  }
}

TEST(AdaptiveRouter, PermutingExpertsPermutesThePlan) {
  std::mt19937 random(8);
  for (uint32_t seed = 0; seed < 60; ++seed) {
    const ScoreBatch batch = random_scores(12, 20, seed);
    ExpertPrices prices = ExpertPrices::uniform(20, 0.0f, 0.0f);
    for (float& price : prices.open) price = 0.2f * std::generate_canonical<float, 20>(random);
    std::vector<int> order(20);
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), random);
    ScoreBatch renamed{12, 20, std::vector<float>(batch.values.size())};
    ExpertPrices renamed_prices = prices;
    for (size_t e = 0; e < 20; ++e) {
      renamed_prices.open[static_cast<size_t>(order[e])] = prices.open[e];
      for (size_t t = 0; t < 12; ++t)
        renamed.values[t * 20 + static_cast<size_t>(order[e])] = batch.values[t * 20 + e];
    }
    const RoutingPlan plan = route(batch, 3, prices), moved = route(renamed, 3, renamed_prices);
    for (size_t i = 0; i < plan.ids.size(); ++i)
      EXPECT_EQ(order[static_cast<size_t>(plan.ids[i])], moved.ids[i]);
    EXPECT_TRUE(same_bits(plan.weights, moved.weights));
  }
}

TEST(AdaptiveRouter, RaisingAllPricesNeverReadsMoreExperts) {
  for (uint32_t seed = 0; seed < 20; ++seed) {
    const ScoreBatch batch = random_scores(16, 64, seed);
    int last = 64;
    for (float price = 0.0f; price < 1.0f; price += 0.02f) {
      const RoutingPlan plan = route(batch, 8, ExpertPrices::uniform(64, price));
      EXPECT_LE(plan.report.distinct_experts, last);
      last = plan.report.distinct_experts;
    }
    EXPECT_EQ(route(batch, 8, ExpertPrices::uniform(64, 1e6f)).report.distinct_experts, 8);
  }
}

TEST(AdaptiveRouter, BudgetBoundsTheLossOfGateMass) {
  for (uint32_t seed = 0; seed < 30; ++seed) {
    const ScoreBatch batch = random_scores(16, 64, seed);
    for (const double least : {0.9, 0.95, 0.99, 1.0}) {
      for (const float slope : {0.0f, 0.05f}) {
        ExpertPrices prices = ExpertPrices::uniform(64, 10.0f, slope);
        for (size_t e = 0; e < 64; e += 2) prices.slope[e] *= 3.0f;  // slopes that move tokens
        const RoutingPlan plan = route(
            batch, 8, prices,
            {.utility = UtilityModel::gate_mass(), .goal = {RoutingGoal::Kind::kLeastCost, least}});
        EXPECT_GE(plan.report.gate_mass_frac, least - 1e-6);
        EXPECT_GE(plan.report.gap_frac, 0.0);
      }
    }
    EXPECT_LT(route(batch, 8, ExpertPrices::uniform(64, 10.0f),
                    {.goal = {RoutingGoal::Kind::kLeastCost, 0.9}})
                  .report.distinct_experts,
              route_top_k(batch, 8).report.distinct_experts);
  }
}

// Less search, never a better plan; its bound holds all the same.
TEST(AdaptiveRouter, ClimbingAloneIsBoundedByWhatIsProven) {
  int worse = 0;
  for (uint32_t seed = 0; seed < 100; ++seed) {
    const ScoreBatch batch = random_scores(16, 64, seed);
    const ExpertPrices prices = ExpertPrices::uniform(64, 0.02f * static_cast<float>(seed % 10));
    const RoutingPlan proven = route(batch, 4, prices, {});
    const RoutingPlan climbed =
        route(batch, 4, prices, {.search = AdaptiveRouterSettings::Search::kClimb});
    EXPECT_LE(climbed.report.objective, proven.report.objective);
    EXPECT_GE(climbed.report.bound, proven.report.objective);
    worse += climbed.report.objective < proven.report.objective;
    if (seed % 10 == 0) {
      EXPECT_EQ(climbed.ids, route_top_k(batch, 4).ids);
    }
  }
  EXPECT_GT(worse, 0);
  EXPECT_LT(worse, 90);
}

TEST(AdaptiveRouter, FewExpertsNeverGoBelowK) {
  const ScoreBatch batch = random_scores(5, 4, 3);
  const RoutingPlan plan = route(batch, 4, ExpertPrices::uniform(4, 100.0f));
  EXPECT_EQ(plan.report.distinct_experts, 4);
  EXPECT_EQ(plan.report.changed_tokens, 0);
}

TEST(AdaptiveRouter, RefusesBadSettings) {
  EXPECT_THROW(AdaptiveRouter({.goal = {RoutingGoal::Kind::kLeastCost, 1.5}}), InvalidArgument);
  EXPECT_THROW(AdaptiveRouter({.dual_iterations = -1}), InvalidArgument);
}

TEST(AdaptiveRouter, StaysUsableAfterBadInput) {
  AdaptiveRouter router;
  RoutingPlan plan;
  const ScoreBatch batch = random_scores(4, 8, 1);
  const ExpertPrices wrong = ExpertPrices::uniform(7, 0.1f), right = ExpertPrices::uniform(8, 0.1f);
  EXPECT_THROW(router.route({.scores = batch.view(), .k = 2, .prices = &wrong}, plan),
               InvalidArgument);
  router.route({.scores = batch.view(), .k = 2, .prices = &right}, plan);
  EXPECT_EQ(plan.ids, route(batch, 2, right).ids);
}

}  // namespace
}  // namespace thermoe
