// Precisions as part of the plan: errors in the utility, prices by the bytes that a variant reads.
#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <random>
#include <set>

#include "policy_plans.h"
#include "thermoe/adaptive_router.h"
#include "thermoe/error.h"

namespace thermoe {
namespace {

constexpr int kVariedExperts = 32, kVariedTopK = 6;

// Three experts in bf16 alone, the others in int8 and int4 with errors of their own.
ExpertLayout quantized(uint32_t seed) {
  std::vector<ExpertInstance> instances;
  for (int32_t e = 0; e < kVariedExperts; ++e) {
    if (e % 11 == 0)
      instances.push_back({e, 0, 0});
    else
      instances.insert(instances.end(), {{e, 1, 0}, {e, 2, 0}});
  }
  ExpertLayout layout = ExpertLayout::of_instances(kVariedExperts, 1,
                                                   {{.name = "bf16"},
                                                    {.name = "int8", .read_frac = 0.516f},
                                                    {.name = "int4", .read_frac = 0.266f}},
                                                   instances);
  std::mt19937 random(seed);
  std::uniform_real_distribution<float> uniform(0.5f, 2.0f);
  constexpr float kErrors[] = {0.0f, 0.0005f, 0.02f};
  for (const ExpertInstance& i : layout.instances)
    layout.error_frac.push_back(kErrors[i.variant] * uniform(random));
  return layout;
}

RoutingPlan route(const std::string& specification, const ScoreBatch& batch,
                  const ExpertLayout& layout, const ExpertPrices* prices = nullptr) {
  const RoutingPlan plan =
      plan_of(specification, batch, kVariedTopK, {.layout = &layout, .prices = prices});
  expect_valid(plan, batch, &layout);
  return plan;
}

TEST(Variants, WithoutPricesEveryExpertIsAtItsMostAccurate) {
  const ExpertPrices none;
  for (uint32_t seed = 0; seed < 30; ++seed) {
    const ExpertLayout layout = quantized(seed);
    const ScoreBatch batch = random_scores(16, kVariedExperts, seed);
    const RoutingPlan top = plan_of("topk", batch, kVariedTopK);
    for (const ExpertPrices* prices : {static_cast<const ExpertPrices*>(nullptr), &none})
      for (const char* text : {"adaptive", "adaptive:error=20", "adaptive:power=1,min_k=2"}) {
        const RoutingPlan plan = route(text, batch, layout, prices);
        EXPECT_EQ(plan.ids, top.ids) << text;
        EXPECT_EQ(plan.report.changed_tokens, 0) << text;
        EXPECT_EQ(plan.report.gap_frac, 0) << text;
        EXPECT_EQ(std::memcmp(plan.weights.data(), top.weights.data(),
                              top.weights.size() * sizeof(float)),
                  0);
        for (const int32_t i : plan.instances)
          EXPECT_EQ(
              i,
              layout.first[static_cast<size_t>(layout.instances[static_cast<size_t>(i)].expert)]);
      }
  }
}

TEST(Variants, TopKRunsEveryExpertInItsFirst) {
  const ExpertLayout layout = quantized(3);
  const ScoreBatch batch = random_scores(16, kVariedExperts, 3);
  const RoutingPlan plan = route("topk", batch, layout);
  EXPECT_EQ(plan.ids, plan_of("topk", batch, kVariedTopK).ids);
  for (size_t pair = 0; pair < plan.ids.size(); ++pair)
    EXPECT_EQ(plan.instances[pair], layout.first[static_cast<size_t>(plan.ids[pair])]);
}

TEST(Variants, OwnPricesAreTimesTheBytesThatAVariantReads) {
  for (uint32_t seed = 0; seed < 20; ++seed) {
    const ExpertLayout layout = quantized(seed);
    const ScoreBatch batch = random_scores(16, kVariedExperts, seed);
    const ExpertPrices prices = ExpertPrices::of_layout(layout, 0.06f, 0.003f);
    for (int i = 0; i < layout.count(); ++i) {
      EXPECT_FLOAT_EQ(prices.open[static_cast<size_t>(i)], 0.06f * layout.variant_of(i).read_frac);
      EXPECT_EQ(prices.slope[static_cast<size_t>(i)], 0.003f);
    }
    const RoutingPlan given = route("adaptive", batch, layout, &prices);
    const RoutingPlan own = route("adaptive:open=0.06,slope=0.003", batch, layout);
    EXPECT_EQ(own.instances, given.instances);
    EXPECT_NEAR(own.report.objective, given.report.objective, 1e-5);
  }
}

// Both variants of one expert cost a token the same: whoever pays for the better one uses it.
TEST(Variants, NoExpertRunsInTwoVariantsOfWhichOneIsBetterForAll) {
  int coarse = 0, fine = 0;
  for (uint32_t seed = 0; seed < 60; ++seed) {
    const ExpertLayout layout = quantized(seed);
    const ScoreBatch batch = random_scores(16, kVariedExperts, seed);
    const float price = 0.01f * static_cast<float>(1 + seed % 12);
    const RoutingPlan plan = route("adaptive:open=" + std::to_string(price), batch, layout);
    EXPECT_LT(plan.report.gap_frac, 0.01);
    std::map<int32_t, std::set<int32_t>> variants;
    for (const int32_t i : plan.instances) {
      const ExpertInstance& instance = layout.instances[static_cast<size_t>(i)];
      variants[instance.expert].insert(instance.variant);
    }
    for (const auto& [expert, used] : variants) {
      EXPECT_EQ(used.size(), 1u) << expert;
      coarse += used.contains(2);
      fine += used.contains(1);
    }
  }
  // The sweep is one in which precision is a question.
  EXPECT_GT(coarse, 100);
  EXPECT_GT(fine, 100);
}

// A variant that is dearer and less accurate than another is never used.
TEST(Variants, ADominatedVariantIsNeverUsed) {
  ExpertLayout layout = ExpertLayout::with_variants(
      kVariedExperts, {{.name = "good", .error_frac = 0.01f, .read_frac = 0.5f},
                       {.name = "worse", .error_frac = 0.02f, .read_frac = 0.6f}});
  for (uint32_t seed = 0; seed < 20; ++seed) {
    const ScoreBatch batch = random_scores(16, kVariedExperts, seed);
    for (const char* text : {"adaptive", "adaptive:open=0.05", "adaptive:open=0.2,slope=0.01"})
      for (const int32_t i : route(text, batch, layout).instances)
        EXPECT_EQ(layout.instances[static_cast<size_t>(i)].variant, 0);
  }
}

TEST(Variants, AHeavierErrorRefinesAndAHigherPriceCoarsens) {
  const ExpertLayout layout = quantized(1);
  const auto fine = [&](const std::string& text) {
    int count = 0;
    for (uint32_t seed = 0; seed < 20; ++seed)
      for (const int32_t i : route(text, random_scores(16, kVariedExperts, seed), layout).instances)
        count += layout.instances[static_cast<size_t>(i)].variant == 1;
    return count;
  };
  EXPECT_GT(fine("adaptive:open=0.03,error=2"), fine("adaptive:open=0.03"));
  EXPECT_GT(fine("adaptive:open=0.03"), fine("adaptive:open=0.06"));
  EXPECT_EQ(fine("adaptive:open=0.001,error=0"), 0);  // nothing speaks for the finer one
}

TEST(Variants, BadErrorsAndReadsAreNamed) {
  const ScoreBatch batch = random_scores(4, kVariedExperts, 1);
  const auto refused = [&](const ExpertLayout& layout, const std::string& named) {
    RoutingPlan plan;
    try {
      AdaptiveRouter().route({.scores = batch.view(), .k = kVariedTopK, .layout = &layout}, plan);
    } catch (const InvalidArgument& error) {
      EXPECT_NE(std::string(error.what()).find(named), std::string::npos) << error.what();
      return;
    }
    ADD_FAILURE() << "taken: " << named;
  };
  ExpertLayout layout = quantized(1);
  layout.error_frac[3] = 1.0f;
  refused(layout, "instance 3");
  layout.error_frac.pop_back();
  refused(layout, "one for each");
  EXPECT_THROW(ExpertLayout::with_variants(4, {{.name = "int8", .read_frac = -1.0f}}),
               InvalidArgument);
  EXPECT_THROW(make_routing_policy("adaptive:error=-1"), InvalidArgument);
}

}  // namespace
}  // namespace thermoe
