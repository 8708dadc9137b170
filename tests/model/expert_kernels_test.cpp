// Who chooses the experts' kernels: names, thresholds, Triton's tiles, and the cost model on a
// made-up profile of two kernels.
#include "thermoe/expert_kernels.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "cost/small_profile.h"
#include "thermoe/cost_kernel_chooser.h"
#include "thermoe/error.h"

namespace thermoe {
namespace {

ExpertKernelSet set_of(std::initializer_list<ExpertKernel> kernels) {
  ExpertKernelSet set;
  for (const ExpertKernel kernel : kernels) set.add(kernel);
  return set;
}

const ExpertKernelSet kCuda = set_of({ExpertKernel::kCudaDecode, ExpertKernel::kCudaPrefill});
const ExpertKernelSet kAll =
    set_of({ExpertKernel::kCudaDecode, ExpertKernel::kCudaPrefill, ExpertKernel::kTritonM16,
            ExpertKernel::kTritonM64, ExpertKernel::kTritonM128});

ExpertWork work_of(int64_t tokens) {
  ExpertWork work{.tokens = tokens, .k = 8, .instances = 128};
  work.bf16 = true;
  return work;
}

TEST(ExpertKernels, HaveNamesThatAreRead) {
  for (int i = 0; i < kExpertKernels; ++i) {
    const auto kernel = static_cast<ExpertKernel>(i);
    EXPECT_EQ(kAllExpertKernels[static_cast<size_t>(i)], kernel);
    EXPECT_EQ(expert_kernel_of(name_of(kernel)), kernel);
    EXPECT_EQ(is_triton(kernel), triton_tile_tokens(kernel) > 0);
  }
  EXPECT_EQ(expert_kernel_of("cuda"), std::nullopt);
}

TEST(ExpertKernels, GoByTokensAnInstance) {
  const ThresholdChooser chooser;
  EXPECT_EQ(chooser.choose(work_of(16), kAll), ExpertKernel::kCudaDecode);
  EXPECT_EQ(chooser.choose(work_of(384), kAll), ExpertKernel::kCudaDecode);   // 24 an instance
  EXPECT_EQ(chooser.choose(work_of(385), kAll), ExpertKernel::kCudaPrefill);  // more
  EXPECT_EQ(chooser.choose(work_of(4096), set_of({ExpertKernel::kCudaDecode})),
            ExpertKernel::kCudaDecode);
  EXPECT_EQ(chooser.choose(work_of(1), set_of({ExpertKernel::kCudaPrefill})),
            ExpertKernel::kCudaPrefill);  // fp8 has no other
}

TEST(ExpertKernels, TritonsGoByTilesThatAreFilled) {
  const TritonChooser chooser;
  EXPECT_EQ(chooser.choose(work_of(1), kAll), ExpertKernel::kTritonM16);
  EXPECT_EQ(chooser.choose(work_of(1023), kAll), ExpertKernel::kTritonM16);
  EXPECT_EQ(chooser.choose(work_of(1024), kAll), ExpertKernel::kTritonM64);
  EXPECT_EQ(chooser.choose(work_of(4096), kAll), ExpertKernel::kTritonM128);
  EXPECT_THROW(chooser.choose(work_of(1), kCuda), InvalidArgument);
  ExpertWork fp8 = work_of(1);
  fp8.fp8 = true;
  EXPECT_THROW(chooser.choose(fp8, kAll), InvalidArgument);
}

// The second kernel starts later and multiplies faster.
std::filesystem::path two_kernels(const char* name, size_t kernels) {
  cost::KernelProfile profile = test::small_profile();
  profile.power_profile.clear();
  profile.kernels.push_back(profile.kernels.front());
  const cost::RooflineParameters faster = {45, 1.15, 1.1, 0.4, 0.25, 0.2, 3, 2, 3, 2};
  profile.kernels[0].kernel = profile_name(ExpertKernel::kCudaDecode);
  profile.kernels[1].kernel = profile_name(ExpertKernel::kCudaPrefill);
  profile.kernels[1].roofline = faster;
  for (cost::MeasuredCurve& curve : profile.kernels[1].curves)
    for (size_t t = 0; t < curve.latency_us.size(); ++t)
      curve.latency_us[t] =
          cost::roofline(curve.shape, cost::load_of(curve.shape, test::small_tokens()[t]),
                         test::small_peaks(), faster)
              .total_us;
  profile.kernels.resize(kernels);
  const std::filesystem::path file = std::filesystem::path(testing::TempDir()) / name;
  cost::write_kernel_profile(profile, file);
  return file;
}

TEST(CostKernelChooser, TakesWhatIsPredictedToBeFaster) {
  const CostKernelChooser chooser(two_kernels("chooser_two.json", 2), cost_shape("qwen3-30b-a3b"));
  EXPECT_EQ(chooser.choose(work_of(1), kAll), ExpertKernel::kCudaDecode);
  EXPECT_EQ(chooser.choose(work_of(4096), kAll), ExpertKernel::kCudaPrefill);
  for (const int64_t tokens : {1, 16, 200, 4096}) {
    const auto predicted = chooser.predict(work_of(tokens), kAll);
    ASSERT_EQ(predicted.size(), 2u);
    EXPECT_LE(predicted[0].cost.latency_us, predicted[1].cost.latency_us);
    EXPECT_EQ(predicted[0].kernel, chooser.choose(work_of(tokens), kAll));
  }
  // What can't run isn't chosen, and of what was not measured thresholds decide.
  EXPECT_EQ(chooser.choose(work_of(4095), set_of({ExpertKernel::kCudaDecode})),
            ExpertKernel::kCudaDecode);
  ExpertWork int4 = work_of(4096);
  int4.bf16 = false;
  int4.int4 = true;
  EXPECT_TRUE(chooser.predict(int4, kCuda).empty());
  EXPECT_EQ(chooser.choose(int4, kCuda), ExpertKernel::kCudaPrefill);
}

TEST(CostKernelChooser, NeedsTwoKernels) {
  EXPECT_THROW(CostKernelChooser(two_kernels("chooser_one.json", 1), cost_shape("qwen3-30b-a3b")),
               ProfileMiss);
}

}  // namespace
}  // namespace thermoe
