// Triton's experts on a GPU against float64, over the cases of the CUDA kernels, and what a launch
// refuses.
#include "kernels/triton/triton_experts.h"

#include <gtest/gtest.h>

#include "kernels/cuda/expert_launch.h"
#include "kernels/cuda/gpu.h"
#include "thermoe/error.h"

namespace thermoe::test {
namespace {

constexpr int kTiles[] = {16, 64, 128};

class TritonGpuTest : public GpuTest {
 protected:
  void SetUp() override {
    GpuTest::SetUp();
    if (IsSkipped()) return;
    if (triton::kernels_in_use().kernels.empty()) GTEST_SKIP() << triton::kernels_in_use().problem;
    experts_.emplace(triton::kernels_in_use(), kTiles);
  }
  std::optional<triton::TritonExperts> experts_;
};

class TritonExperts : public TritonGpuTest,
                      public ::testing::WithParamInterface<std::tuple<ExpertCase, int>> {};

TEST_P(TritonExperts, AgreesWithFloat64) {
  const auto& [expert_case, tile] = GetParam();
  Launch launch(expert_case, 23);
  const auto run = [&] {
    return launch.run([&, tile = tile](const auto& a) {
      return experts_->run(a, {true, true, true}, tile, nullptr);
    });
  };
  const std::vector<uint16_t> out = run();
  const auto parts =
      launch.parts([](const TestExpert& expert, const float* x) { return expert.run(x); });
  EXPECT_LT(relative_error(launch, parts, out), 5e-3);
  for (int again = 0; again < 3; ++again) ASSERT_EQ(run(), out);
}

INSTANTIATE_TEST_SUITE_P(
    Cases, TritonExperts,
    ::testing::Combine(
        ::testing::Values(
            ExpertCase{"OneTokenBf16", 1, 1, 64, 32, forms(1, {kBf16})},
            ExpertCase{"OneTokenInt8", 1, 1, 64, 32, forms(1, {kInt8})},
            ExpertCase{"OneTokenInt4", 1, 1, 64, 32, forms(1, {kInt4})},
            ExpertCase{"Bf16", 16, 4, 256, 96, forms(12, {kBf16})},
            ExpertCase{"Mixed", 23, 6, 512, 160, forms(20, {kInt8, kInt4, kBf16}), 0, true},
            ExpertCase{"ManyTokensOnOneExpert", 300, 2, 128, 64, forms(5, {kBf16, kInt4, kInt8}),
                       300},
            ExpertCase{"WideStages", 9, 2, 1120, 544, forms(4, {kInt8, kBf16, kInt4})},
            ExpertCase{"ManyInstances", 40, 8, 64, 32, forms(700, {kInt4, kInt8, kBf16})}),
        ::testing::ValuesIn(kTiles)),
    [](const auto& test) {
      return std::get<0>(test.param).name + std::to_string(std::get<1>(test.param));
    });

using TritonExpertsLimits = TritonGpuTest;

TEST_F(TritonExpertsLimits, RefusesWhatItCannotTake) {
  cuda::DecodeExpertsArguments a;
  a.tokens = a.k = a.instances = 1;
  a.hidden = a.inter = 32;
  EXPECT_EQ(experts_->run(a, {true, false, false}, 48, nullptr), cudaErrorNotSupported);
  a.hidden = 48;
  EXPECT_EQ(experts_->run(a, {true, false, false}, 16, nullptr), cudaErrorInvalidValue);
}

// What this build carries takes what the launches give, on either of its architectures; no GPU
// needed.
TEST(TritonExpertsBuild, EveryTileIsThereForBothArchitectures) {
  const triton::KernelSet& set = triton::built_in_kernels();
  if (set.kernels.empty()) GTEST_SKIP() << set.problem;
  for (const int arch : {80, 90})
    for (const int tile : kTiles) EXPECT_TRUE(triton::TritonExperts::available(set, tile, arch));
  EXPECT_FALSE(triton::TritonExperts::available(set, 16, 75));
  EXPECT_FALSE(triton::TritonExperts::available(set, 48, 90));
}

}  // namespace
}  // namespace thermoe::test
