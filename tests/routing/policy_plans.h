// Plans of policies by specification, for the tests of the baselines.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <set>
#include <string>
#include <vector>

#include "score_batches.h"
#include "thermoe/routing_policies.h"

namespace thermoe {

// What a request may carry beside its scores.
struct PlanSettings {
  bool renormalize = true;
  const ExpertLayout* layout = nullptr;
  const ExpertPrices* prices = nullptr;
  const ExpertCalibration* calibration = nullptr;
};

inline RoutingPlan plan_of(const std::string& specification, const ScoreBatch& batch, int k,
                           const PlanSettings& settings = {}) {
  RoutingPlan plan;
  make_routing_policy(specification, {.calibration = settings.calibration})
      ->route({.scores = batch.view(),
               .k = k,
               .renormalize = settings.renormalize,
               .prices = settings.prices,
               .layout = settings.layout},
              plan);
  return plan;
}

inline RoutingPlan route_top_k(const ScoreBatch& batch, int k, bool renormalize = true) {
  TopKPolicy policy;
  RoutingPlan plan;
  policy.route({.scores = batch.view(), .k = k, .renormalize = renormalize}, plan);
  return plan;
}

using Ids = std::vector<int32_t>;

inline Ids ids_of(const RoutingPlan& plan, int t) {
  const auto ids = plan.token_ids(t);
  return {ids.begin(), ids.end()};
}

inline void expect_weights(const RoutingPlan& plan, int t, const std::vector<float>& want) {
  const auto weights = plan.token_weights(t);
  ASSERT_EQ(weights.size(), want.size());
  for (size_t i = 0; i < want.size(); ++i) EXPECT_FLOAT_EQ(weights[i], want[i]) << "slot " << i;
}

// Everything that holds of every plan, whatever the policy.
inline void expect_valid(const RoutingPlan& plan, const ScoreBatch& batch,
                         const ExpertLayout* layout) {
  ASSERT_EQ(plan.tokens, batch.tokens);
  ASSERT_EQ(plan.ids.size(), plan.weights.size());
  ASSERT_EQ(plan.ids.size(), plan.instances.size());
  ASSERT_EQ(plan.ids.size(), static_cast<size_t>(plan.tokens) * static_cast<size_t>(plan.k));
  std::set<int32_t> experts, instances;
  size_t used = 0;
  int changed = 0;
  for (int t = 0; t < plan.tokens; ++t) {
    changed += plan.changed[static_cast<size_t>(t)];
    for (size_t slot = 0; slot < static_cast<size_t>(plan.k); ++slot) {
      const size_t pair = static_cast<size_t>(t) * static_cast<size_t>(plan.k) + slot;
      const int32_t id = plan.ids[pair], instance = plan.instances[pair];
      ASSERT_TRUE(id >= -1 && id < batch.experts);
      ASSERT_TRUE(std::isfinite(plan.weights[pair]) && plan.weights[pair] >= 0.0f);
      if (id < 0) {
        EXPECT_EQ(instance, -1);
        EXPECT_EQ(plan.weights[pair], 0.0f);
        continue;
      }
      ++used;
      experts.insert(id);
      instances.insert(instance);
      EXPECT_EQ(
          layout != nullptr ? layout->instances[static_cast<size_t>(instance)].expert : instance,
          id);
      if (slot == 0) continue;
      const int32_t before = plan.ids[pair - 1];
      ASSERT_GE(before, 0) << "an unused slot before a used one";
      const float score = batch.view()(t, id), score_before = batch.view()(t, before);
      EXPECT_TRUE(score_before > score || (score_before == score && before < id));
    }
  }
  const int count = layout != nullptr ? layout->count() : batch.experts;
  ASSERT_EQ(plan.offsets.size(), static_cast<size_t>(count) + 1);
  ASSERT_EQ(plan.packed.size(), used);
  std::set<int32_t> seen;
  for (int i = 0; i < count; ++i)
    for (int32_t p = plan.offsets[static_cast<size_t>(i)];
         p < plan.offsets[static_cast<size_t>(i) + 1]; ++p) {
      EXPECT_EQ(plan.instances[static_cast<size_t>(plan.packed[static_cast<size_t>(p)])], i);
      EXPECT_TRUE(seen.insert(plan.packed[static_cast<size_t>(p)]).second);
    }
  const RoutingReport& report = plan.report;
  EXPECT_EQ(report.distinct_experts, static_cast<int>(experts.size()));
  EXPECT_EQ(report.distinct_instances, static_cast<int>(instances.size()));
  EXPECT_EQ(report.changed_tokens, changed);
  EXPECT_GE(report.gate_mass_frac, 0.0);
  EXPECT_LE(report.gate_mass_frac, 1.0);
  EXPECT_GE(report.bound, report.objective);
}

}  // namespace thermoe
