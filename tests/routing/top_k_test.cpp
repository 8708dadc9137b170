#include "routing/top_k.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "policy_plans.h"
#include "thermoe/error.h"

namespace thermoe {
namespace {

std::string message_of(const RoutingRequest& request) {
  TopKPolicy policy;
  RoutingPlan plan;
  try {
    policy.route(request, plan);
  } catch (const InvalidArgument& error) {
    return error.what();
  }
  return "";
}

TEST(TopK, AgreesWithAFullSort) {
  for (uint32_t seed = 0; seed < 50; ++seed) {
    const ScoreBatch batch = random_scores(7, 1 + static_cast<int>(seed % 40), seed);
    const int k = 1 + static_cast<int>(seed) % batch.experts;
    const RoutingPlan plan = route_top_k(batch, k);
    for (int t = 0; t < batch.tokens; ++t) {
      std::vector<int32_t> order(static_cast<size_t>(batch.experts));
      std::iota(order.begin(), order.end(), 0);
      std::stable_sort(order.begin(), order.end(),
                       [&](int a, int b) { return batch.view()(t, a) > batch.view()(t, b); });
      order.resize(static_cast<size_t>(k));
      EXPECT_TRUE(std::equal(order.begin(), order.end(), plan.token_ids(t).begin()));
    }
  }
}

TEST(TopK, HandWorkedCase) {
  const ScoreBatch batch{2, 4, {0.1f, 0.4f, 0.4f, 0.1f, 0.7f, 0.1f, 0.0f, 0.2f}};
  const RoutingPlan plan = route_top_k(batch, 2);
  EXPECT_EQ(plan.ids, (std::vector<int32_t>{1, 2, 0, 3}));  // the tie goes to the lower id
  EXPECT_FLOAT_EQ(plan.weights[0], 0.5f);
  EXPECT_FLOAT_EQ(plan.weights[2], 0.7f / 0.9f);
  EXPECT_EQ(plan.offsets, (std::vector<int32_t>{0, 1, 2, 3, 4}));
  EXPECT_EQ(plan.packed, (std::vector<int32_t>{2, 0, 1, 3}));
  EXPECT_EQ(plan.report.distinct_experts, 4);
}

TEST(TopK, RawWeightsAreTheScores) {
  const ScoreBatch batch{1, 3, {0.5f, 0.3f, 0.2f}};
  EXPECT_EQ(route_top_k(batch, 2, false).weights, (std::vector<float>{0.5f, 0.3f}));
}

TEST(TopK, PackingListsEveryPairOnceByExpertAndToken) {
  const ScoreBatch batch = random_scores(33, 19, 5);
  const RoutingPlan plan = route_top_k(batch, 4);
  std::vector<int> seen(plan.ids.size(), 0);
  for (int e = 0; e < plan.experts; ++e)
    for (int32_t i = plan.offsets[static_cast<size_t>(e)];
         i < plan.offsets[static_cast<size_t>(e) + 1]; ++i) {
      const int32_t pair = plan.packed[static_cast<size_t>(i)];
      EXPECT_EQ(plan.ids[static_cast<size_t>(pair)], e);
      if (i > plan.offsets[static_cast<size_t>(e)]) {
        EXPECT_LT(plan.packed[static_cast<size_t>(i) - 1], pair);
      }
      ++seen[static_cast<size_t>(pair)];
    }
  EXPECT_TRUE(std::all_of(seen.begin(), seen.end(), [](int n) { return n == 1; }));
}

TEST(TopK, BadInputIsNamed) {
  ScoreBatch batch = random_scores(3, 5, 1);
  EXPECT_NE(message_of({.scores = batch.view(), .k = 6}).find("k is 6"), std::string::npos);
  EXPECT_NE(message_of({.scores = batch.view(), .k = 0}).find("k is 0"), std::string::npos);
  EXPECT_NE(message_of({.scores = {batch.values.data(), 0, 5}, .k = 1}).find("nothing to route"),
            std::string::npos);
  for (const float bad : {std::nanf(""), std::numeric_limits<float>::infinity(), -0.5f}) {
    ScoreBatch damaged = batch;
    damaged.values[7] = bad;
    EXPECT_NE(message_of({.scores = damaged.view(), .k = 2}).find("token 1, expert 2"),
              std::string::npos);
  }
  const ScoreBatch zero{1, 2, {0.0f, 0.0f}};
  EXPECT_NE(message_of({.scores = zero.view(), .k = 1}).find("are zero"), std::string::npos);
  ExpertPrices prices = ExpertPrices::uniform(4, 0.1f);
  EXPECT_NE(
      message_of({.scores = batch.view(), .k = 2, .prices = &prices}).find("4 opening prices"),
      std::string::npos);
  prices = ExpertPrices::uniform(5, 0.1f);
  prices.slope[3] = -1.0f;
  EXPECT_NE(message_of({.scores = batch.view(), .k = 2, .prices = &prices}).find("expert 3"),
            std::string::npos);
}

}  // namespace
}  // namespace thermoe
