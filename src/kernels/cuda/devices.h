// The CUDA devices that this process can use. Free of CUDA headers: builds with and without the
// CUDA code share it (devices.cpp, devices_none.cpp).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace thermoe {

struct CudaDevice {
  std::string name;       // e.g. "NVIDIA H100 80GB HBM3"
  int compute_major = 0;  // compute capability: 9.0 for an H100
  int compute_minor = 0;
  int multiprocessors = 0;
  uint64_t memory_bytes = 0;  // of the whole device, not what is free
};

struct CudaDeviceList {
  bool compiled_in = false;  // whether this build has the CUDA code
  int driver_version = 0;  // highest CUDA version of the driver, 1000 * major + 10 * minor; 0: none
  int runtime_version = 0;          // CUDA version built against, likewise; 0 without the CUDA code
  std::vector<CudaDevice> devices;  // in CUDA's order (CUDA_VISIBLE_DEVICES applies)
  std::string problem;  // one line with the remedy where no device, or not each, can be used
};

// Asks the CUDA runtime; creates no context on any device. Never throws for want of a driver or a
// device: the list is empty then, and `problem` says why. Callable from any thread.
CudaDeviceList cuda_device_list();

}  // namespace thermoe
