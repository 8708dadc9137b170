// The published policies on cases worked by hand.
#include <gtest/gtest.h>

#include "policy_plans.h"

namespace thermoe {
namespace {

// One token whose top-3 mass is 0.95.
const ScoreBatch kOne{1, 4, {0.5f, 0.3f, 0.15f, 0.05f}};
// Two tokens; summed scores 0.52, 0.5, 0.58, 0.35, 0.05.
const ScoreBatch kTwo{2, 5, {0.4f, 0.3f, 0.2f, 0.1f, 0.0f, 0.12f, 0.2f, 0.38f, 0.25f, 0.05f}};

TEST(FewerK, KeepsTheFirst) {
  RoutingPlan plan = plan_of("fewer:k=2", kOne, 3);
  EXPECT_EQ(plan.ids, (Ids{0, 1, -1}));
  expect_weights(plan, 0, {0.5f / 0.8f, 0.3f / 0.8f, 0.0f});
  EXPECT_NEAR(plan.report.gate_mass_frac, 0.8 / 0.95, 1e-6);
  EXPECT_EQ(plan.report.changed_tokens, 1);
  EXPECT_EQ(plan.report.distinct_experts, 2);
  EXPECT_EQ(plan.report.top_k_distinct_experts, 3);
  expect_weights(plan_of("fewer:k=2,weights=raw", kOne, 3), 0, {0.5f / 0.95f, 0.3f / 0.95f, 0.0f});
  expect_weights(plan_of("fewer:k=2", kOne, 3, {.renormalize = false}), 0, {0.5f, 0.3f, 0.0f});
}

TEST(TopP, StopsWhereTheShareIsReached) {
  EXPECT_EQ(plan_of("topp:p=0.8", kOne, 3).ids, (Ids{0, 1, -1}));  // 0.5 < 0.76 <= 0.8
  EXPECT_EQ(plan_of("topp:p=0.5", kOne, 3).ids, (Ids{0, -1, -1}));
  EXPECT_EQ(plan_of("topp:p=0.9", kOne, 3).ids, (Ids{0, 1, 2}));
  EXPECT_EQ(plan_of("topp:p=0", kOne, 3).ids, (Ids{0, -1, -1}));  // never none
}

TEST(MinP, ComparesWithTheHighest) {
  EXPECT_EQ(plan_of("minp:p=0.4", kOne, 3).ids, (Ids{0, 1, -1}));  // 0.2 or more
  EXPECT_EQ(plan_of("minp:p=0.25", kOne, 3).ids, (Ids{0, 1, 2}));
  EXPECT_EQ(plan_of("minp:p=1", kOne, 3).ids, (Ids{0, -1, -1}));
}

TEST(Oea, RefillsFromTheUnion) {
  RoutingPlan plan = plan_of("oea:k0=1", kTwo, 2);
  EXPECT_EQ(plan.ids, (Ids{0, 2, 2, 0}));
  expect_weights(plan, 0, {0.4f / 0.6f, 0.2f / 0.6f});
  expect_weights(plan, 1, {0.38f / 0.5f, 0.12f / 0.5f});
  EXPECT_EQ(plan.report.distinct_experts, 2);
  EXPECT_EQ(plan_of("oea:k0=1,kmax=1", kTwo, 2).ids, (Ids{0, -1, 2, -1}));
  // Rank 2 is expert 1 for token 0 and expert 3 for token 1: neither is open.
  EXPECT_EQ(plan_of("oea:k0=1,maxp=2", kTwo, 2).ids, (Ids{0, -1, 2, -1}));
  // Token 1's ranking is 2 3 1 0: rank 4 lets it refill, token 0 has expert 2 at rank 3.
  EXPECT_EQ(plan_of("oea:k0=1,maxp=3", kTwo, 2).ids, (Ids{0, 2, 2, -1}));
  // A share of 0.3 ends both baselines after one expert.
  EXPECT_EQ(plan_of("oea:k0=2,p=0.3", kTwo, 2).ids, (Ids{0, 2, 2, 0}));
  EXPECT_EQ(plan_of("oea:k0=2,p=0.7", kTwo, 2).ids, (Ids{0, 1, 2, 3}));
}

TEST(Oea, MayUseMoreThanK) {
  const RoutingPlan plan = plan_of("oea:k0=2,kmax=3", kTwo, 2);
  EXPECT_EQ(plan.k, 3);
  EXPECT_EQ(plan.ids, (Ids{0, 1, 2, 2, 3, 1}));
  expect_weights(plan, 0, {0.4f / 0.9f, 0.3f / 0.9f, 0.2f / 0.9f});
  EXPECT_EQ(plan.report.gate_mass_frac, 1.0);
}

TEST(XShare, AddsBySummedScore) {
  EXPECT_EQ(plan_of("xshare:budget=2", kTwo, 2).ids, (Ids{0, 2, 2, 0}));
  EXPECT_EQ(plan_of("xshare:budget=3", kTwo, 2).ids, (Ids{0, 1, 2, 1}));
  // The first experts stay above the budget; without them the sums alone decide.
  EXPECT_EQ(plan_of("xshare:budget=1", kTwo, 2).ids, (Ids{0, 2, 2, 0}));
  EXPECT_EQ(plan_of("xshare:budget=1,warm=0", kTwo, 2).ids, (Ids{2, -1, 2, -1}));
  expect_weights(plan_of("xshare:budget=3", kTwo, 2), 1, {0.38f / 0.58f, 0.2f / 0.58f});
}

TEST(Lynx, VotesCountWhoHasAnExpertInItsTopK) {
  const ScoreBatch batch{
      3, 4, {0.5f, 0.3f, 0.15f, 0.05f, 0.45f, 0.1f, 0.4f, 0.05f, 0.3f, 0.5f, 0.05f, 0.15f}};
  // Votes 3, 2, 1, 0.
  for (const char* text : {"lynx:keep=2", "lynx:drop=1", "lynx:drop=2"})
    EXPECT_EQ(plan_of(text, batch, 2).ids, (Ids{0, 1, 0, 1, 1, 0})) << text;
  EXPECT_EQ(plan_of("lynx:keep=3", batch, 2).ids, plan_of("topk", batch, 2).ids);
}

TEST(Lynx, OthersDecideWithinABin) {
  const auto e = [](float x) { return std::exp(x); };
  // Bins 0 0 -1 -2 and -1 0 0 -2; 2 to these powers sum to 1.5 2 1.5 0.5. Token 0 ranks expert 0
  // at 0 + 0.25 and expert 1 at 0 + 0.5; token 1 expert 1 at 0.5 and expert 2 at 0.25.
  const ScoreBatch batch{
      2, 4, {1.0f, e(-0.6f), e(-1.5f), e(-2.5f), e(-1.2f), 1.0f, e(-0.6f), e(-2.9f)}};
  EXPECT_EQ(plan_of("topk", batch, 1).ids, (Ids{0, 1}));
  const RoutingPlan plan = plan_of("lynx:alpha=1", batch, 1, {.renormalize = false});
  EXPECT_EQ(plan.ids, (Ids{1, 1}));
  expect_weights(plan, 0, {1.0f});  // scaled to the mass of token 0's own top-1
  expect_weights(plan_of("lynx:alpha=1,weights=raw", batch, 1, {.renormalize = false}), 0,
                 {e(-0.6f)});
  // With bins half as wide, expert 1 is one bin below token 0's first.
  EXPECT_EQ(plan_of("lynx:alpha=2", batch, 1).ids, (Ids{0, 1}));
}

ExpertCalibration similarities(std::vector<float> values, int experts) {
  ExpertCalibration calibration;
  calibration.experts = experts;
  calibration.layers.push_back(
      {.load_frac = {}, .output_norm = {}, .similarity = std::move(values)});
  return calibration;
}

TEST(Sere, ReplacesSecondaryExpertsByTheMostSimilarPrimary) {
  const ScoreBatch batch{2, 4, {0.6f, 0.3f, 0.06f, 0.04f, 0.05f, 0.1f, 0.5f, 0.35f}};
  // Primaries 0 and 2; expert 1 is like 2, expert 3 like 0.
  const ExpertCalibration calibration = similarities({1.0f, 0.2f, 0.5f, 0.4f,  //
                                                      0.2f, 1.0f, 0.9f, 0.3f,  //
                                                      0.5f, 0.9f, 1.0f, 0.1f,  //
                                                      0.4f, 0.3f, 0.1f, 1.0f},
                                                     4);
  const PlanSettings settings{.calibration = &calibration};
  RoutingPlan plan = plan_of("sere:primary=1", batch, 2, settings);
  EXPECT_EQ(plan.ids, (Ids{0, 2, 2, 0}));
  expect_weights(plan, 0, {0.6f / 0.9f, 0.3f / 0.9f});  // expert 2 takes expert 1's weight
  expect_weights(plan, 1, {0.5f / 0.85f, 0.35f / 0.85f});
  expect_weights(plan_of("sere:primary=1,weights=raw", batch, 2, settings), 0,
                 {0.6f / 0.9f, 0.06f / 0.9f});
  plan = plan_of("sere:primary=1,threshold=0.5", batch, 2, settings);
  EXPECT_EQ(plan.ids, (Ids{0, 2, 2, 3}));
  EXPECT_EQ(plan.report.changed_tokens, 1);
}

TEST(Sere, SlotsThatMeetAddUp) {
  const ScoreBatch batch{1, 3, {0.6f, 0.3f, 0.1f}};
  const ExpertCalibration calibration =
      similarities({1.0f, 0.2f, 0.5f, 0.2f, 1.0f, 0.9f, 0.5f, 0.9f, 1.0f}, 3);
  const RoutingPlan plan = plan_of("sere:primary=1", batch, 2, {.calibration = &calibration});
  EXPECT_EQ(plan.ids, (Ids{0, -1}));
  expect_weights(plan, 0, {1.0f, 0.0f});
}

// Routes batches one after the other through one policy; the ids of the last.
Ids ids_after(const std::string& text, const std::vector<ScoreBatch>& steps, int last_layer = 0) {
  const auto policy = make_routing_policy(text);
  RoutingPlan plan;
  for (size_t i = 0; i < steps.size(); ++i)
    policy->route(
        {.scores = steps[i].view(), .k = 1, .layer = i + 1 < steps.size() ? 0 : last_layer}, plan);
  return plan.ids;
}

TEST(CachePrior, ResidentsRankHigherByTheRange) {
  const ScoreBatch first{1, 4, {0.5f, 0.4f, 0.05f, 0.05f}},
      second{1, 4, {0.4f, 0.5f, 0.05f, 0.05f}};
  // Half of the range ln 10 is more than the lead ln 1.25.
  EXPECT_EQ(ids_after("cacheprior:lambda=0.5,size=1,top=0", {first, second}), (Ids{0}));
  EXPECT_EQ(ids_after("cacheprior:lambda=0.05,size=1,top=0", {first, second}), (Ids{1}));
  // The token's own first has the head start as well; another layer has another cache.
  EXPECT_EQ(ids_after("cacheprior:lambda=0.5,size=1,top=1", {first, second}), (Ids{1}));
  EXPECT_EQ(ids_after("cacheprior:lambda=0.5,size=1,top=0", {first, second}, 1), (Ids{1}));
}

TEST(CachePrior, TheLeastRecentlyUsedLeaves) {
  const ScoreBatch zero{1, 4, {0.97f, 0.01f, 0.01f, 0.01f}},
      one{1, 4, {0.01f, 0.97f, 0.01f, 0.01f}}, two{1, 4, {0.01f, 0.01f, 0.97f, 0.01f}},
      even{1, 4, {0.28f, 0.26f, 0.24f, 0.22f}};
  const std::string text = "cacheprior:lambda=0.5,size=2,top=0";
  EXPECT_EQ(ids_after(text, {zero, one, even}), (Ids{0}));
  EXPECT_EQ(ids_after(text, {zero, one, two, even}), (Ids{1}));
  EXPECT_EQ(ids_after(text, {zero, one, zero, two, even}), (Ids{0}));
}

TEST(CachePrior, ABatchLeavesItsHeaviest) {
  // Experts 0 (two tokens), 1 and 2 are used; a cache of two keeps 0 and 2.
  const ScoreBatch batch{4,
                         4,
                         {0.97f, 0.01f, 0.01f, 0.01f, 0.97f, 0.01f, 0.01f, 0.01f,  //
                          0.05f, 0.85f, 0.05f, 0.05f, 0.01f, 0.01f, 0.97f, 0.01f}};
  const ScoreBatch even{1, 4, {0.22f, 0.28f, 0.26f, 0.24f}};
  EXPECT_EQ(ids_after("cacheprior:lambda=0.5,size=2,top=0", {batch, even}), (Ids{2}));
  EXPECT_EQ(ids_after("cacheprior:lambda=0.5,size=3,top=0", {batch, even}), (Ids{1}));
}

// Capacity 2; expert 0 is wanted by all three.
const ScoreBatch kThree{3, 3, {0.6f, 0.3f, 0.1f, 0.5f, 0.1f, 0.4f, 0.4f, 0.35f, 0.25f}};

TEST(CapacityDrop, TurnsAwayTheLowestScores) {
  const RoutingPlan plan = plan_of("capdrop:factor=1", kThree, 2);
  EXPECT_EQ(plan.ids, (Ids{0, 1, 0, 2, 1, -1}));
  expect_weights(plan, 2, {1.0f, 0.0f});
  expect_weights(plan_of("capdrop:factor=1,weights=raw", kThree, 2), 2, {0.35f / 0.75f, 0.0f});
  EXPECT_EQ(plan_of("capdrop:factor=1.5", kThree, 2).report.changed_tokens, 0);
}

TEST(CapacityDrop, NobodyIsLeftWithNothing) {
  const ScoreBatch batch{3, 2, {0.9f, 0.1f, 0.8f, 0.2f, 0.7f, 0.3f}};
  EXPECT_EQ(plan_of("capdrop:factor=1", batch, 1).ids, (Ids{0, 0, 0}));
  EXPECT_EQ(plan_of("capexpand:factor=1,rounds=2", batch, 1).ids, (Ids{0, 0, 1}));
}

TEST(CapacityExpand, OffersTheNextInRank) {
  // All three experts are candidates; each keeps two: 0 tokens 0 and 1, 1 tokens 2 and 0, 2 tokens
  // 1 and 2.
  const RoutingPlan plan = plan_of("capexpand:factor=1,rounds=1.5", kThree, 2);
  EXPECT_EQ(plan.ids, (Ids{0, 1, 0, 2, 1, 2}));
  expect_weights(plan, 2, {0.35f / 0.6f, 0.25f / 0.6f});
  for (int e = 0; e < 3; ++e) EXPECT_EQ(plan.load(e), 2);
}

// Expert 0 is the first of three tokens, expert 1 of one.
const ScoreBatch kFour{4, 2, {0.9f, 0.1f, 0.8f, 0.2f, 0.7f, 0.3f, 0.4f, 0.6f}};

TEST(TileRound, RoundsEachExpertsTokens) {
  EXPECT_EQ(plan_of("tileround:tile=2,round=down", kFour, 1).ids, (Ids{0, 0, -1, -1}));
  // 1.5 tiles are 2, half a tile is none.
  EXPECT_EQ(plan_of("tileround:tile=2", kFour, 1).ids, (Ids{0, 0, 0, 0}));
  const RoutingPlan up = plan_of("tileround:tile=2,round=up", kFour, 1);
  EXPECT_EQ(up.k, 2);
  EXPECT_EQ(up.ids, (Ids{0, -1, 0, -1, 0, 1, 1, 0}));
  expect_weights(up, 2, {0.7f, 0.3f});
  expect_weights(up, 3, {0.6f, 0.4f});
}

TEST(TileRound, TheLowestWeightsGo) {
  const ScoreBatch batch{3, 3, {0.45f, 0.45f, 0.1f, 0.4f, 0.1f, 0.1f, 0.5f, 0.4f, 0.1f}};
  const RoutingPlan plan = plan_of("tileround:tile=2,round=down", batch, 2);
  // Weights at expert 0: 0.5, 0.8, 0.556: tokens 1 and 2 stay, in spite of token 0's higher
  // score. Expert 1: tokens 0 and 2 of
  // three (0.5, 0.2, 0.444). Expert 2: none.
  EXPECT_EQ(plan.ids, (Ids{1, -1, 0, -1, 0, 1}));
}

// Experts 0 and 2 on both devices, 1 on the first; instances 0 1 | 2 | 3 4.
ExpertLayout two_devices() {
  return ExpertLayout::of_instances(3, 2, {{"bf16", 0.0f}, {"int4", 0.1f}},
                                    {{0, 0, 0}, {0, 0, 1}, {1, 0, 0}, {2, 0, 0}, {2, 0, 1}});
}

const ScoreBatch kReplicas{
    4, 3, {0.8f, 0.1f, 0.1f, 0.7f, 0.2f, 0.1f, 0.1f, 0.8f, 0.1f, 0.1f, 0.1f, 0.8f}};

TEST(Eplb, DealsTokensOut) {
  const ExpertLayout layout = two_devices();
  const RoutingPlan plan = plan_of("eplb", kReplicas, 1, {.layout = &layout});
  EXPECT_EQ(plan.ids, (Ids{0, 0, 1, 2}));
  EXPECT_EQ(plan.instances, (Ids{0, 1, 2, 3}));
  EXPECT_EQ(plan.report.distinct_instances, 4);
  EXPECT_EQ(plan.report.changed_tokens, 0);
}

TEST(Metro, ActivatesOneReplicaOnTheLeastLoadedDevice) {
  const ExpertLayout layout = two_devices();
  // By id: 0 on device 0, 1 on device 0, 2 on device 1. Single copies first: 1 on device 0, then 0
  // on device 1, then 2, both devices having one, on device 0.
  EXPECT_EQ(plan_of("metro", kReplicas, 1, {.layout = &layout}).instances, (Ids{0, 0, 2, 4}));
  const RoutingPlan plan = plan_of("metro:order=fixed", kReplicas, 1, {.layout = &layout});
  EXPECT_EQ(plan.instances, (Ids{1, 1, 2, 3}));
  EXPECT_EQ(plan.report.distinct_instances, 3);
}

TEST(Replicas, OtherPrecisionsAreNone) {
  const ExpertLayout layout = ExpertLayout::of_instances(
      2, 2, {{"bf16", 0.0f}, {"int4", 0.1f}}, {{0, 0, 0}, {0, 1, 1}, {1, 0, 0}, {1, 1, 1}});
  const ScoreBatch batch{2, 2, {0.9f, 0.1f, 0.8f, 0.2f}};
  for (const char* text : {"eplb", "metro", "oea:k0=2", "capdrop:factor=2"})
    EXPECT_EQ(plan_of(text, batch, 2, {.layout = &layout}).instances, (Ids{0, 2, 0, 2})) << text;
}

}  // namespace
}  // namespace thermoe
