// Triton's routing on a GPU against the CUDA kernel, which is tested against the CPU: the same
// bits.
#include "kernels/triton/triton_routing.h"

#include <gtest/gtest.h>

#include <optional>
#include <random>

#include "kernels/cuda/cuda_resources.h"
#include "kernels/cuda/gpu.h"

namespace thermoe::test {
namespace {

struct RoutingCase {
  const char* name;
  int tokens, experts, k;
  bool priced, bias, renormalize;
};

// What a launch writes, in device memory.
struct Output {
  cuda::DeviceArray<int32_t> ids, instances, offsets, packed;
  cuda::DeviceArray<float> weights;
  cuda::DeviceArray<uint8_t> changed;
  cuda::DeviceArray<cuda::GpuRoutingReport> report{1};

  explicit Output(const RoutingCase& c)
      : ids(pairs(c)),
        instances(pairs(c)),
        offsets(static_cast<size_t>(c.experts) + 1),
        packed(pairs(c)),
        weights(pairs(c)),
        changed(static_cast<size_t>(c.tokens)) {
    for (auto* array : {&ids, &instances, &offsets, &packed}) array->fill(0xFF);
    weights.fill(0xFF);
    changed.fill(0xFF);
    report.fill(0xFF);
  }
  static size_t pairs(const RoutingCase& c) {
    return static_cast<size_t>(c.tokens) * static_cast<size_t>(c.k);
  }
  cuda::RouterOutput view() const {
    return {ids.data(),     instances.data(), weights.data(), changed.data(),
            offsets.data(), packed.data(),    report.data()};
  }
};

class TritonRouting : public GpuTest, public ::testing::WithParamInterface<RoutingCase> {};

TEST_P(TritonRouting, PlansAreTheCudaKernels) {
  if (triton::kernels_in_use().kernels.empty()) GTEST_SKIP() << triton::kernels_in_use().problem;
  const RoutingCase c = GetParam();
  std::mt19937 random(7);
  std::gamma_distribution<float> mass(0.3f, 1.0f);
  std::uniform_real_distribution<float> price(0.0f, 0.4f), bias(-0.02f, 0.02f);
  std::vector<float> scores(static_cast<size_t>(c.tokens) * static_cast<size_t>(c.experts));
  for (float& score : scores) score = mass(random);
  std::vector<float> slopes, biases;
  for (int e = 0; e < c.experts; ++e) {
    slopes.push_back(price(random));
    biases.push_back(bias(random));
  }
  const cuda::DeviceArray<float> device_scores(scores), slope(slopes), biased(biases);
  cuda::RoutingLaunch launch;
  launch.input.scores = device_scores.data();
  launch.input.tokens = c.tokens;
  launch.input.experts = c.experts;
  launch.input.k = c.k;
  launch.input.renormalize = c.renormalize;
  if (c.bias) launch.input.bias = biased.data();
  launch.mode = c.priced ? cuda::RoutingMode::kPerToken : cuda::RoutingMode::kTopK;
  if (c.priced) launch.prices.slope = slope.data();
  const Output theirs(c), ours(c);
  launch.output = theirs.view();
  const cuda::DeviceBytes workspace(cuda::routing_workspace_bytes(launch));
  cuda::check(cuda::launch_routing(launch, workspace.data(), workspace.bytes(), nullptr), "CUDA's");
  launch.output = ours.view();
  const triton::TritonRouting routing(triton::kernels_in_use());
  const cuda::DeviceBytes own(triton::TritonRouting::workspace_bytes(launch));
  cuda::check(routing.run(launch, own.data(), own.bytes(), nullptr), "Triton's");
  cuda::check(cudaDeviceSynchronize(), "routing");
  EXPECT_EQ(ours.ids.host(), theirs.ids.host());
  EXPECT_EQ(ours.instances.host(), theirs.instances.host());
  EXPECT_EQ(ours.weights.host(), theirs.weights.host());
  EXPECT_EQ(ours.changed.host(), theirs.changed.host());
  EXPECT_EQ(ours.offsets.host(), theirs.offsets.host());
  EXPECT_EQ(ours.packed.host(), theirs.packed.host());
  const cuda::GpuRoutingReport a = ours.report.host()[0], b = theirs.report.host()[0];
  EXPECT_EQ(a.bad_token, b.bad_token);
  EXPECT_EQ(a.changed_tokens, b.changed_tokens);
  EXPECT_EQ(a.distinct_experts, b.distinct_experts);
}

INSTANTIATE_TEST_SUITE_P(Cases, TritonRouting,
                         ::testing::Values(RoutingCase{"one", 1, 128, 8, false, false, true},
                                           RoutingCase{"few", 16, 128, 8, false, false, true},
                                           RoutingCase{"odd", 33, 60, 6, false, true, false},
                                           RoutingCase{"large", 64, 512, 10, false, false, true},
                                           RoutingCase{"many", 4096, 128, 8, false, false, true},
                                           RoutingCase{"priced", 300, 128, 8, true, false, true},
                                           RoutingCase{"prices_and_bias", 77, 256, 8, true, true,
                                                       true}),
                         [](const auto& test) { return test.param.name; });

// No GPU needed.
TEST(TritonRoutingBuild, IsThereForBothArchitectures) {
  const triton::KernelSet& set = triton::built_in_kernels();
  if (set.kernels.empty()) GTEST_SKIP() << set.problem;
  for (const int arch : {80, 89, 90}) EXPECT_TRUE(triton::TritonRouting::available(set, arch));
  EXPECT_FALSE(triton::TritonRouting::available(set, 75));
}

}  // namespace
}  // namespace thermoe::test
