#include "routing/utility.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "routing/grid.h"
#include "routing/top_k.h"
#include "score_batches.h"
#include "thermoe/adaptive_router.h"

namespace thermoe {
namespace {

struct Row {
  std::vector<int32_t> top;
  float mass;
  std::vector<double> utility;
};

Row utilities(const UtilityModel& model, std::span<const float> scores, int k,
              const ExpertLayout* layout = nullptr) {
  Row row{std::vector<int32_t>(static_cast<size_t>(k)), 0, std::vector<double>(scores.size())};
  select_top_k(scores, row.top);
  row.mass = top_k_mass(scores, row.top, 0);
  KeptUtility kept;
  kept.read(model, layout, static_cast<int>(scores.size()));
  fill_utilities(model, 0, kept, scores, row.top, row.mass, row.utility);
  return row;
}

TEST(Utility, IsThePowerOfTheSharesTimesTheScale) {
  for (uint32_t seed = 0; seed < 20; ++seed) {
    const ScoreBatch batch = random_scores(1, 24, seed);
    const auto scores = batch.view().row_span(0);
    for (const float power : {1.0f, 1.5f, 2.0f, 2.5f}) {
      const Row row = utilities({.power = power, .scale = {}}, scores, 6);
      for (size_t e = 0; e < scores.size(); ++e)
        EXPECT_NEAR(row.utility[e],
                    std::pow(6.0 * static_cast<double>(scores[e]) / row.mass, power) / 6.0,
                    2 * kGridStep)
            << power;
    }
  }
}

TEST(Utility, AnUnmodifiedTokenOfEqualWeightsIsWorthOneAtAnyPower) {
  const std::vector<float> scores{0.2f, 0.2f, 0.05f, 0.2f, 0.2f, 0.05f, 0.1f};
  for (const float power : {1.0f, 2.0f, 3.0f}) {
    const UtilityModel model{.power = power, .scale = {}};
    const Row row = utilities(model, scores, 4);
    EXPECT_NEAR(top_k_utility(model, 0, scores, row.top, row.mass), 1.0, 1e-6);
  }
}

TEST(Utility, TopKIsTheSumOverTheTokensOwn) {
  for (uint32_t seed = 0; seed < 20; ++seed) {
    const ScoreBatch batch = random_scores(1, 16, seed);
    const auto scores = batch.view().row_span(0);
    const UtilityModel model{
        .power = 2.0f,
        .scale = {std::vector<float>(16, 0.5f + 0.1f * static_cast<float>(seed % 5))}};
    const Row row = utilities(model, scores, 5);
    double sum = 0;
    for (const int32_t id : row.top) sum += row.utility[static_cast<size_t>(id)];
    EXPECT_NEAR(top_k_utility(model, 0, scores, row.top, row.mass), sum, 10 * kGridStep);
  }
}

// However the scales lie, no expert outside a token's top-k is worth as much as one within.
TEST(Utility, ScalesNeverLiftAnOutsiderOverTheTopK) {
  std::mt19937 random(3);
  for (uint32_t seed = 0; seed < 50; ++seed) {
    const ScoreBatch batch = random_scores(1, 20, seed);
    const auto scores = batch.view().row_span(0);
    UtilityModel model{.power = 2.0f, .scale = {std::vector<float>(20)}};
    for (float& scale : model.scale[0])
      scale = std::exp(2.0f * std::normal_distribution<float>()(random));
    const Row row = utilities(model, scores, 6);
    double least = 1e9;
    std::vector<bool> own(20, false);
    for (const int32_t id : row.top) {
      own[static_cast<size_t>(id)] = true;
      least = std::min(least, row.utility[static_cast<size_t>(id)]);
    }
    for (size_t e = 0; e < 20; ++e) {
      if (!own[e]) {
        EXPECT_LT(row.utility[e], least) << seed;
      }
    }
  }
}

TEST(Utility, TiesAtTheEdgeOfTheTopKKeepTheirSide) {
  const std::vector<float> scores{0.1f, 0.3f, 0.1f, 0.1f, 0.4f};
  const Row row = utilities({.power = 2.0f, .scale = {{1, 1, 50, 50, 1}}}, scores, 3);
  EXPECT_EQ(row.top, (std::vector<int32_t>{4, 1, 0}));
  EXPECT_LT(row.utility[2], row.utility[0]);
  EXPECT_LT(row.utility[3], row.utility[0]);
}

TEST(Utility, AVanishingPriceLeavesTopKUnderAnyScale) {
  std::mt19937 random(4);
  for (uint32_t seed = 0; seed < 20; ++seed) {
    const ScoreBatch batch = random_scores(16, 32, seed);
    AdaptiveRouterSettings settings;
    settings.utility.scale = {std::vector<float>(32)};
    for (float& scale : settings.utility.scale[0])
      scale = std::exp(std::normal_distribution<float>()(random));
    RoutingPlan top_k, plan;
    TopKPolicy().route({.scores = batch.view(), .k = 4}, top_k);
    const ExpertPrices prices = ExpertPrices::uniform(32, 1e-9f);
    AdaptiveRouter(settings).route({.scores = batch.view(), .k = 4, .prices = &prices}, plan);
    EXPECT_EQ(plan.ids, top_k.ids);
    EXPECT_EQ(
        std::memcmp(plan.weights.data(), top_k.weights.data(), plan.weights.size() * sizeof(float)),
        0);
  }
}

// An expert whose best variant is worse than the others' loses utility, but not its place.
TEST(Utility, ErrorsOfTheBestVariantsLeaveTheOrderOfTheTopK) {
  UtilityModel model;
  model.variant_error_weight = 3.0f;
  for (uint32_t seed = 0; seed < 20; ++seed) {
    const ScoreBatch batch = random_scores(1, 20, seed);
    const auto scores = batch.view().row_span(0);
    ExpertLayout layout = ExpertLayout::with_variants(20, {{.name = "int8"}, {.name = "int4"}});
    for (int i = 0; i < layout.count(); ++i)
      layout.error_frac.push_back(static_cast<float>((i * 7 + static_cast<int>(seed)) % 13) / 50);
    const Row plain = utilities(model, scores, 6), row = utilities(model, scores, 6, &layout);
    double least = 1e9;
    for (const int id : row.top) {
      const size_t e = static_cast<size_t>(id);
      const double error =
          static_cast<double>(std::min(layout.error_of(2 * id), layout.error_of(2 * id + 1)));
      EXPECT_NEAR(row.utility[e], plain.utility[e] * (1 - 3 * error), 1e-7);
      least = std::min(least, row.utility[e]);
    }
    for (int e = 0; e < 20; ++e)
      if (std::find(row.top.begin(), row.top.end(), e) == row.top.end()) {
        EXPECT_LT(row.utility[static_cast<size_t>(e)], least);
      }
  }
}

}  // namespace
}  // namespace thermoe
