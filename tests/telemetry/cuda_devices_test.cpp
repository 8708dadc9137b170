// kernels/cuda's device list, in builds with and without CUDA, on machines with and without a GPU.
#include <gtest/gtest.h>

#include "kernels/cuda/devices.h"

namespace thermoe {
namespace {

TEST(CudaDevices, ListsDevicesOrSaysWhyNot) {
  const CudaDeviceList list = cuda_device_list();
  EXPECT_EQ(list.compiled_in, THERMOE_TEST_HAVE_CUDA != 0);
  EXPECT_TRUE(!list.devices.empty() || !list.problem.empty());
  for (const CudaDevice& device : list.devices) {
    EXPECT_NE(device.name, "");
    EXPECT_GE(device.compute_major, 5);
    EXPECT_GT(device.multiprocessors, 0);
    EXPECT_GT(device.memory_bytes, uint64_t{1} << 28);
  }
}

TEST(CudaDevices, NamesVersionsAndRemedies) {
  const CudaDeviceList list = cuda_device_list();
  if (!list.compiled_in) {
    EXPECT_EQ(list.runtime_version, 0);
    EXPECT_NE(list.problem.find("-DTHERMOE_CUDA=ON"), std::string::npos) << list.problem;
    return;
  }
  EXPECT_GE(list.runtime_version, 11000);
  if (list.driver_version == 0) {
    EXPECT_TRUE(list.devices.empty());
    EXPECT_NE(list.problem.find("no NVIDIA driver"), std::string::npos) << list.problem;
  } else {
    EXPECT_GE(list.driver_version, 11000);
  }
}

}  // namespace
}  // namespace thermoe
