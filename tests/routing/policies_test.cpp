// The registry: specifications and their errors; and what holds of every baseline.
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <random>

#include "policy_plans.h"
#include "thermoe/error.h"
#include "thermoe/routing_policies.h"

namespace thermoe {
namespace {

std::string refusal(std::string_view specification) {
  try {
    make_routing_policy(specification);
  } catch (const InvalidArgument& error) {
    return error.what();
  }
  return "";
}

void expect_refusal(std::string_view specification, const std::string& named) {
  EXPECT_NE(refusal(specification).find(named), std::string::npos)
      << specification << ": " << refusal(specification);
}

TEST(Registry, ListsEveryPolicyByNameAndMakesIt) {
  std::string last;
  for (const PolicyInfo& info : known_policies()) {
    EXPECT_LT(last, info.name);
    EXPECT_FALSE(info.summary.empty() || info.source.empty()) << info.name;
    last = info.name;
  }
  EXPECT_STREQ(make_routing_policy("topk")->name(), "topk");
  EXPECT_STREQ(make_routing_policy("adaptive")->name(), "adaptive");
  EXPECT_STREQ(make_routing_policy("adaptive:open=0.05,power=2")->name(), "adaptive");
}

TEST(Registry, RefusesWhatItCannotRead) {
  expect_refusal("best", "unknown policy 'best': known are adaptive");
  expect_refusal("", "unknown policy ''");
  expect_refusal("topk:k=3", "no parameter 'k': it has none");
  expect_refusal("adaptive:opne=1", "no parameter 'opne': it has open");
  expect_refusal("adaptive:", "key=value");
  expect_refusal("adaptive:open", "key=value");
  expect_refusal("adaptive:open=", "key=value");
  expect_refusal("adaptive:=1", "key=value");
  expect_refusal("adaptive:open=1,", "key=value");
  expect_refusal("adaptive:open=1,,slope=1", "key=value");
  expect_refusal("adaptive:open=1,open=1", "open is given twice");
  expect_refusal("adaptive:open=1x", "open is '1x': it must be a number");
  expect_refusal("adaptive:open= 1", "must be a number");
  expect_refusal("adaptive:open=nan", "must be a number");
  expect_refusal("adaptive:open=inf", "must be a number");
  expect_refusal("adaptive:open=-1", "must be a number");
  expect_refusal("adaptive:min_k=1.5", "must be a whole number");
  expect_refusal("adaptive:loss=1.5", "from 0 to 1");
  expect_refusal("adaptive:loss=0.1,budget=3", "not both");
}

TEST(Registry, SearchSaysHowFarTheAdaptiveRouterGoes) {
  const ScoreBatch batch = random_scores(16, 64, 4);
  const RoutingPlan proven = plan_of("adaptive:open=0.1,search=proven", batch, 4);
  EXPECT_EQ(proven.ids, plan_of("adaptive:open=0.1", batch, 4).ids);
  EXPECT_EQ(proven.report.gap_frac, 0);
  const RoutingPlan climbed = plan_of("adaptive:open=0.1,search=climb", batch, 4);
  EXPECT_GT(climbed.report.gap_frac, 0);
  EXPECT_LE(climbed.report.objective, proven.report.objective);
  expect_refusal("adaptive:search=all", "proven");
}

TEST(Registry, LossIsAGoalOfTheAdaptiveRouter) {
  const ScoreBatch batch = random_scores(16, 32, 3);
  const ExpertPrices prices = ExpertPrices::uniform(32, 0.5f);
  RoutingPlan plan;
  make_routing_policy("adaptive:power=1,loss=0.01")
      ->route({.scores = batch.view(), .k = 4, .prices = &prices}, plan);
  EXPECT_GE(plan.report.gate_mass_frac, 0.99);
  EXPECT_LT(plan.report.gate_mass_frac, 1.0);
}

constexpr int kTokens = 13, kExperts = 24, kTopK = 4;

// Similarities of one layer's experts, symmetric, all different.
ExpertCalibration random_calibration() {
  ExpertCalibration calibration;
  calibration.experts = kExperts;
  calibration.layers.resize(1);
  for (int e = 0; e < kExperts; ++e)
    calibration.layers[0].load_frac.push_back(1.0f / static_cast<float>(e + 3));
  auto& similarity = calibration.layers[0].similarity;
  similarity.assign(kExperts * kExperts, 1.0f);
  std::mt19937 random(17);
  std::uniform_real_distribution<float> uniform(0.0f, 0.9f);
  for (size_t a = 0; a < kExperts; ++a)
    for (size_t b = 0; b < a; ++b)
      similarity[a * kExperts + b] = similarity[b * kExperts + a] = uniform(random);
  return calibration;
}

// Every third expert on both devices, the others on one; an int4 copy of each fifth.
ExpertLayout replicated() {
  std::vector<ExpertInstance> instances;
  for (int32_t e = 0; e < kExperts; ++e) {
    instances.push_back({e, 0, e % 2});
    if (e % 3 == 0) instances.push_back({e, 0, 1 - e % 2});
    if (e % 5 == 0) instances.push_back({e, 1, 0});
  }
  return ExpertLayout::of_instances(kExperts, 2, {{"bf16", 0.0f}, {"int4", 0.1f}}, instances);
}

bool needs_layout(const std::string& specification) {
  return specification.starts_with("metro") || specification.starts_with("eplb") ||
         specification.starts_with("staticmix") || specification.starts_with("threshold");
}

const std::vector<std::string>& baselines() {
  static const std::vector<std::string> all = [] {
    std::vector<std::string> list{"eplb", "metro", "metro:order=fixed"};
    for (const char* text : {"fewer:k=2",
                             "topp:p=0.7",
                             "minp:p=0.3",
                             "oea:k0=2",
                             "oea:k0=2,kmax=6,maxp=9,p=0.6",
                             "xshare:budget=9",
                             "xshare:budget=3,warm=0",
                             "lynx:alpha=1",
                             "lynx:alpha=2,beta=2",
                             "lynx:keep=8",
                             "lynx:drop=5",
                             "sere:primary=2",
                             "sere:primary=1,threshold=0.8",
                             "cacheprior:lambda=0.4,size=6",
                             "capdrop:factor=1",
                             "capexpand:factor=0.8",
                             "tileround:tile=4",
                             "tileround:tile=4,round=up",
                             "tileround:tile=4,round=down",
                             "staticmix:frac=0.3",
                             "threshold:theta=0.2",
                             "threshold:theta=0.2,close=0.15"})
      for (const char* weights : {",weights=own", ",weights=raw"})
        list.push_back(std::string(text) + weights);
    return list;
  }();
  return all;
}

TEST(Baselines, EveryKnownPolicyIsUnderTest) {
  for (const PolicyInfo& info : known_policies()) {
    if (info.name == "adaptive" || info.name == "topk") continue;
    EXPECT_TRUE(std::any_of(baselines().begin(), baselines().end(), [&](const std::string& text) {
      return text.substr(0, text.find(':')) == info.name;
    })) << info.name;
  }
}

TEST(Baselines, PlansAreValidAndRepeatable) {
  const ExpertCalibration calibration = random_calibration();
  const ExpertLayout layout = replicated();
  for (const std::string& text : baselines())
    for (const bool with_layout : {false, true})
      for (const bool renormalize : {false, true})
        for (uint32_t seed = 0; seed < 5; ++seed) {
          if (!with_layout && needs_layout(text)) continue;
          SCOPED_TRACE(text);
          const ScoreBatch batch = random_scores(seed == 4 ? 1 : kTokens, kExperts, seed);
          const PlanSettings settings{.renormalize = renormalize,
                                      .layout = with_layout ? &layout : nullptr,
                                      .calibration = &calibration};
          const RoutingPlan plan = plan_of(text, batch, kTopK, settings);
          expect_valid(plan, batch, settings.layout);
          const RoutingPlan again = plan_of(text, batch, kTopK, settings);
          EXPECT_EQ(plan.ids, again.ids);
          EXPECT_EQ(plan.weights, again.weights);
          EXPECT_EQ(plan.instances, again.instances);
        }
}

// Unchanged tokens keep their weights bit for bit, and `changed` says which they are.
TEST(Baselines, UnchangedTokensAreTopKs) {
  const ExpertCalibration calibration = random_calibration();
  const ExpertLayout layout = replicated();
  for (const std::string& text : baselines()) {
    SCOPED_TRACE(text);
    const ScoreBatch batch = random_scores(kTokens, kExperts, 8);
    const RoutingPlan top = plan_of("topk", batch, kTopK);
    const RoutingPlan plan =
        plan_of(text, batch, kTopK, {.layout = &layout, .calibration = &calibration});
    for (int t = 0; t < kTokens; ++t) {
      Ids ids = ids_of(plan, t), own = ids_of(top, t);
      own.resize(ids.size(), -1);
      EXPECT_EQ(plan.changed[static_cast<size_t>(t)] == 0, ids == own);
      if (ids == own) {
        EXPECT_TRUE(std::equal(top.token_weights(t).begin(), top.token_weights(t).end(),
                               plan.token_weights(t).begin()));
      }
    }
    EXPECT_EQ(plan.report.top_k_distinct_experts, top.report.distinct_experts);
  }
}

TEST(Baselines, RawWeightsAreSharesOfTheTopKMass) {
  const ExpertCalibration calibration = random_calibration();
  const ExpertLayout layout = replicated();
  for (const std::string& text : baselines()) {
    if (text.find("weights=raw") == std::string::npos) continue;
    SCOPED_TRACE(text);
    const ScoreBatch batch = random_scores(kTokens, kExperts, 9);
    const RoutingPlan top = plan_of("topk", batch, kTopK);
    const PlanSettings settings{.layout = needs_layout(text) ? &layout : nullptr,
                                .calibration = &calibration};
    const RoutingPlan plan = plan_of(text, batch, kTopK, settings);
    for (int t = 0; t < kTokens; ++t) {
      float mass = 0;
      for (const int32_t e : top.token_ids(t)) mass += batch.view()(t, e);
      for (size_t slot = 0; slot < plan.token_ids(t).size(); ++slot)
        if (const int32_t e = plan.token_ids(t)[slot]; e >= 0) {
          EXPECT_FLOAT_EQ(plan.token_weights(t)[slot], batch.view()(t, e) / mass);
        }
    }
  }
}

// The end of each knob where a policy changes nothing.
TEST(Baselines, AreTopKWhereTheyMustBe) {
  const ExpertCalibration calibration = random_calibration();
  for (const std::string text :
       {"fewer:k=4", "fewer:k=9", "topp:p=1", "minp:p=0", "oea:k0=4", "oea:k0=7",
        "xshare:budget=24", "lynx:alpha=100000", "lynx:drop=0", "lynx:keep=24", "sere:primary=4",
        "sere:primary=1,threshold=0.95", "cacheprior:lambda=0", "capdrop:factor=100",
        "capexpand:factor=100", "tileround:tile=1", "tileround:tile=1,round=up"})
    for (const char* weights : {"own", "raw"})
      for (const bool renormalize : {false, true})
        for (uint32_t seed = 0; seed < 10; ++seed) {
          SCOPED_TRACE(text);
          const ScoreBatch batch = random_scores(1 + static_cast<int>(seed) * 5, kExperts, seed);
          const PlanSettings settings{.renormalize = renormalize, .calibration = &calibration};
          const RoutingPlan top = plan_of("topk", batch, kTopK, settings);
          const RoutingPlan plan = plan_of(text + ",weights=" + weights, batch, kTopK, settings);
          EXPECT_EQ(plan.k, top.k);
          EXPECT_EQ(plan.ids, top.ids);
          EXPECT_EQ(plan.weights, top.weights);
          EXPECT_EQ(plan.packed, top.packed);
          EXPECT_EQ(plan.offsets, top.offsets);
          EXPECT_EQ(plan.report.changed_tokens, 0);
          EXPECT_EQ(plan.report.gate_mass_frac, 1.0);
        }
}

// A batch's rows in another order: the plan's rows in that order. eplb deals replicas out in the
// tokens' order, by design.
TEST(Baselines, PermutingTokensPermutesThePlan) {
  const ExpertCalibration calibration = random_calibration();
  const ExpertLayout layout = replicated();
  std::vector<int> order(kTokens);
  std::iota(order.begin(), order.end(), 0);
  std::shuffle(order.begin(), order.end(), std::mt19937(3));
  for (const std::string& text : baselines()) {
    if (text == "eplb") continue;
    SCOPED_TRACE(text);
    const ScoreBatch batch = random_scores(kTokens, kExperts, 21);
    ScoreBatch permuted{kTokens, kExperts, {}};
    for (const int t : order)
      permuted.values.insert(permuted.values.end(), batch.view().row(t),
                             batch.view().row(t) + kExperts);
    const PlanSettings settings{.layout = &layout, .calibration = &calibration};
    const RoutingPlan plan = plan_of(text, batch, kTopK, settings);
    const RoutingPlan other = plan_of(text, permuted, kTopK, settings);
    ASSERT_EQ(plan.k, other.k);
    for (int i = 0; i < kTokens; ++i) {
      const int t = order[static_cast<size_t>(i)];
      EXPECT_EQ(ids_of(plan, t), ids_of(other, i));
      EXPECT_TRUE(std::equal(plan.token_weights(t).begin(), plan.token_weights(t).end(),
                             other.token_weights(i).begin()));
    }
  }
}

TEST(Baselines, IgnorePricesButReportTheirCost) {
  const ScoreBatch batch{2, 3, {0.6f, 0.3f, 0.1f, 0.1f, 0.3f, 0.6f}};
  const ExpertPrices prices{.open = {0.5f, 0.25f, 0.125f},
                            .slope = {0.01f, 0.02f, 0.04f},
                            .device_open = {1.0f, 1.0f, 1.0f},
                            .device_slope = {0.5f, 0.5f, 0.5f},
                            .device_base = {2.0f}};
  const RoutingPlan plan = plan_of("fewer:k=1", batch, 2, {.prices = &prices});
  EXPECT_EQ(plan.ids, plan_of("fewer:k=1", batch, 2).ids);
  // Experts 0 and 2 are open, one token each.
  EXPECT_NEAR(plan.report.cost, 0.5 + 0.125 + 0.01 + 0.04 + 2.0 + 2.0 + 1.0, 1e-6);
  EXPECT_NEAR(plan.report.utility, 2 * 0.6 / 0.9, 1e-6);
  EXPECT_NEAR(plan.report.objective, plan.report.utility - plan.report.cost, 1e-12);
}

TEST(Baselines, SayWhatTheyNeed) {
  expect_refusal("sere", "needs an expert calibration");
  expect_refusal("oea:weights=best", "must be one of own, raw");
  expect_refusal("oea:k0=0", "k0 is '0'");
  expect_refusal("lynx:keep=3,drop=2", "not both");
  expect_refusal("tileround:round=sideways", "nearest, up, down");
  const ScoreBatch batch = random_scores(3, kExperts, 1);
  const ExpertLayout small = ExpertLayout::single(5);
  ExpertCalibration other = random_calibration();
  other.layers.clear();
  for (const char* text : {"metro", "eplb", "staticmix", "threshold"})
    EXPECT_THROW(plan_of(text, batch, kTopK), InvalidArgument) << text;
  EXPECT_THROW(plan_of("metro", batch, kTopK, {.layout = &small}), InvalidArgument);
  EXPECT_THROW(plan_of("oea", batch, kTopK, {.layout = &small}), InvalidArgument);
  EXPECT_THROW(plan_of("sere", batch, kTopK, {.calibration = &other}), InvalidArgument);
  EXPECT_THROW(plan_of("xshare", batch, kExperts + 1), InvalidArgument);
}

}  // namespace
}  // namespace thermoe
