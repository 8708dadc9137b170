#include <numeric>
#include <vector>

#include "kernels/cuda/cuda_resources.h"
#include "kernels/cuda/gpu.h"
#include "thermoe/error.h"

namespace thermoe::cuda {
namespace {

using GpuResources = test::GpuTest;

TEST_F(GpuResources, CopiesBothWays) {
  std::vector<int32_t> values(1000);
  std::iota(values.begin(), values.end(), -500);
  DeviceArray<int32_t> device(values);
  EXPECT_EQ(device.host(), values);
  device.fill(0xFF);
  EXPECT_EQ(device.host(), std::vector<int32_t>(1000, -1));
}

TEST_F(GpuResources, SaysWhenMemoryIsOut) {
  try {
    DeviceBytes too_much(size_t{1} << 50);
    FAIL() << "a petabyte was allocated";
  } catch (const CudaError& error) {
    EXPECT_NE(std::string(error.what()).find("memory"), std::string::npos) << error.what();
  }
}

// Needs no GPU.
TEST(GpuErrors, NameWhatFailedAndHow) {
  try {
    check(cudaErrorInvalidValue, "launching a kernel");
    FAIL() << "no exception";
  } catch (const CudaError& error) {
    EXPECT_NE(std::string(error.what()).find("launching a kernel: invalid argument"),
              std::string::npos)
        << error.what();
  }
}

}  // namespace
}  // namespace thermoe::cuda
