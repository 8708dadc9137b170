// The registry: specifications and their errors.
#include <gtest/gtest.h>

#include "score_batches.h"
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

TEST(Registry, LossIsAGoalOfTheAdaptiveRouter) {
  const ScoreBatch batch = random_scores(16, 32, 3);
  const ExpertPrices prices = ExpertPrices::uniform(32, 0.5f);
  RoutingPlan plan;
  make_routing_policy("adaptive:loss=0.01")
      ->route({.scores = batch.view(), .k = 4, .prices = &prices}, plan);
  EXPECT_GE(plan.report.gate_mass_frac, 0.99);
  EXPECT_LT(plan.report.gate_mass_frac, 1.0);
}

}  // namespace
}  // namespace thermoe
