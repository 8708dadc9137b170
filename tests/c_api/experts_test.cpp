// Quantised experts through the C interface: QuantizedExpert's values, weighted and summed.
#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "thermoe/c_api.h"

namespace thermoe {
namespace {

constexpr int kHeldExperts = 3, kHeldHidden = 64, kHeldInter = 48, kHeldTokens = 5, kHeldSlots = 2;

std::vector<float> normal_values(size_t count, float scale, uint32_t seed) {
  std::mt19937 engine(seed);
  std::normal_distribution<float> normal(0, scale);
  std::vector<float> values(count);
  for (float& value : values) value = normal(engine);
  return values;
}

struct Weights {
  std::vector<float> gate = normal_values(kHeldExperts * kHeldInter * kHeldHidden, 0.12f, 1);
  std::vector<float> up = normal_values(kHeldExperts * kHeldInter * kHeldHidden, 0.12f, 2);
  std::vector<float> down = normal_values(kHeldExperts * kHeldHidden * kHeldInter, 0.14f, 3);

  thermoe_experts_options options() const {
    thermoe_experts_options o{};
    o.struct_size = sizeof(o);
    o.gate = gate.data();
    o.up = up.data();
    o.down = down.data();
    o.hidden_size = kHeldHidden;
    o.inter_size = kHeldInter;
    o.experts = kHeldExperts;
    o.threads = 2;
    return o;
  }
  // expert(x), in double.
  std::vector<double> run(int expert, const float* x) const {
    std::vector<double> inner(kHeldInter), out(kHeldHidden);
    for (int i = 0; i < kHeldInter; ++i) {
      double g = 0, u = 0;
      for (int h = 0; h < kHeldHidden; ++h) {
        g += double{gate[(expert * kHeldInter + i) * kHeldHidden + h]} * x[h];
        u += double{up[(expert * kHeldInter + i) * kHeldHidden + h]} * x[h];
      }
      inner[i] = g / (1 + std::exp(-g)) * u;
    }
    for (int h = 0; h < kHeldHidden; ++h)
      for (int i = 0; i < kHeldInter; ++i)
        out[h] += double{down[(expert * kHeldHidden + h) * kHeldInter + i]} * inner[i];
    return out;
  }
};

struct Batch {
  std::vector<float> x = normal_values(kHeldTokens * kHeldHidden, 1.0f, 4);
  std::vector<int32_t> ids = {0, 1, 2, 0, 1, -1, -1, -1, 2, 1};
  std::vector<float> weights = {0.7f, 0.3f, 0.5f, 0.5f, 1.0f, 0, 0, 0, 0.4f, 0.6f};
  std::vector<float> out = std::vector<float>(kHeldTokens * kHeldHidden, NAN);
  std::vector<uint8_t> int4 = std::vector<uint8_t>(kHeldTokens * kHeldSlots, 1);

  thermoe_experts_batch record() {
    thermoe_experts_batch b{};
    b.struct_size = sizeof(b);
    b.x = x.data();
    b.ids = ids.data();
    b.weights = weights.data();
    b.out = out.data();
    b.tokens = kHeldTokens;
    b.slots = kHeldSlots;
    return b;
  }
  // Relative error of `out` against the weights themselves.
  double error(const Weights& w) const {
    double wrong = 0, all = 0;
    for (int t = 0; t < kHeldTokens; ++t) {
      std::vector<double> want(kHeldHidden);
      for (int s = 0; s < kHeldSlots; ++s) {
        if (ids[t * kHeldSlots + s] < 0) continue;
        const auto one = w.run(ids[t * kHeldSlots + s], x.data() + t * kHeldHidden);
        for (int h = 0; h < kHeldHidden; ++h)
          want[h] += double{weights[t * kHeldSlots + s]} * one[h];
      }
      for (int h = 0; h < kHeldHidden; ++h) {
        wrong += std::pow(out[t * kHeldHidden + h] - want[h], 2);
        all += want[h] * want[h];
      }
    }
    return std::sqrt(wrong / all);
  }
};

class CApiExperts : public testing::Test {
 protected:
  void SetUp() override {
    const thermoe_experts_options options = weights_.options();
    ASSERT_EQ(thermoe_experts_create(&options, &experts_), THERMOE_OK) << thermoe_last_error();
  }
  void TearDown() override { thermoe_experts_close(experts_); }
  Weights weights_;
  thermoe_experts* experts_ = nullptr;
};

TEST_F(CApiExperts, Int8IsNearTheWeightsAndInt4Farther) {
  Batch batch;
  thermoe_experts_batch record = batch.record();
  ASSERT_EQ(thermoe_experts_forward(experts_, &record), THERMOE_OK) << thermoe_last_error();
  const double int8 = batch.error(weights_);
  EXPECT_LT(int8, 0.03);
  for (int h = 0; h < kHeldHidden; ++h)
    EXPECT_EQ(batch.out[3 * kHeldHidden + h], 0.0f);  // no expert
  record.int4 = batch.int4.data();
  ASSERT_EQ(thermoe_experts_forward(experts_, &record), THERMOE_OK) << thermoe_last_error();
  const double int4 = batch.error(weights_);
  EXPECT_GT(int4, 2 * int8);
  EXPECT_LT(int4, 0.3);
  float fine[kHeldExperts], coarse[kHeldExperts];
  ASSERT_EQ(thermoe_experts_errors(experts_, fine, coarse), THERMOE_OK);
  for (int e = 0; e < kHeldExperts; ++e) {
    EXPECT_GT(fine[e], 0);
    EXPECT_GT(coarse[e], fine[e]);
    EXPECT_LT(coarse[e], 0.1f);
  }
  size_t both = 0, half = 0;
  ASSERT_EQ(thermoe_experts_bytes(experts_, &both, &half), THERMOE_OK);
  EXPECT_LT(half, both);
  EXPECT_LT(both, size_t{3} * kHeldHidden * kHeldInter * 2);
}

TEST_F(CApiExperts, StridesChangeNothing) {
  Batch dense;
  thermoe_experts_batch record = dense.record();
  ASSERT_EQ(thermoe_experts_forward(experts_, &record), THERMOE_OK);
  constexpr int kStride = kHeldHidden + 7;
  std::vector<float> x(kHeldTokens * kStride, NAN), out(kHeldTokens * kStride, -3.0f);
  for (int t = 0; t < kHeldTokens; ++t)
    std::copy_n(dense.x.data() + t * kHeldHidden, kHeldHidden, x.data() + t * kStride);
  record.x = x.data();
  record.out = out.data();
  record.x_stride = record.out_stride = kStride;
  ASSERT_EQ(thermoe_experts_forward(experts_, &record), THERMOE_OK) << thermoe_last_error();
  for (int t = 0; t < kHeldTokens; ++t) {
    for (int h = 0; h < kHeldHidden; ++h)
      EXPECT_EQ(out[t * kStride + h], dense.out[t * kHeldHidden + h]);
    for (int h = kHeldHidden; h < kStride; ++h) EXPECT_EQ(out[t * kStride + h], -3.0f);
  }
}

TEST_F(CApiExperts, BadArgumentsSayWhatIsWrong) {
  Batch batch;
  const auto words = [&](const thermoe_experts_batch& record) -> std::string {
    EXPECT_EQ(thermoe_experts_forward(experts_, &record), THERMOE_INVALID_ARGUMENT);
    return thermoe_last_error();
  };
  batch.ids[3] = kHeldExperts;
  EXPECT_EQ(words(batch.record()), "token 1, slot 1: expert 3, of 3; -1 is for none");
  batch.ids[3] = 0;
  batch.x[2 * kHeldHidden + 1] = INFINITY;
  EXPECT_EQ(words(batch.record()),
            "x of token 2, column 1 is inf: inputs of experts must be finite");
  thermoe_experts_batch record = batch.record();
  record.x_stride = kHeldHidden - 1;
  EXPECT_NE(words(record).find("x_stride is 63"), std::string::npos);

  thermoe_experts_options options = weights_.options();
  options.inter_size = -1;
  thermoe_experts* none = nullptr;
  EXPECT_EQ(thermoe_experts_create(&options, &none), THERMOE_INVALID_ARGUMENT);
  weights_.up[kHeldInter * kHeldHidden] = NAN;
  options = weights_.options();
  EXPECT_EQ(thermoe_experts_create(&options, &none), THERMOE_INVALID_ARGUMENT);
  EXPECT_EQ(std::string(thermoe_last_error()).rfind("expert 1: ", 0), 0u) << thermoe_last_error();
  EXPECT_EQ(none, nullptr);
}

}  // namespace
}  // namespace thermoe
