// A test with a fake of the driver's management library in its place.
#pragma once

#include <dlfcn.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <stdexcept>
#include <string>

#include "telemetry/fake_nvml.h"
#include "thermoe/error.h"
#include "thermoe/gpu_system_monitor.h"

namespace thermoe {

// Points THERMOE_NVML_LIBRARY at a fake and holds it loaded, with fresh knobs.
class Nvml : public ::testing::Test {
 protected:
  void TearDown() override {
    unsetenv("THERMOE_NVML_LIBRARY");
    if (handle_ != nullptr) dlclose(handle_);
  }

  FakeNvml& use(const char* path) {
    setenv("THERMOE_NVML_LIBRARY", path, 1);
    handle_ = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (handle_ == nullptr) throw std::runtime_error(dlerror());
    auto* control = reinterpret_cast<FakeNvmlControl*>(dlsym(handle_, "fake_nvml"));
    FakeNvml& fake = *control();
    fake = FakeNvml{};
    return fake;
  }
  FakeNvml& use_whole() { return use(FAKE_NVML_WHOLE_PATH); }

  // Samples until so many fields are asked for in one call, which is once each has shown that it is
  // quick.
  static void sample_until_batched(GpuSystemMonitor& monitor, const FakeNvml& fake, int fields) {
    for (int n = 0; n < 1000 && fake.last_field_count != fields; ++n) monitor.poll();
    EXPECT_EQ(fake.last_field_count, fields);
  }

  static std::string open_error(int index = 0) {
    try {
      (void)open_nvml_source(index);
    } catch (const NvmlError& error) {
      return error.what();
    }
    ADD_FAILURE() << "no NvmlError";
    return "";
  }

 private:
  void* handle_ = nullptr;
};

}  // namespace thermoe
