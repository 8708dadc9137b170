// The certificate against the true optimum, found by trying every set of open experts.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <functional>

#include "score_batches.h"
#include "thermoe/adaptive_router.h"

namespace thermoe {
namespace {

// For a given open set every token takes its best k in it and only what is used is paid for.
double best_with(const ScoreBatch& batch, int k, const ExpertPrices& prices, uint32_t open_set) {
  uint32_t used = 0;
  double objective = 0;
  for (int t = 0; t < batch.tokens; ++t) {
    const auto scores = batch.view().row_span(t);
    std::vector<float> own(scores.begin(), scores.end());
    std::sort(own.begin(), own.end(), std::greater<>());
    double mass = 0;
    for (int i = 0; i < k; ++i) mass += own[static_cast<size_t>(i)];
    std::vector<std::pair<double, int>> values;
    for (int e = 0; e < batch.experts; ++e)
      if (open_set >> e & 1)
        values.emplace_back(
            scores[static_cast<size_t>(e)] / mass - prices.slope[static_cast<size_t>(e)], e);
    std::sort(values.begin(), values.end(), std::greater<>());
    for (int i = 0; i < k; ++i) {
      objective += values[static_cast<size_t>(i)].first;
      used |= 1u << values[static_cast<size_t>(i)].second;
    }
  }
  for (int e = 0; e < batch.experts; ++e)
    if (used >> e & 1) objective -= prices.open[static_cast<size_t>(e)];
  return objective;
}

double optimum(const ScoreBatch& batch, int k, const ExpertPrices& prices) {
  double best = -1e300;
  for (uint32_t set = 0; set < 1u << batch.experts; ++set)
    if (std::popcount(set) >= k) best = std::max(best, best_with(batch, k, prices, set));
  return best;
}

ExpertPrices random_prices(int experts, std::mt19937& random) {
  ExpertPrices prices = ExpertPrices::uniform(experts, 0.0f);
  const float scale = std::exp(-4.0f * std::generate_canonical<float, 20>(random));
  for (float& price : prices.open) price = scale * std::generate_canonical<float, 20>(random);
  if (random() % 2)
    for (float& price : prices.slope)
      price = 0.1f * scale * std::generate_canonical<float, 20>(random);
  return prices;
}

TEST(Certificate, BracketsTheOptimumOfEverySmallInstance) {
  std::mt19937 random(11);
  int instances = 0, optimal = 0, tight = 0;
  for (; instances < 600; ++instances) {
    const int tokens = 1 + static_cast<int>(random() % 6),
              experts = 2 + static_cast<int>(random() % 8);
    const int k = 1 + static_cast<int>(random() % static_cast<uint32_t>(std::min(3, experts)));
    const ScoreBatch batch = random_scores(tokens, experts, static_cast<uint32_t>(random()),
                                           0.3f + 0.01f * static_cast<float>(random() % 200));
    const ExpertPrices prices = random_prices(experts, random);
    AdaptiveRouter router({.utility = UtilityModel::gate_mass(), .dual_iterations = 400});
    RoutingPlan plan;
    router.route({.scores = batch.view(), .k = k, .prices = &prices}, plan);
    const double best = optimum(batch, plan.k, prices);
    EXPECT_LE(plan.report.objective, best + 1e-5);
    EXPECT_GE(plan.report.bound, best - 1e-5);
    optimal += plan.report.objective >= best - 1e-5;
    tight += plan.report.gap_frac <= 1e-6;
  }
  // Random prices are harsher than real ones; every plan is still best, and proven so.
  EXPECT_EQ(optimal, instances);
  EXPECT_EQ(tight, instances);
}

TEST(Certificate, IsTightOnBatchesLikeRealOnes) {
  for (uint32_t seed = 0; seed < 20; ++seed) {
    const ScoreBatch batch = random_scores(16, 64, seed, 1.0f);
    const ExpertPrices prices = ExpertPrices::uniform(64, 0.05f);
    AdaptiveRouter router;
    RoutingPlan plan;
    router.route({.scores = batch.view(), .k = 8, .prices = &prices}, plan);
    EXPECT_LT(plan.report.gap_frac, 0.01) << "seed " << seed;
  }
}

}  // namespace
}  // namespace thermoe
