// The prefill kernel against float64 and against the decode kernel, over forms, shapes and loads.
#include <gtest/gtest.h>

#include <utility>

#include "kernels/cuda/expert_launch.h"
#include "kernels/cuda/gpu.h"
#include "kernels/cuda/prefill_experts.h"

namespace thermoe::test {
namespace {

using cuda::ExpertForm;
using cuda::PrefillForms;

PrefillForms forms_of(const ExpertCase& c) {
  int all = 0;
  for (const ExpertForm form : c.forms)
    all |= static_cast<int>(form == kFp8 ? PrefillForms::kFp8 : PrefillForms::kBf16);
  return static_cast<PrefillForms>(all);
}

bool has_fp8(const ExpertCase& c) {
  return (static_cast<int>(forms_of(c)) & static_cast<int>(PrefillForms::kFp8)) != 0;
}

std::vector<uint16_t> run(Launch& launch, PrefillForms all) {
  return launch.run([&](const auto& a) { return cuda::prefill_experts(a, all, nullptr); });
}

// fp8 only runs on Hopper.
std::string no_fp8() {
  int major = 0, device = 0;
  cuda::check(cudaGetDevice(&device), "asking for the device");
  cuda::check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "asking");
  return major == 9 ? "" : "fp8 needs a Hopper GPU";
}

class PrefillExperts : public GpuTest, public ::testing::WithParamInterface<ExpertCase> {};

TEST_P(PrefillExperts, AgreesWithFloat64) {
  const ExpertCase& c = GetParam();
  if (has_fp8(c) && !no_fp8().empty()) GTEST_SKIP() << no_fp8();
  Launch launch(c, 17);
  launch.workspace.fill(0xFF);  // NaN: nothing is read that was not written
  cuda::check(cudaMemset(launch.workspace.data(), 0, (64 + 2 * cuda::kMostInstances) * 4), "zero");
  const std::vector<uint16_t> out = run(launch, forms_of(c));
  const auto parts =
      launch.parts([](const TestExpert& expert, const float* x) { return expert.run(x); });
  const double error = relative_error(launch, parts, out);
  // fp8: a value of inner that lies between two of e4m3's may fall to either.
  EXPECT_LT(error, has_fp8(c) ? 1e-2 : 5e-3);
  RecordProperty("relative_error", std::to_string(error));
  for (int again = 0; again < 3; ++again) ASSERT_EQ(run(launch, forms_of(c)), out);
}

INSTANTIATE_TEST_SUITE_P(
    Cases, PrefillExperts,
    ::testing::Values(ExpertCase{"OneToken", 1, 1, 64, 32, forms(1, {kBf16})},
                      ExpertCase{"OneTokenFp8", 1, 1, 64, 32, forms(1, {kFp8})},
                      ExpertCase{"OneGroup", 5, 1, 32, 32, forms(2, {kBf16})},
                      ExpertCase{"Nano", 40, 2, 256, 64, forms(6, {kBf16})},
                      ExpertCase{"NanoFp8", 40, 2, 256, 64, forms(6, {kFp8})},
                      ExpertCase{"Small", 200, 2, 512, 96, forms(5, {kBf16})},
                      ExpertCase{"SmallFp8", 200, 2, 512, 96, forms(5, {kFp8})},
                      ExpertCase{"OddSizes", 150, 3, 2880, 160, forms(4, {kBf16})},
                      ExpertCase{"OddSizesFp8", 150, 3, 2880, 160, forms(4, {kFp8})},
                      ExpertCase{"WideInner", 70, 2, 288, 800, forms(3, {kBf16})},
                      ExpertCase{"WideInnerFp8", 70, 2, 288, 800, forms(3, {kFp8})},
                      ExpertCase{"AllTokensOnOneExpert", 700, 1, 256, 128, forms(9, {kBf16}), 700},
                      ExpertCase{"AllTokensOnOneExpertFp8", 700, 1, 256, 128, forms(9, {kFp8}),
                                 700},
                      ExpertCase{"UnusedSlots", 300, 5, 128, 96, forms(7, {kBf16}), 0, true},
                      ExpertCase{"ManySlots", 90, 16, 64, 64, forms(40, {kBf16})},
                      ExpertCase{"ManyInstances", 60, 8, 64, 32, forms(1000, {kBf16})},
                      ExpertCase{"Mixed", 300, 4, 320, 224, forms(11, {kBf16, kFp8}), 0, true}),
    [](const auto& test) { return test.param.name; });

using PrefillExpertsMore = GpuTest;

// Large enough that blocks go round their ring often, and that tiles are many.
TEST_F(PrefillExpertsMore, AgreesWithTheDecodeKernel) {
  const ExpertCase c{"Large", 4000, 2, 2048, 768, forms(6, {kBf16})};
  Launch launch(c, 3);
  const std::vector<uint16_t> expected =
      launch.run([](const auto& a) { return cuda::decode_experts(a, nullptr); });
  const std::vector<uint16_t> out = run(launch, PrefillForms::kBf16);
  double error = 0, norm = 0;
  for (size_t i = 0; i < out.size(); ++i) {
    const double difference = widen(out[i]) - widen(expected[i]);
    error += difference * difference;
    norm += static_cast<double>(widen(expected[i])) * widen(expected[i]);
  }
  EXPECT_LT(std::sqrt(error / norm), 5e-3);
  for (int again = 0; again < 20; ++again) ASSERT_EQ(run(launch, PrefillForms::kBf16), out);
}

// Nothing was trained for fp8: against the bf16 weights the error is that of rounding.
TEST_F(PrefillExpertsMore, Fp8StaysCloseToBf16) {
  if (!no_fp8().empty()) GTEST_SKIP() << no_fp8();
  Launch launch(ExpertCase{"Fp8", 64, 4, 1024, 512, forms(8, {kFp8})}, 5);
  const std::vector<uint16_t> out = run(launch, PrefillForms::kFp8);
  const auto exact = launch.parts(
      [](const TestExpert& expert, const float* x) { return expert.run_unquantized(x); });
  const double error = relative_error(launch, exact, out);
  RecordProperty("relative_error", std::to_string(error));
  EXPECT_LT(error, 8e-2);
  EXPECT_GT(error, 1e-2);
}

TEST_F(PrefillExpertsMore, OtherFormsGiveNaN) {
  if (!no_fp8().empty()) GTEST_SKIP() << "other devices take the decode kernel, which has them";
  Launch launch(ExpertCase{"Wrong", 20, 1, 64, 64, forms(2, {ExpertForm::kInt8, kBf16})}, 5);
  const std::vector<uint16_t> out = run(launch, PrefillForms::kBf16);
  for (int t = 0; t < 20; ++t)
    EXPECT_EQ(std::isnan(widen(out[static_cast<size_t>(t * 64)])),
              launch.plan.instances[static_cast<size_t>(t)] == 0);
}

// A captured graph reads the plan when it runs.
TEST_F(PrefillExpertsMore, GraphsSeeNewPlans) {
  const ExpertCase c{"Graph", 400, 3, 128, 64, forms(8, {kBf16})};
  Launch launch(c, 5), other(c, 6);
  cudaStream_t stream = nullptr;
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
  cuda::check(cudaStreamCreate(&stream), "making a stream");
  cuda::check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "capturing");
  cuda::check(cuda::prefill_experts(launch.arguments, PrefillForms::kBf16, stream), "launching");
  cuda::check(cudaStreamEndCapture(stream, &graph), "capturing");
  cuda::check(cudaGraphInstantiate(&executable, graph, 0), "making a graph");
  const auto replay = [&] {
    launch.out.fill(0xFF);
    cuda::check(cudaGraphLaunch(executable, stream), "replaying");
    cuda::check(cudaStreamSynchronize(stream), "replaying");
    return launch.out.host();
  };
  const std::vector<uint16_t> first = replay();
  launch.plan = other.plan;
  const auto copy = [](auto& to, const auto& from) {
    cuda::check(cudaMemcpy(to.data(), from.data(), from.size() * sizeof(*from.data()),
                           cudaMemcpyDeviceToDevice),
                "copying the plan");
  };
  copy(launch.instances, other.instances);
  copy(launch.weights, other.weights);
  copy(launch.offsets, other.offsets);
  copy(launch.packed, other.packed);
  const std::vector<uint16_t> second = replay();
  EXPECT_NE(first, second);
  EXPECT_EQ(second, run(launch, PrefillForms::kBf16));
  cudaGraphExecDestroy(executable);
  cudaGraphDestroy(graph);
  cudaStreamDestroy(stream);
}

TEST_F(PrefillExpertsMore, RefusesWhatItCannotTake) {
  cuda::PrefillExpertsArguments good;
  good.tokens = good.k = good.instances = 1;
  good.hidden = good.inter = 32;
  using Field = int cuda::PrefillExpertsArguments::*;
  using A = cuda::PrefillExpertsArguments;
  const std::pair<Field, int> wrong[] = {{&A::hidden, 48},
                                         {&A::inter, 48},
                                         {&A::hidden, 0},
                                         {&A::tokens, 0},
                                         {&A::k, 0},
                                         {&A::tokens, cuda::kMostPrefillTokens + 1},
                                         {&A::instances, 0},
                                         {&A::k, cuda::kMostPrefillSlots + 1},
                                         {&A::hidden, 1 << 21},
                                         {&A::instances, cuda::kMostInstances + 1}};
  for (const auto& [field, value] : wrong) {
    auto a = good;
    a.*field = value;
    EXPECT_EQ(cuda::prefill_experts(a, PrefillForms::kBf16, nullptr), cudaErrorInvalidValue);
  }
  EXPECT_EQ(cuda::prefill_experts(good, PrefillForms{}, nullptr), cudaErrorInvalidValue);
}

}  // namespace
}  // namespace thermoe::test
