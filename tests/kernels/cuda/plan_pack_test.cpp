// Packing on the GPU against the host's.
#include "kernels/cuda/plan_pack.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

#include "kernels/cuda/cuda_resources.h"
#include "kernels/cuda/gpu.h"
#include "thermoe/routing_plan.h"

namespace thermoe::test {
namespace {

class PlanPack : public GpuTest {};

TEST_F(PlanPack, IsTheHosts) {
  std::mt19937 generator(1);
  for (const int instances : {1, 3, 64, 1024})
    for (const int pairs : {1, 31, 32, 33, 4096}) {
      RoutingPlan plan;
      std::uniform_int_distribution<int32_t> any(-1, instances - 1);
      for (int p = 0; p < pairs; ++p) plan.instances.push_back(any(generator));
      plan.tokens = pairs;
      plan.k = 1;
      plan.ids = plan.instances;
      pack(plan, instances);
      const cuda::DeviceArray<int32_t> there(plan.instances);
      cuda::DeviceArray<int32_t> offsets(static_cast<size_t>(instances) + 1);
      cuda::DeviceArray<int32_t> packed(static_cast<size_t>(pairs));
      offsets.fill(0xFF);
      packed.fill(0xFF);
      cuda::check(
          cuda::pack_plan(there.data(), pairs, instances, offsets.data(), packed.data(), nullptr),
          "packing");
      EXPECT_EQ(offsets.host(), plan.offsets);
      std::vector<int32_t> used = packed.host();
      used.resize(plan.packed.size());
      EXPECT_EQ(used, plan.packed) << instances << " instances, " << pairs << " pairs";
    }
}

TEST_F(PlanPack, OneExpertTakesEveryRow) {
  const int rows = 300;
  cuda::DeviceArray<int32_t> instances(rows), offsets(2), packed(rows);
  cuda::DeviceArray<float> weights(rows);
  cuda::check(cuda::plan_of_one(rows, instances.data(), weights.data(), offsets.data(),
                                packed.data(), nullptr),
              "a plan");
  EXPECT_EQ(offsets.host(), (std::vector<int32_t>{0, rows}));
  for (int r = 0; r < rows; ++r) {
    EXPECT_EQ(instances.host()[static_cast<size_t>(r)], 0);
    EXPECT_EQ(weights.host()[static_cast<size_t>(r)], 1.0f);
    EXPECT_EQ(packed.host()[static_cast<size_t>(r)], r);
  }
}

TEST(PlanPackArguments, SizesOutOfBoundsAreRefused) {
  EXPECT_EQ(cuda::pack_plan(nullptr, 0, 4, nullptr, nullptr, nullptr), cudaErrorInvalidValue);
  EXPECT_EQ(cuda::pack_plan(nullptr, 4, 1025, nullptr, nullptr, nullptr), cudaErrorInvalidValue);
  EXPECT_EQ(cuda::plan_of_one(0, nullptr, nullptr, nullptr, nullptr, nullptr),
            cudaErrorInvalidValue);
}

}  // namespace
}  // namespace thermoe::test
