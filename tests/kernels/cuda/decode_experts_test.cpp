// The decode kernel against float64, over forms, shapes and loads.
#include <gtest/gtest.h>

#include <algorithm>
#include <ostream>
#include <random>
#include <string>
#include <vector>

#include "kernels/cuda/decode_experts.h"
#include "kernels/cuda/device_experts.h"
#include "kernels/cuda/gpu.h"
#include "thermoe/routing_plan.h"

namespace thermoe::test {
namespace {

using cuda::ExpertForm;

struct DecodeCase {
  std::string name;
  int tokens, k, hidden, inter;
  std::vector<ExpertForm> forms;  // of the instances
  int hot = 0;                    // tokens that all use instance 0
  bool holes = false;             // some slots unused
};

void PrintTo(const DecodeCase& c, std::ostream* out) { *out << c.name; }

// Random distinct instances for each token.
RoutingPlan random_plan(const DecodeCase& c, std::mt19937& generator) {
  RoutingPlan plan;
  const int instances = static_cast<int>(c.forms.size());
  plan.tokens = c.tokens;
  plan.experts = instances;
  plan.k = c.k;
  std::vector<int32_t> all(static_cast<size_t>(instances));
  for (int i = 0; i < instances; ++i) all[static_cast<size_t>(i)] = i;
  std::uniform_real_distribution<float> weight(0.05f, 1.0f);
  for (int t = 0; t < c.tokens; ++t) {
    std::shuffle(all.begin(), all.end(), generator);
    if (t < c.hot) std::swap(all[0], *std::find(all.begin(), all.end(), 0));
    for (int s = 0; s < c.k; ++s) {
      const bool hole = c.holes && s > 0 && s >= c.k - t % c.k;
      plan.instances.push_back(hole ? -1 : all[static_cast<size_t>(s)]);
      plan.weights.push_back(hole ? 0.0f : weight(generator));
    }
  }
  plan.ids = plan.instances;
  pack(plan, instances);
  return plan;
}

// Everything of one launch, in device memory.
struct Launch {
  std::vector<TestExpert> experts;
  std::vector<float> x;  // representable in bf16
  RoutingPlan plan;
  cuda::DeviceArray<cuda::DeviceExpert> device_experts;
  cuda::DeviceArray<uint16_t> device_x, fragments, out;
  cuda::DeviceArray<int32_t> instances, offsets, packed;
  cuda::DeviceArray<float> weights;
  cuda::DeviceBytes workspace;
  cuda::DecodeExpertsArguments arguments;

  Launch(const DecodeCase& c, uint32_t seed) {
    std::mt19937 generator(seed);
    std::vector<cuda::DeviceExpert> table;
    for (size_t i = 0; i < c.forms.size(); ++i) {
      experts.emplace_back(c.forms[i], c.hidden, c.inter, seed + static_cast<uint32_t>(i));
      table.push_back(experts.back().device());
    }
    const StoredWeight stored = random_weight(DType::kBf16, c.tokens, c.hidden, seed + 1000);
    x = stored.floats;
    plan = random_plan(c, generator);
    device_experts = cuda::DeviceArray<cuda::DeviceExpert>(table);
    device_x = cuda::DeviceArray<uint16_t>(stored.halves);
    fragments = cuda::DeviceArray<uint16_t>(stored.halves.size());
    cuda::check(cuda::to_fragment_order(reinterpret_cast<const __nv_bfloat16*>(device_x.data()),
                                        reinterpret_cast<__nv_bfloat16*>(fragments.data()),
                                        static_cast<int64_t>(fragments.size()), nullptr),
                "to_fragment_order");
    out = cuda::DeviceArray<uint16_t>(stored.halves.size());
    instances = cuda::DeviceArray<int32_t>(plan.instances);
    offsets = cuda::DeviceArray<int32_t>(plan.offsets);
    packed = cuda::DeviceArray<int32_t>(plan.packed);
    weights = cuda::DeviceArray<float>(plan.weights);
    workspace = cuda::DeviceBytes(cuda::decode_experts_workspace(c.tokens, c.k, c.hidden, c.inter));
    workspace.fill(0);
    arguments.tokens = c.tokens;
    arguments.k = c.k;
    arguments.hidden = c.hidden;
    arguments.inter = c.inter;
    arguments.instances = plan.experts;
    arguments.experts = device_experts.data();
    arguments.x = reinterpret_cast<const __nv_bfloat16*>(fragments.data());
    arguments.plan_instances = instances.data();
    arguments.plan_weights = weights.data();
    arguments.offsets = offsets.data();
    arguments.packed = packed.data();
    arguments.out = reinterpret_cast<__nv_bfloat16*>(out.data());
    arguments.workspace = workspace.data();
  }

  std::vector<uint16_t> run() {
    out.fill(0xFF);  // NaN
    cuda::check(cuda::decode_experts(arguments, nullptr), "decode_experts");
    cuda::check(cudaDeviceSynchronize(), "decode_experts");
    return out.host();
  }

  double reference(int t, int row, const std::vector<std::vector<double>>& parts) const {
    double sum = 0;
    for (int s = 0; s < plan.k; ++s) {
      const size_t pair = static_cast<size_t>(t * plan.k + s);
      if (plan.instances[pair] >= 0)
        sum += static_cast<double>(plan.weights[pair]) * parts[pair][static_cast<size_t>(row)];
    }
    return sum;
  }
};

float widen(uint16_t bits) {
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &wide, 4);
  return value;
}

class DecodeExperts : public GpuTest, public ::testing::WithParamInterface<DecodeCase> {};

TEST_P(DecodeExperts, AgreesWithFloat64) {
  const DecodeCase& c = GetParam();
  Launch launch(c, 17);
  const std::vector<uint16_t> out = launch.run();
  std::vector<std::vector<double>> parts(launch.plan.instances.size());
  for (size_t pair = 0; pair < parts.size(); ++pair)
    if (const int i = launch.plan.instances[pair]; i >= 0)
      parts[pair] = launch.experts[static_cast<size_t>(i)].run(
          launch.x.data() + static_cast<size_t>(static_cast<int>(pair) / c.k * c.hidden));
  double error = 0, norm = 0, worst = 0;
  for (int t = 0; t < c.tokens; ++t)
    for (int row = 0; row < c.hidden; ++row) {
      const double expected = launch.reference(t, row, parts);
      const double got = widen(out[static_cast<size_t>(t * c.hidden + row)]);
      error += (got - expected) * (got - expected);
      norm += expected * expected;
      worst = std::max(worst, std::abs(got - expected));
      ASSERT_TRUE(std::isfinite(got)) << "token " << t << " row " << row;
    }
  EXPECT_LT(std::sqrt(error / norm), 4e-3) << "worst " << worst;
  // Again, and no bit differs; nor is anything left in the workspace that would disturb it.
  for (int again = 0; again < 5; ++again) ASSERT_EQ(launch.run(), out);
}

std::vector<ExpertForm> forms(int count, std::initializer_list<ExpertForm> cycle) {
  std::vector<ExpertForm> all;
  for (int i = 0; i < count; ++i)
    all.push_back(cycle.begin()[static_cast<size_t>(i) % cycle.size()]);
  return all;
}

constexpr ExpertForm kBf16 = ExpertForm::kBf16, kInt8 = ExpertForm::kInt8,
                     kInt4 = ExpertForm::kInt4;

INSTANTIATE_TEST_SUITE_P(
    Cases, DecodeExperts,
    ::testing::Values(
        DecodeCase{"OneTokenBf16", 1, 1, 64, 32, forms(1, {kBf16})},
        DecodeCase{"OneTokenInt8", 1, 1, 64, 32, forms(1, {kInt8})},
        DecodeCase{"OneTokenInt4", 1, 1, 64, 32, forms(1, {kInt4})},
        DecodeCase{"Bf16", 16, 4, 256, 96, forms(12, {kBf16})},
        DecodeCase{"Int8", 16, 4, 256, 96, forms(12, {kInt8})},
        DecodeCase{"Int4", 16, 4, 256, 96, forms(12, {kInt4})},
        DecodeCase{"Mixed", 23, 6, 512, 160, forms(20, {kInt8, kInt4, kBf16}), 0, true},
        DecodeCase{"ManyTokensOnOneExpert", 100, 2, 128, 64, forms(5, {kBf16, kInt4, kInt8}), 100},
        DecodeCase{"WideStages", 9, 2, 1120, 544, forms(4, {kInt8, kBf16, kInt4})},
        DecodeCase{"ManyInstances", 40, 8, 64, 32, forms(700, {kInt4, kInt8, kBf16})},
        DecodeCase{"WideOutput", 3, 2, 2880, 96, forms(3, {kBf16, kInt8, kInt4})}),
    [](const auto& test) { return test.param.name; });

using DecodeExpertsLimits = GpuTest;

TEST_F(DecodeExpertsLimits, RefusesWhatItCannotTake) {
  cuda::DecodeExpertsArguments a;
  a.tokens = a.k = a.instances = 1;
  a.hidden = a.inter = 32;
  for (int cuda::DecodeExpertsArguments::*field :
       {&cuda::DecodeExpertsArguments::hidden, &cuda::DecodeExpertsArguments::inter}) {
    auto wrong = a;
    wrong.*field = 48;
    EXPECT_EQ(cuda::decode_experts(wrong, nullptr), cudaErrorInvalidValue);
  }
  a.instances = cuda::kMostInstances + 1;
  EXPECT_EQ(cuda::decode_experts(a, nullptr), cudaErrorInvalidValue);
}

}  // namespace
}  // namespace thermoe::test
