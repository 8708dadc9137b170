// MoeLayer with experts in several precisions, against each expert run by itself.
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <string>

#include "experts/expert_tasks.h"
#include "kernels/nested_planes.h"
#include "kernels/reference.h"
#include "thermoe/error.h"
#include "thermoe/moe_layer.h"
#include "thermoe/routing_policies.h"

namespace thermoe {
namespace {

constexpr int64_t kHidden = 64, kInter = 48;
constexpr int kExperts = 6;

// Experts 0 and 1 as stored only, 2 and 3 quantised only, 4 and 5 both.
struct Mixed {
  Mixed() : gate(test::random_weight(DType::kBf16, kExperts, kHidden, 99, 0.3f)) {
    for (uint32_t e = 0; e < kExperts; ++e) {
      const uint32_t seed = 10 * e;
      gates.push_back(test::random_weight(DType::kBf16, kInter, kHidden, seed + 1, 0.2f));
      ups.push_back(test::random_weight(DType::kBf16, kInter, kHidden, seed + 2, 0.2f));
      downs.push_back(test::random_weight(DType::kBf16, kHidden, kInter, seed + 3, 0.2f));
      gate_ups.push_back(
          cpu::pack_nested(cpu::join_gate_up(test::random_planes(kInter, kHidden, seed + 4),
                                             test::random_planes(kInter, kHidden, seed + 5))));
      nested_downs.push_back(cpu::pack_nested(test::random_planes(kHidden, kInter, seed + 6)));
    }
  }
  ExpertWeights expert(size_t e) const {
    constexpr float kBase = 1e-4f;
    ExpertWeights weights;
    if (e < 2 || e > 3) weights.stored.emplace(gates[e].view(), ups[e].view(), downs[e].view());
    if (e > 1)
      weights.quantized.emplace(gate_ups[e].view(kBase, 16), nested_downs[e].view(kBase, 16));
    return weights;
  }
  MoeLayer layer() const {
    std::vector<ExpertWeights> experts;
    for (size_t e = 0; e < kExperts; ++e) experts.push_back(expert(e));
    return MoeLayer(gate.view(), std::move(experts), {2, true, 3});
  }

  test::StoredWeight gate;
  std::vector<test::StoredWeight> gates, ups, downs;
  std::vector<cpu::PackedPlanes> gate_ups, nested_downs;
};

// Every expert in every variant that it has, or in its first alone.
ExpertLayout layout_of(const Mixed& mixed, const std::vector<ExpertVariant>& variants,
                       bool first_only) {
  std::vector<ExpertInstance> instances;
  for (int32_t e = 0; e < kExperts; ++e) {
    int taken = 0;
    for (int32_t v = 0; v < static_cast<int32_t>(variants.size()); ++v) {
      const Precision precision = precision_of(variants[static_cast<size_t>(v)].name);
      if (!mixed.expert(static_cast<size_t>(e)).has(precision)) continue;
      if (first_only && taken++ > 0) continue;
      instances.push_back({e, v, 0});
    }
  }
  return ExpertLayout::of_instances(kExperts, 1, variants, instances);
}

// Remembers the plans, and whether a layout came with the request.
class Recording : public RoutingPolicy {
 public:
  explicit Recording(const std::string& specification)
      : inner_(make_routing_policy(specification)) {}
  const char* name() const override { return inner_->name(); }
  void route(const RoutingRequest& request, RoutingPlan& plan) override {
    inner_->route(request, plan);
    laid_out = request.layout != nullptr;
    made = plan;
  }
  bool laid_out = false;
  RoutingPlan made;

 private:
  std::unique_ptr<RoutingPolicy> inner_;
};

std::vector<float> run(MoeLayer& layer, const std::vector<float>& x, RoutingPolicy& policy,
                       const ExpertLayout* layout, const ExpertPrices* prices = nullptr,
                       int threads = 2) {
  ThreadPool pool(threads);
  const int64_t rows = static_cast<int64_t>(x.size()) / kHidden;
  std::vector<float> out(x.size(), NAN);
  const RowGroup all{0, rows};
  layer.forward(ConstMatrix(x.data(), rows, kHidden), {&all, 1}, policy, prices,
                Matrix(out.data(), rows, kHidden), pool, nullptr, layout);
  return out;
}

// The plan's weights times its experts' outputs, each expert run by itself.
std::vector<float> expected(const Mixed& mixed, const std::vector<float>& x,
                            const RoutingPlan& plan, const ExpertLayout* layout) {
  std::vector<float> out(x.size(), 0.0f), y(kHidden), scratch;
  for (size_t pair = 0; pair < plan.ids.size(); ++pair) {
    if (plan.ids[pair] < 0) continue;
    const size_t t = pair / static_cast<size_t>(plan.k), e = static_cast<size_t>(plan.ids[pair]);
    const ExpertWeights expert = mixed.expert(e);
    Precision precision = expert.finest();
    if (layout != nullptr) precision = precision_of(layout->variant_of(plan.instances[pair]).name);
    run_expert(expert, precision, ConstMatrix(x.data() + t * kHidden, 1, kHidden),
               Matrix(y.data(), 1, kHidden), scratch);
    for (size_t c = 0; c < y.size(); ++c) out[t * kHidden + c] += plan.weights[pair] * y[c];
  }
  return out;
}

void expect_near(const std::vector<float>& got, const std::vector<float>& want) {
  ASSERT_EQ(got.size(), want.size());
  float most = 0;
  for (const float value : want) most = std::max(most, std::fabs(value));
  for (size_t i = 0; i < got.size(); ++i) ASSERT_NEAR(got[i], want[i], 1e-4f * most) << i;
}

const std::vector<ExpertVariant> kAll{{.name = "bf16"},
                                      {.name = "int8", .error_frac = 0.001f, .read_frac = 0.5f},
                                      {.name = "int4", .error_frac = 0.02f, .read_frac = 0.25f}};

TEST(MoeVariants, RunsEachExpertInThePrecisionOfThePlan) {
  const Mixed mixed;
  MoeLayer layer = mixed.layer();
  const ExpertLayout layout = layout_of(mixed, kAll, false);
  ASSERT_EQ(layout.count(), 2 + 2 * 2 + 2 * 3);
  const ExpertPrices prices = ExpertPrices::of_layout(layout, 0.1f);
  for (const int64_t rows : {1, 7, 200}) {
    const auto x = test::random_floats(rows * kHidden, 5);
    std::vector<int> precisions(3, 0);  // stored, int8, int4: fp8 is a GPU's
    for (const char* text : {"topk", "adaptive", "threshold:theta=1", "oea:k0=1"}) {
      Recording policy(text);
      const ExpertPrices* asked = policy.name() == std::string("adaptive") ? &prices : nullptr;
      const auto out = run(layer, x, policy, &layout, asked);
      EXPECT_TRUE(policy.laid_out);
      expect_near(out, expected(mixed, x, policy.made, &layout));
      EXPECT_EQ(out, run(layer, x, policy, &layout, asked, 1)) << "threads change a bit";
      for (const int32_t i : policy.made.instances)
        if (i >= 0) ++precisions[static_cast<size_t>(precision_of(layout.variant_of(i).name))];
    }
    if (rows == 7) {
      for (const int count : precisions) EXPECT_GT(count, 0) << "not all precisions ran";
    }
  }
}

TEST(MoeVariants, OneInstanceOfEachIsNoQuestionForThePolicy) {
  const Mixed mixed;
  MoeLayer layer = mixed.layer();
  const ExpertLayout coarse = layout_of(mixed, {kAll[2], kAll[0]}, true);
  ASSERT_TRUE(coarse.one_each());
  const auto x = test::random_floats(9 * kHidden, 6);
  Recording policy("oea:k0=1");
  const auto out = run(layer, x, policy, &coarse);
  EXPECT_FALSE(policy.laid_out);
  expect_near(out, expected(mixed, x, policy.made, &coarse));
  // Without a layout: as stored, else int8.
  const auto finest = run(layer, x, policy, nullptr);
  expect_near(finest, expected(mixed, x, policy.made, nullptr));
  EXPECT_NE(finest, out);
  const ExpertLayout same = layout_of(mixed, kAll, true);
  EXPECT_EQ(run(layer, x, policy, &same), finest);
}

void expect_refusal(MoeLayer& layer, const ExpertLayout& layout, const std::string& named) {
  TopKPolicy policy;
  const auto x = test::random_floats(2 * kHidden, 6);
  try {
    run(layer, x, policy, &layout);
    ADD_FAILURE() << "taken: " << named;
  } catch (const InvalidArgument& error) {
    EXPECT_NE(std::string(error.what()).find(named), std::string::npos) << error.what();
  }
}

TEST(MoeVariants, RefusesWhatTheWeightsCannotServe) {
  const Mixed mixed;
  MoeLayer layer = mixed.layer();
  expect_refusal(layer, ExpertLayout::with_variants(kExperts, {{.name = "int8"}}),
                 "layer 3: expert 0 is not held in int8: make a quantised checkpoint");
  expect_refusal(layer, ExpertLayout::with_variants(kExperts, {{.name = "bf16"}}),
                 "layer 3: expert 2 is not held in bf16");
  expect_refusal(layer, ExpertLayout::single(kExperts), "can't run in 'exact'");
  expect_refusal(layer, ExpertLayout::with_variants(5, {{.name = "bf16"}}), "5 experts");
  std::vector<ExpertWeights> experts(kExperts);
  EXPECT_THROW(MoeLayer(mixed.gate.view(), experts, {2, true, 0}), InvalidArgument);
}

// A plan whose instances are none of the layout, or another expert's.
class Wrong : public RoutingPolicy {
 public:
  explicit Wrong(int32_t shift) : shift_(shift) {}
  const char* name() const override { return "wrong"; }
  void route(const RoutingRequest& request, RoutingPlan& plan) override {
    TopKPolicy().route(request, plan);
    for (int32_t& i : plan.instances) i += shift_;
  }

 private:
  int32_t shift_;
};

TEST(MoeVariants, RefusesPlansOfOtherInstances) {
  const Mixed mixed;
  MoeLayer layer = mixed.layer();
  const ExpertLayout layout = layout_of(mixed, kAll, false);
  const auto x = test::random_floats(4 * kHidden, 6);
  for (const int32_t shift : {-100, -1, 3, 100}) {
    Wrong policy(shift);
    EXPECT_THROW(run(layer, x, policy, &layout), InvalidArgument) << shift;
  }
}

}  // namespace
}  // namespace thermoe
