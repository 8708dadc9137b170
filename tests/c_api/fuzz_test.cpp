// Arguments at random: a status and words, never a crash (the sanitizers' builds look closer).
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "thermoe/c_api.h"

namespace thermoe {
namespace {

constexpr int kFuzzTokens = 6, kFuzzExperts = 12, kFuzzSlots = 3;

class Dice {
 public:
  explicit Dice(uint32_t seed) : engine_(seed) {}
  bool one_in(int n) { return std::uniform_int_distribution<int>(1, n)(engine_) == 1; }
  // Mostly `usual`; else something that a mistaken caller may pass.
  int64_t number(int64_t usual) {
    static constexpr int64_t kOdd[] = {0, 1, -1, 2, 3, 7, 13, 4097, 1 << 20, INT32_MAX, INT32_MIN};
    return one_in(6) ? kOdd[std::uniform_int_distribution<size_t>(0, 10)(engine_)] : usual;
  }
  double real(double usual) {
    static const double kOdd[] = {0, -1, NAN, INFINITY, -INFINITY, 1e300, 1e-300, 5e-324, 1e20};
    return one_in(6) ? kOdd[std::uniform_int_distribution<size_t>(0, 8)(engine_)] : usual;
  }
  size_t size(size_t usual) { return one_in(10) ? static_cast<size_t>(number(16)) : usual; }
  template <typename T>
  T* pointer(T* usual) {
    return one_in(12) ? nullptr : usual;
  }

 private:
  std::mt19937 engine_;
};

void expect_words(thermoe_status status) {
  EXPECT_GE(status, THERMOE_OK);
  EXPECT_LT(status, THERMOE_OUT_OF_MEMORY) << thermoe_last_error();
  if (status == THERMOE_OK) return;
  const std::string words = thermoe_last_error();
  EXPECT_GT(words.size(), 5u);
  EXPECT_EQ(words.find('\n'), std::string::npos) << words;
}

// Arrays as large as the usual sizes need: other sizes must be refused before anything is read, so
// those that are plausible (fewer tokens, a smaller k) stay within them.
TEST(CApiFuzz, Routers) {
  Dice dice(1);
  std::vector<float> scores(kFuzzTokens * kFuzzExperts), prices(kFuzzExperts);
  std::vector<int32_t> ids(4096), instances(4096), offsets(4096), packed(4096);
  std::vector<float> weights(4096);
  std::vector<uint8_t> changed(4096);
  const char* policies[] = {nullptr, "topk", "oea:k0=2", "adaptive:open=0.1",
                            "bad",   "",     "adaptive:"};
  for (int n = 0; n < 4000; ++n) {
    thermoe_router_options options{};
    options.struct_size = dice.size(sizeof(options));
    options.experts = static_cast<int32_t>(dice.number(kFuzzExperts));
    options.k = static_cast<int32_t>(dice.number(kFuzzSlots));
    options.min_k = static_cast<int32_t>(dice.number(0));
    options.policy = policies[static_cast<size_t>(n) % std::size(policies)];
    thermoe_router* router = nullptr;
    expect_words(thermoe_router_create(&options, &router));
    if (thermoe_router_experts(router) > kFuzzExperts) {  // scores and prices have no more
      thermoe_router_close(router);
      continue;
    }
    for (float& score : scores) score = static_cast<float>(dice.one_in(60) ? dice.real(1) : 0.1);
    for (float& price : prices) price = static_cast<float>(dice.one_in(30) ? dice.real(1) : 0.05);
    thermoe_batch batch{};
    batch.struct_size = dice.size(sizeof(batch));
    batch.scores = dice.pointer(scores.data());
    batch.tokens = dice.one_in(3) ? dice.number(kFuzzTokens) % (kFuzzTokens + 1) : kFuzzTokens;
    batch.row_stride = dice.one_in(8) ? INT64_MIN + n : 0;
    batch.open = dice.pointer(prices.data());
    batch.slope = dice.one_in(2) ? prices.data() : nullptr;
    batch.goal = static_cast<int32_t>(dice.number(n % 3));
    batch.goal_limit = dice.real(0.9);
    batch.layer = static_cast<int32_t>(dice.number(0));
    batch.score_type = dice.one_in(9) ? 2 : THERMOE_F32;
    thermoe_plan plan{};
    plan.struct_size = dice.size(sizeof(plan));
    plan.ids = dice.pointer(ids.data());
    plan.instances = dice.pointer(instances.data());
    plan.weights = dice.pointer(weights.data());
    plan.changed = dice.pointer(changed.data());
    plan.offsets = dice.pointer(offsets.data());
    plan.packed = dice.pointer(packed.data());
    plan.slots = static_cast<int32_t>(dice.number(0));
    thermoe_report report{};
    report.struct_size = dice.size(sizeof(report));
    // A size that ends before a field leaves out what follows: an older struct, but a valid one.
    expect_words(thermoe_router_plan(router, &batch, &plan, dice.pointer(&report)));
    thermoe_router_close(router);
  }
}

TEST(CApiFuzz, GovernorsAndStates) {
  Dice dice(2);
  for (int n = 0; n < 4000; ++n) {
    thermoe_cost_surrogate surrogate{};
    surrogate.struct_size = dice.size(sizeof(surrogate));
    surrogate.open_us = dice.real(1.5);
    surrogate.open_mj = dice.real(0.8);
    surrogate.slope_us = dice.real(0.01);
    thermoe_governor_limits limits{};
    limits.struct_size = dice.size(sizeof(limits));
    limits.power_cap_w = dice.real(500);
    limits.temperature_cap_c = dice.real(80);
    limits.layer_latency_target_us = dice.real(100);
    limits.max_open_price = dice.real(0.25);
    thermoe_governor* governor = nullptr;
    expect_words(thermoe_governor_create(&limits, &surrogate, &governor));
    thermoe_hardware_state state{};
    state.struct_size = sizeof(state);
    expect_words(thermoe_hardware_state_missing(&state));
    state.struct_size = dice.size(sizeof(state));
    state.power_average_w = dice.real(600);
    state.temperature_c = dice.real(70);
    state.time_s = dice.real(1);
    for (int tick = 0; tick < 3; ++tick)
      expect_words(thermoe_governor_update(governor, dice.pointer(&state), dice.real(120),
                                           dice.real(0.1), nullptr));
    float open[kFuzzExperts], slope[kFuzzExperts];
    const int32_t count = dice.one_in(4) ? -static_cast<int32_t>(n) : kFuzzExperts;
    if (thermoe_governor_prices(governor, &surrogate, nullptr, count, open, slope) == THERMOE_OK) {
      for (const float price : open) EXPECT_TRUE(price >= 0 && std::isfinite(price)) << price;
    }
    thermoe_governor_close(governor);
  }
}

TEST(CApiFuzz, Layouts) {
  Dice dice(3);
  const char* names[] = {"bf16", "int8", "int4"};
  for (int n = 0; n < 4000; ++n) {
    int32_t expert[kFuzzExperts], variant[kFuzzExperts], device[kFuzzExperts],
        capacity[3 * kFuzzExperts];
    float errors[3], reads[3];
    for (int i = 0; i < kFuzzExperts; ++i) {
      expert[i] = static_cast<int32_t>(dice.one_in(20) ? dice.number(i) : i);
      variant[i] = static_cast<int32_t>(dice.one_in(20) ? dice.number(0) : 0);
      device[i] = static_cast<int32_t>(dice.one_in(20) ? dice.number(0) : i % 2);
    }
    for (int32_t& most : capacity)
      most = static_cast<int32_t>(dice.one_in(20) ? dice.number(2) : 2);
    for (float& error : errors) error = static_cast<float>(dice.one_in(8) ? dice.real(0.5) : 0.01);
    for (float& read : reads) read = static_cast<float>(dice.one_in(8) ? dice.real(0.5) : 0.5);
    thermoe_layout_options options{};
    options.struct_size = dice.size(sizeof(options));
    options.experts =
        static_cast<int32_t>(dice.one_in(8) ? dice.number(1) % kFuzzExperts : kFuzzExperts);
    options.devices = static_cast<int32_t>(dice.number(2));
    options.variants = static_cast<int32_t>(dice.one_in(8) ? -dice.number(1) : 1 + n % 3);
    options.instances = dice.one_in(2) ? kFuzzExperts : 0;
    options.variant_names = dice.pointer(names);
    options.variant_error_frac = dice.pointer(errors);
    options.variant_read_frac = dice.pointer(reads);
    options.expert = dice.pointer(expert);
    options.variant = dice.pointer(variant);
    options.device = dice.pointer(device);
    options.capacity = dice.pointer(capacity);
    if (options.variants > 3) continue;
    thermoe_layout* layout = nullptr;
    expect_words(thermoe_layout_create(&options, &layout));
    thermoe_layout_close(layout);
  }
}

}  // namespace
}  // namespace thermoe
