// A kernel profile from any bytes.
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "cost/kernel_profile.h"
#include "thermoe/error.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const std::string path = "/dev/shm/thermoe_fuzz_profile_" + std::to_string(::getpid());
  std::FILE* file = std::fopen(path.c_str(), "wb");
  if (file == nullptr) std::abort();
  std::fwrite(data, 1, size, file);
  std::fclose(file);
  try {
    const thermoe::cost::KernelProfile profile = thermoe::cost::read_kernel_profile(path);
    for (const thermoe::cost::MeasuredKernel& kernel : profile.kernels)
      for (const thermoe::cost::MeasuredCurve& curve : kernel.curves)
        if (curve.latency_us.size() != kernel.tokens.size() || curve.shape.local_experts() < 1)
          std::abort();
    // What is written is read back.
    thermoe::cost::write_kernel_profile(profile, path);
    if (thermoe::cost::read_kernel_profile(path).kernels.size() != profile.kernels.size())
      std::abort();
  } catch (const thermoe::IoError&) {  // the one way to refuse a file
  }
  std::remove(path.c_str());
  return 0;
}
