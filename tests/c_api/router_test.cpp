// Plans through the C interface are the library's, whatever the rows' stride and type, and cost no
// allocation once the router has grown.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "count_news.h"
#include "thermoe/adaptive_router.h"
#include "thermoe/c_api.h"
#include "thermoe/routing_policies.h"

namespace thermoe {
namespace {

std::vector<float> random_scores(int tokens, int experts, uint32_t seed) {
  std::mt19937 engine(seed);
  std::normal_distribution<float> normal;
  std::vector<float> scores;
  for (int t = 0; t < tokens; ++t) {
    float sum = 0;
    for (int e = 0; e < experts; ++e) {
      scores.push_back(std::exp(1.5f * normal(engine)));
      sum += scores.back();
    }
    for (int e = 0; e < experts; ++e) scores[scores.size() - 1 - e] /= sum;
  }
  return scores;
}

struct Router {
  explicit Router(int experts, int k, const char* policy = nullptr,
                  const thermoe_layout* layout = nullptr) {
    thermoe_router_options options{};
    options.struct_size = sizeof(options);
    options.experts = experts;
    options.k = k;
    options.policy = policy;
    options.layout = layout;
    EXPECT_EQ(thermoe_router_create(&options, &handle), THERMOE_OK) << thermoe_last_error();
  }
  ~Router() { thermoe_router_close(handle); }
  Router(const Router&) = delete;
  Router& operator=(const Router&) = delete;
  thermoe_router* handle = nullptr;
};

// A caller's arrays.
struct Arrays {
  Arrays(int tokens, int slots, int instances)
      : ids(tokens * slots, -9),
        instance(tokens * slots, -9),
        offsets(instances + 1, -9),
        packed(tokens * slots, -9),
        weights(tokens * slots, -9),
        changed(tokens, 9) {
    plan.struct_size = sizeof(plan);
    plan.ids = ids.data();
    plan.instances = instance.data();
    plan.weights = weights.data();
    plan.changed = changed.data();
    plan.offsets = offsets.data();
    plan.packed = packed.data();
    plan.slots = slots;
    report.struct_size = sizeof(report);
  }
  std::vector<int32_t> ids, instance, offsets, packed;
  std::vector<float> weights;
  std::vector<uint8_t> changed;
  thermoe_plan plan{};
  thermoe_report report{};
};

thermoe_batch batch_of(const void* scores, int tokens) {
  thermoe_batch batch{};
  batch.struct_size = sizeof(batch);
  batch.scores = scores;
  batch.tokens = tokens;
  return batch;
}

void expect_equal(const Arrays& got, const RoutingPlan& want) {
  EXPECT_EQ(got.ids, want.ids);
  EXPECT_EQ(got.instance, want.instances);
  EXPECT_EQ(got.weights, want.weights);
  EXPECT_EQ(got.changed, want.changed);
  EXPECT_EQ(got.offsets, want.offsets);
  EXPECT_EQ(std::vector<int32_t>(got.packed.begin(), got.packed.begin() + got.report.used_pairs),
            want.packed);
  EXPECT_EQ(got.report.objective, want.report.objective);
  EXPECT_EQ(got.report.bound, want.report.bound);
  EXPECT_EQ(got.report.gap_frac, want.report.gap_frac);
  EXPECT_EQ(got.report.distinct_experts, want.report.distinct_experts);
  EXPECT_EQ(got.report.changed_tokens, want.report.changed_tokens);
}

RoutingPlan library_plan(const std::vector<float>& scores, int tokens, int experts, int k,
                         const ExpertPrices* prices, const ExpertLayout* layout = nullptr) {
  AdaptiveRouter router;
  RoutingRequest request;
  request.scores = ConstMatrix(scores.data(), tokens, experts);
  request.k = k;
  request.prices = prices;
  request.layout = layout;
  RoutingPlan plan;
  router.route(request, plan);
  return plan;
}

TEST(CApiRouter, PlansAreTheLibrarys) {
  constexpr int kTokens = 16, kExperts = 32, kSlots = 4;
  const std::vector<float> scores = random_scores(kTokens, kExperts, 1);
  const auto prices = ExpertPrices::uniform(kExperts, 0.05f, 0.01f);
  Router router(kExperts, kSlots);
  Arrays got(kTokens, kSlots, kExperts);
  thermoe_batch batch = batch_of(scores.data(), kTokens);
  batch.open = prices.open.data();
  batch.slope = prices.slope.data();
  ASSERT_EQ(thermoe_router_plan(router.handle, &batch, &got.plan, &got.report), THERMOE_OK)
      << thermoe_last_error();
  expect_equal(got, library_plan(scores, kTokens, kExperts, kSlots, &prices));
  EXPECT_GT(got.report.changed_tokens, 0);
}

TEST(CApiRouter, LayoutsReachTheRouter) {
  constexpr int kTokens = 12, kExperts = 16, kSlots = 4;
  const std::vector<float> scores = random_scores(kTokens, kExperts, 2);
  const auto layout = ExpertLayout::with_variants(
      kExperts, {{.name = "bf16"}, {.name = "int8", .error_frac = 0.004f, .read_frac = 0.5f}});
  const ExpertPrices prices = ExpertPrices::of_layout(layout, 0.2f);
  const char* names[] = {"bf16", "int8"};
  const float errors[] = {0, 0.004f}, reads[] = {1, 0.5f};
  thermoe_layout_options options{};
  options.struct_size = sizeof(options);
  options.experts = kExperts;
  options.variants = 2;
  options.variant_names = names;
  options.variant_error_frac = errors;
  options.variant_read_frac = reads;
  thermoe_layout* handle = nullptr;
  ASSERT_EQ(thermoe_layout_create(&options, &handle), THERMOE_OK) << thermoe_last_error();
  EXPECT_EQ(thermoe_layout_instances(handle), 2 * kExperts);
  Router router(kExperts, kSlots, nullptr, handle);
  thermoe_layout_close(handle);  // the router has its own
  EXPECT_EQ(thermoe_router_instances(router.handle), 2 * kExperts);
  Arrays got(kTokens, kSlots, 2 * kExperts);
  thermoe_batch batch = batch_of(scores.data(), kTokens);
  batch.open = prices.open.data();
  batch.slope = prices.slope.data();
  ASSERT_EQ(thermoe_router_plan(router.handle, &batch, &got.plan, &got.report), THERMOE_OK)
      << thermoe_last_error();
  expect_equal(got, library_plan(scores, kTokens, kExperts, kSlots, &prices, &layout));
}

TEST(CApiRouter, AnyStrideAndBf16) {
  constexpr int kTokens = 7, kExperts = 16, kSlots = 3, kStride = 29;
  std::vector<float> scores = random_scores(kTokens, kExperts, 3);
  std::vector<uint16_t> halves;  // exactly the scores: rounded to bf16 first
  for (float& s : scores) {
    halves.push_back(static_cast<uint16_t>(std::bit_cast<uint32_t>(s) >> 16));
    s = std::bit_cast<float>(static_cast<uint32_t>(halves.back()) << 16);
  }
  const auto prices = ExpertPrices::uniform(kExperts, 0.1f);
  const RoutingPlan want = library_plan(scores, kTokens, kExperts, kSlots, &prices);
  std::vector<float> forward(kTokens * kStride, NAN), backward(kTokens * kStride, NAN);
  for (int t = 0; t < kTokens; ++t)
    for (int e = 0; e < kExperts; ++e) {
      forward[t * kStride + e] = scores[t * kExperts + e];
      backward[(kTokens - 1 - t) * kStride + e] = scores[t * kExperts + e];
    }
  Router router(kExperts, kSlots);
  const auto expect_same = [&](const void* data, int64_t stride, int32_t type) {
    Arrays got(kTokens, kSlots, kExperts);
    thermoe_batch batch = batch_of(data, kTokens);
    batch.row_stride = stride;
    batch.score_type = type;
    batch.open = prices.open.data();
    batch.slope = prices.slope.data();
    ASSERT_EQ(thermoe_router_plan(router.handle, &batch, &got.plan, &got.report), THERMOE_OK)
        << thermoe_last_error();
    expect_equal(got, want);
  };
  expect_same(forward.data(), kStride, THERMOE_F32);
  expect_same(backward.data() + (kTokens - 1) * kStride, -kStride, THERMOE_F32);
  expect_same(halves.data(), 0, THERMOE_BF16);
}

TEST(CApiRouter, WiderRowsOfSlots) {
  constexpr int kTokens = 5, kExperts = 8, kSlots = 2, kWide = 6;
  const std::vector<float> scores = random_scores(kTokens, kExperts, 4);
  const RoutingPlan want = library_plan(scores, kTokens, kExperts, kSlots, nullptr);
  Router router(kExperts, kSlots, "topk");
  Arrays got(kTokens, kWide, kExperts);
  const thermoe_batch batch = batch_of(scores.data(), kTokens);
  ASSERT_EQ(thermoe_router_plan(router.handle, &batch, &got.plan, &got.report), THERMOE_OK);
  EXPECT_EQ(got.offsets, want.offsets);
  for (int t = 0; t < kTokens; ++t)
    for (int s = 0; s < kWide; ++s) {
      const int at = t * kWide + s;
      EXPECT_EQ(got.ids[at], s < kSlots ? want.ids[t * kSlots + s] : -1);
      EXPECT_EQ(got.weights[at], s < kSlots ? want.weights[t * kSlots + s] : 0.0f);
    }
  for (int p = 0; p < got.report.used_pairs; ++p)
    EXPECT_EQ(got.ids[got.packed[p]], want.ids[want.packed[p]]) << p;
}

TEST(CApiRouter, APolicyThatWantsMoreSlotsSaysHowMany) {
  constexpr int kTokens = 5, kExperts = 8;
  const std::vector<float> scores = random_scores(kTokens, kExperts, 4);
  const thermoe_batch batch = batch_of(scores.data(), kTokens);
  Router router(kExperts, 1, "oea:k0=1,kmax=4");
  Arrays narrow(kTokens, 1, kExperts), wide(kTokens, 4, kExperts);
  EXPECT_EQ(thermoe_router_plan(router.handle, &batch, &narrow.plan, nullptr),
            THERMOE_INVALID_ARGUMENT);
  EXPECT_EQ(std::string(thermoe_last_error()).rfind("plan: the policy gives a token up to ", 0), 0u)
      << thermoe_last_error();
  EXPECT_EQ(thermoe_router_plan(router.handle, &batch, &wide.plan, nullptr), THERMOE_OK)
      << thermoe_last_error();
}

TEST(CApiRouter, BadBatchesSayWhatIsWrong) {
  constexpr int kTokens = 2, kExperts = 4, kSlots = 2;
  std::vector<float> scores = random_scores(kTokens, kExperts, 5);
  Router router(kExperts, kSlots);
  Arrays got(kTokens, kSlots, kExperts);
  const auto words = [&](thermoe_batch batch) -> std::string {
    EXPECT_EQ(thermoe_router_plan(router.handle, &batch, &got.plan, nullptr),
              THERMOE_INVALID_ARGUMENT);
    return thermoe_last_error();
  };
  const thermoe_batch good = batch_of(scores.data(), kTokens);
  thermoe_batch bad = good;
  bad.tokens = -1;
  EXPECT_EQ(words(bad), "batch: tokens is -1: it must be 1 to 1048576");
  bad = good;
  bad.row_stride = 3;
  EXPECT_EQ(words(bad), "batch: row_stride is 3: rows of 4 scores must be at least as far apart");
  bad.row_stride = INT64_MIN;
  EXPECT_NE(words(bad).find("row_stride"), std::string::npos);
  bad = good;
  bad.scores = nullptr;
  EXPECT_EQ(words(bad), "batch: scores is a null pointer");
  bad = good;
  bad.goal = 3;
  EXPECT_EQ(words(bad), "batch: goal is 3: it must be 0 to 2");
  const float prices[kExperts] = {0, 0, NAN, 0};
  bad = good;
  bad.open = prices;
  EXPECT_NE(words(bad).find("opening price of expert 2 is nan"), std::string::npos);
  scores[5] = NAN;
  EXPECT_NE(words(good).find("score of token 1, expert 1 is nan"), std::string::npos);
  scores[5] = 0.25f;  // and the router goes on
  EXPECT_EQ(thermoe_router_plan(router.handle, &good, &got.plan, nullptr), THERMOE_OK);
}

TEST(CApiRouter, PlansWithoutAllocatingOnceGrown) {
  constexpr int kTokens = 16, kExperts = 128, kSlots = 8, kBatches = 8;
  std::vector<std::vector<float>> scores;
  for (uint32_t n = 0; n < kBatches; ++n)
    scores.push_back(random_scores(kTokens, kExperts, 10 + n));
  const auto prices = ExpertPrices::uniform(kExperts, 0.05f);
  for (const char* policy : {"adaptive", "topk"}) {
    Router router(kExperts, kSlots, policy);
    Arrays got(kTokens, kSlots, kExperts);
    const auto plan_all = [&] {
      for (const auto& batch_scores : scores) {
        thermoe_batch batch = batch_of(batch_scores.data(), kTokens);
        batch.open = prices.open.data();
        batch.slope = prices.slope.data();
        ASSERT_EQ(thermoe_router_plan(router.handle, &batch, &got.plan, &got.report), THERMOE_OK);
      }
    };
    plan_all();
    const int64_t before = test::news_so_far();
    EXPECT_GT(before, 0);
    plan_all();
    EXPECT_EQ(test::news_so_far(), before) << policy;
  }
}

}  // namespace
}  // namespace thermoe
