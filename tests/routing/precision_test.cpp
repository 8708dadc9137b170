// staticmix and threshold: precisions by hand-made rules.
#include <gtest/gtest.h>

#include "policy_plans.h"
#include "thermoe/error.h"

namespace thermoe {
namespace {

// int8 and int4 of every expert; int4 loses more the higher the expert's number.
ExpertLayout two_variants(int experts) {
  ExpertLayout layout = ExpertLayout::with_variants(
      experts, {{.name = "int8", .read_frac = 0.5f}, {.name = "int4", .read_frac = 0.25f}});
  for (const ExpertInstance& i : layout.instances)
    layout.error_frac.push_back(i.variant == 0 ? 0.001f : 0.01f * static_cast<float>(i.expert + 1));
  return layout;
}

std::vector<int32_t> variants_of(const RoutingPlan& plan, const ExpertLayout& layout, int experts) {
  std::vector<int32_t> variants(static_cast<size_t>(experts), -1);
  for (const int32_t i : plan.instances)
    if (i >= 0) {
      const ExpertInstance& instance = layout.instances[static_cast<size_t>(i)];
      variants[static_cast<size_t>(instance.expert)] = instance.variant;
    }
  return variants;
}

TEST(StaticMix, KeepsTheExpertsThatQuantiseWorstWhateverTheBatch) {
  const ExpertLayout layout = two_variants(8);
  for (uint32_t seed = 0; seed < 5; ++seed) {
    const ScoreBatch batch = random_scores(20, 8, seed);
    const RoutingPlan plan = plan_of("staticmix:frac=0.25", batch, 4, {.layout = &layout});
    expect_valid(plan, batch, &layout);
    EXPECT_EQ(plan.ids, plan_of("topk", batch, 4).ids);
    EXPECT_EQ(variants_of(plan, layout, 8), (Ids{1, 1, 1, 1, 1, 1, 0, 0}));
  }
}

TEST(StaticMix, WeighsErrorsByTheCalibratedLoadAndOutput) {
  const ExpertLayout layout = two_variants(4);
  ExpertCalibration calibration;
  calibration.layers.resize(1);
  calibration.layers[0].load_frac = {0.7f, 0.1f, 0.1f, 0.1f};
  const ScoreBatch batch = random_scores(20, 4, 3);
  PlanSettings settings{.layout = &layout, .calibration = &calibration};
  // load * (error - 0.001): 0.0063, 0.0019, 0.0029, 0.0039
  EXPECT_EQ(variants_of(plan_of("staticmix:frac=0.5", batch, 2, settings), layout, 4),
            (Ids{0, 1, 1, 0}));
  calibration.layers[0].output_square = {0.1f, 1.0f, 3.0f, 1.0f};
  EXPECT_EQ(variants_of(plan_of("staticmix:frac=0.5", batch, 2, settings), layout, 4),
            (Ids{1, 1, 0, 0}));
  calibration.layers[0].load_frac.pop_back();
  EXPECT_THROW(plan_of("staticmix", batch, 2, settings), InvalidArgument);
}

TEST(Threshold, RefinesWhatTheBatchLeansOn) {
  const ExpertLayout layout = two_variants(4);
  // Shares of the top-2 mass: expert 0 has 0.8 and 0.5, expert 1 0.2, expert 2 0.5.
  const ScoreBatch batch{2, 4, {0.4f, 0.1f, 0.05f, 0.0f, 0.3f, 0.0f, 0.3f, 0.1f}};
  const auto plan = [&](const std::string& text) {
    const RoutingPlan made = plan_of(text, batch, 2, {.layout = &layout});
    expect_valid(made, batch, &layout);
    return made;
  };
  // Sums of squares: 0.89, 0.04, 0.25.
  EXPECT_EQ(variants_of(plan("threshold:theta=0.3"), layout, 4), (Ids{0, 1, 1, -1}));
  EXPECT_EQ(variants_of(plan("threshold:theta=0.2"), layout, 4), (Ids{0, 1, 0, -1}));
  EXPECT_EQ(variants_of(plan("threshold:theta=0"), layout, 4), (Ids{0, 0, 0, -1}));
  EXPECT_EQ(variants_of(plan("threshold:theta=1"), layout, 4), (Ids{1, 1, 1, -1}));
  // Expert 1 closes, and token 0 takes expert 2 instead.
  const RoutingPlan closed = plan("threshold:theta=0.3,close=0.1");
  EXPECT_EQ(ids_of(closed, 0), (Ids{0, 2}));
  EXPECT_EQ(closed.report.changed_tokens, 1);
  // Two experts stay whatever the threshold.
  EXPECT_EQ(plan("threshold:close=5").report.distinct_experts, 2);
}

TEST(Threshold, ExpertsInOneVariantStayThere) {
  const ExpertLayout layout = ExpertLayout::of_instances(
      3, 1, {{.name = "bf16"}, {.name = "int8"}, {.name = "int4", .error_frac = 0.1f}},
      {{0, 0, 0}, {1, 1, 0}, {1, 2, 0}, {2, 1, 0}, {2, 2, 0}});
  const ScoreBatch batch = random_scores(4, 3, 1);
  const RoutingPlan plan = plan_of("threshold:theta=100", batch, 3, {.layout = &layout});
  EXPECT_EQ(variants_of(plan, layout, 3), (Ids{0, 2, 2}));
}

}  // namespace
}  // namespace thermoe
