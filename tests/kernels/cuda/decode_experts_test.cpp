// The decode kernel against float64, over forms, shapes and loads.
#include <gtest/gtest.h>

#include "kernels/cuda/decode_experts.h"
#include "kernels/cuda/expert_launch.h"
#include "kernels/cuda/gpu.h"

namespace thermoe::test {
namespace {

using cuda::ExpertForm;

class DecodeExperts : public GpuTest, public ::testing::WithParamInterface<ExpertCase> {};

std::vector<uint16_t> run(Launch& launch) {
  return launch.run([](const auto& a) { return cuda::decode_experts(a, nullptr); });
}

TEST_P(DecodeExperts, AgreesWithFloat64) {
  Launch launch(GetParam(), 17);
  const std::vector<uint16_t> out = run(launch);
  const auto parts =
      launch.parts([](const TestExpert& expert, const float* x) { return expert.run(x); });
  EXPECT_LT(relative_error(launch, parts, out), 4e-3);
  // Again, and no bit differs; nor is anything left in the workspace that would disturb it.
  for (int again = 0; again < 5; ++again) ASSERT_EQ(run(launch), out);
}

INSTANTIATE_TEST_SUITE_P(
    Cases, DecodeExperts,
    ::testing::Values(
        ExpertCase{"OneTokenBf16", 1, 1, 64, 32, forms(1, {kBf16})},
        ExpertCase{"OneTokenInt8", 1, 1, 64, 32, forms(1, {kInt8})},
        ExpertCase{"OneTokenInt4", 1, 1, 64, 32, forms(1, {kInt4})},
        ExpertCase{"Bf16", 16, 4, 256, 96, forms(12, {kBf16})},
        ExpertCase{"Int8", 16, 4, 256, 96, forms(12, {kInt8})},
        ExpertCase{"Int4", 16, 4, 256, 96, forms(12, {kInt4})},
        ExpertCase{"Mixed", 23, 6, 512, 160, forms(20, {kInt8, kInt4, kBf16}), 0, true},
        ExpertCase{"ManyTokensOnOneExpert", 100, 2, 128, 64, forms(5, {kBf16, kInt4, kInt8}), 100},
        ExpertCase{"WideStages", 9, 2, 1120, 544, forms(4, {kInt8, kBf16, kInt4})},
        ExpertCase{"ManyInstances", 40, 8, 64, 32, forms(700, {kInt4, kInt8, kBf16})},
        ExpertCase{"WideOutput", 3, 2, 2880, 96, forms(3, {kBf16, kInt8, kInt4})}),
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
