// The routing kernels' gates against float64 references, their limits, and what they say of bad
// scores.
#include <algorithm>
#include <climits>
#include <cstring>
#include <limits>
#include <numeric>

#include "kernels/cuda/gpu.h"
#include "kernels/cuda/routing_cases.h"
#include "thermoe/error.h"

namespace thermoe::cuda {
namespace {

using test::GpuCase;
using test::GpuPlan;
using test::GpuRouter;
using GpuGates = test::GpuTest;

GpuCase logit_case(int tokens, int experts, int k, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0f, 1.5f);
  GpuCase batch;
  batch.tokens = tokens;
  batch.experts = experts;
  batch.k = k;
  for (int n = 0; n < tokens * experts; ++n) batch.scores.push_back(normal(random));
  return batch;
}

// Rounds to bf16 (to even), in place; returns the upper halves.
std::vector<uint16_t> to_bf16(std::vector<float>& values) {
  std::vector<uint16_t> halves;
  for (float& value : values) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    bits = (bits + 0x7fffu + ((bits >> 16) & 1u)) & 0xffff0000u;
    std::memcpy(&value, &bits, sizeof bits);
    halves.push_back(static_cast<uint16_t>(bits >> 16));
  }
  return halves;
}

std::vector<double> gate_of(const float* logits, int experts, Gate gate) {
  std::vector<double> scores(logits, logits + experts);
  if (gate == Gate::kSigmoid) {
    for (double& score : scores) score = 1 / (1 + std::exp(-score));
    return scores;
  }
  const double most = *std::max_element(scores.begin(), scores.end());
  for (double& score : scores) score = std::exp(score - most);
  const double sum = std::accumulate(scores.begin(), scores.end(), 0.0);
  for (double& score : scores) score /= sum;
  return scores;
}

// The plan's experts are the best by score + bias, in the order of falling scores; weights are
// shares of their mass.
void expect_gated(const GpuCase& batch, Gate gate, const std::vector<float>& bias,
                  const std::vector<int32_t>& ids, const std::vector<float>& weights) {
  constexpr double kTolerance = 2e-6;
  const size_t k = static_cast<size_t>(batch.k);
  for (int t = 0; t < batch.tokens; ++t) {
    const size_t at = static_cast<size_t>(t) * k;
    const std::vector<double> scores =
        gate_of(batch.scores.data() + static_cast<size_t>(t) * batch.experts, batch.experts, gate);
    std::vector<double> selection = scores;
    for (size_t e = 0; e < bias.size(); ++e) selection[e] += static_cast<double>(bias[e]);
    std::vector<double> sorted = selection;
    std::sort(sorted.rbegin(), sorted.rend());
    double mass = 0;
    std::vector<int32_t> own(ids.begin() + static_cast<std::ptrdiff_t>(at),
                             ids.begin() + static_cast<std::ptrdiff_t>(at + k));
    for (const int32_t id : own) {
      ASSERT_GE(id, 0);
      ASSERT_LT(id, batch.experts);
      EXPECT_GE(selection[static_cast<size_t>(id)], sorted[k - 1] - kTolerance) << "token " << t;
      mass += scores[static_cast<size_t>(id)];
    }
    for (size_t s = 0; s < k; ++s) {
      const double score = scores[static_cast<size_t>(own[s])];
      if (s > 0) {
        EXPECT_LE(score, scores[static_cast<size_t>(own[s - 1])] + kTolerance) << "token " << t;
      }
      EXPECT_NEAR(static_cast<double>(weights[at + s]), batch.renormalize ? score / mass : score,
                  kTolerance)
          << "token " << t << ", slot " << s;
    }
    std::sort(own.begin(), own.end());
    EXPECT_EQ(std::unique(own.begin(), own.end()), own.end()) << "token " << t;
  }
}

TEST_F(GpuGates, SoftmaxAndSigmoidOfLogits) {
  for (const int experts : {8, 60, 128, 256, 512})
    for (const Gate gate : {Gate::kSoftmax, Gate::kSigmoid})
      for (const bool biased : {false, true})
        for (const bool half : {false, true}) {
          GpuCase batch = logit_case(100, experts, std::min(experts, 8), 17);
          batch.renormalize = experts != 60;
          const DeviceArray<uint16_t> halves(to_bf16(batch.scores));
          std::vector<float> bias;
          for (int e = 0; biased && e < experts; ++e)
            bias.push_back(0.05f * static_cast<float>((e * 7) % 13 - 6));
          const DeviceArray<float> bias_on_device(bias);
          for (const RoutingMode mode :
               {RoutingMode::kTopK, RoutingMode::kPerToken, RoutingMode::kBatch}) {
            GpuRouter router(batch, mode);
            router.launch.input.gate = gate;
            if (half) {
              router.launch.input.scores = halves.data();
              router.launch.input.type = ScoreType::kBf16;
            }
            if (biased) router.launch.input.bias = bias_on_device.data();
            const GpuPlan plan = router.run();
            EXPECT_EQ(plan.report.bad_token, -1);
            EXPECT_EQ(plan.report.changed_tokens, 0);
            expect_gated(batch, gate, bias, plan.ids, plan.weights);
            if (HasFailure()) return;
          }
        }
}

TEST_F(GpuGates, TopKAloneIsThatOfThePlan) {
  for (const int tokens : {1, 7, 64, 1000}) {
    const GpuCase batch = logit_case(tokens, 128, 8, 23);
    GpuRouter router(batch, RoutingMode::kTopK);
    router.launch.input.gate = Gate::kSoftmax;
    const GpuPlan plan = router.run();
    DeviceArray<int32_t> ids(plan.ids.size());
    DeviceArray<float> weights(plan.ids.size());
    const DeviceArray<int32_t> bad(std::vector<int32_t>{INT32_MAX});
    ids.fill(0xA5);
    weights.fill(0xA5);
    check(launch_top_k(router.launch.input, ids.data(), weights.data(), bad.data(), nullptr),
          "top-k");
    EXPECT_EQ(ids.host(), plan.ids);
    EXPECT_EQ(weights.host(), plan.weights);
    EXPECT_EQ(bad.host().front(), INT32_MAX);
  }
}

TEST_F(GpuGates, RowsMayBeApart) {
  GpuCase wide = logit_case(40, 160, 8, 29);
  GpuCase batch = wide;
  batch.experts = 128;
  batch.scores.clear();
  for (int t = 0; t < 40; ++t)
    batch.scores.insert(batch.scores.end(), wide.scores.begin() + t * 160,
                        wide.scores.begin() + t * 160 + 128);
  GpuRouter tight(batch, RoutingMode::kTopK);
  tight.launch.input.gate = Gate::kSoftmax;
  const GpuPlan expected = tight.run();
  const DeviceArray<float> apart(wide.scores);
  tight.launch.input.scores = apart.data();
  tight.launch.input.row_stride = 160;
  EXPECT_EQ(tight.run().ids, expected.ids);
}

TEST_F(GpuGates, BadScoresAreNamed) {
  const float kNan = std::numeric_limits<float>::quiet_NaN();
  const float kInfinite = std::numeric_limits<float>::infinity();
  for (const int tokens : {16, 200, 1000})
    for (const RoutingMode mode :
         {RoutingMode::kTopK, RoutingMode::kPerToken, RoutingMode::kBatch}) {
      if (mode == RoutingMode::kBatch && tokens > RoutingLaunch::kMostBatchTokens) continue;
      for (const float value : {kNan, kInfinite}) {
        GpuCase batch = logit_case(tokens, 128, 8, 31);
        const int token = tokens - 3;
        batch.scores[static_cast<size_t>(token) * 128 + 77] = value;
        batch.scores[static_cast<size_t>(token) * 128 + 99] = value;
        batch.scores[static_cast<size_t>(token + 1) * 128 + 5] = value;
        GpuRouter router(batch, mode);
        router.launch.input.gate = Gate::kSoftmax;
        const GpuPlan plan = router.run();
        EXPECT_EQ(plan.report.bad_token, token);
        EXPECT_EQ(plan.report.bad_expert, 77);
        EXPECT_EQ(plan.offsets.back(), tokens * 8);
        try {
          check_report(plan.report);
          FAIL() << "a bad score was let through";
        } catch (const InvalidArgument& error) {
          EXPECT_NE(std::string(error.what()).find("expert 77"), std::string::npos) << error.what();
        }
      }
      GpuCase none = logit_case(tokens, 128, 8, 31);
      none.scores.assign(none.scores.size(), 0.0f);
      const GpuPlan plan = GpuRouter(none, mode).run();  // scores, not logits
      EXPECT_EQ(plan.report.bad_token, 0);
      EXPECT_EQ(plan.report.bad_expert, -1);
      EXPECT_THROW(check_report(plan.report), InvalidArgument);
    }
}

// Needs no GPU: refused before anything is launched.
TEST(GpuRoutingLimits, AreChecked) {
  RoutingLaunch launch;
  launch.input = {.scores = &launch, .tokens = 4, .experts = 8, .k = 2};
  EXPECT_EQ(launch_routing(launch, nullptr, 0, nullptr), cudaErrorInvalidValue);  // no outputs
  RouterInput input = launch.input;
  int32_t ids = 0;
  float weights = 0;
  for (const int k : {0, 9, 17}) {
    input.k = k;
    EXPECT_EQ(launch_top_k(input, &ids, &weights, nullptr, nullptr), cudaErrorInvalidValue);
  }
  check_report({});  // says nothing
}

}  // namespace
}  // namespace thermoe::cuda
