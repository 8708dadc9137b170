// For tests that need a GPU.
#pragma once

#include <gtest/gtest.h>

#include <string>

#include "kernels/cuda/devices.h"

namespace thermoe::test {

// Why there is no GPU to test on; empty where there is one.
inline std::string no_gpu() {
  static const CudaDeviceList list = cuda_device_list();
  if (!list.devices.empty()) return "";
  return "no GPU to test on: " + list.problem;
}

class GpuTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (const std::string why = no_gpu(); !why.empty()) GTEST_SKIP() << why;
  }
};

}  // namespace thermoe::test
