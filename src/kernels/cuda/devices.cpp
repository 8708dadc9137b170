#include "kernels/cuda/devices.h"

#include <cuda_runtime_api.h>
#include <fmt/format.h>

namespace thermoe {
namespace {

std::string describe(const char* call, cudaError_t error, const char* remedy) {
  return fmt::format("{}: {} ({}); {}", call, cudaGetErrorString(error), cudaGetErrorName(error),
                     remedy);
}

const char* remedy(cudaError_t error) {
  switch (error) {
    case cudaErrorNoDevice:
      return "check nvidia-smi and CUDA_VISIBLE_DEVICES";
    case cudaErrorInsufficientDriver:
      return "install an NVIDIA driver as new as the CUDA runtime of this build, or newer";
    default:
      return "check that nvidia-smi works and that driver and GPU are in order";
  }
}

}  // namespace

CudaDeviceList cuda_device_list() {
  CudaDeviceList list;
  list.compiled_in = true;
  cudaError_t error = cudaRuntimeGetVersion(&list.runtime_version);
  if (error == cudaSuccess) error = cudaDriverGetVersion(&list.driver_version);
  if (error != cudaSuccess) {
    list.problem = describe("CUDA's versions can't be read", error, remedy(error));
    return list;
  }
  if (list.driver_version == 0) {
    list.problem = "no NVIDIA driver is installed; install one to run the CUDA code";
    return list;
  }
  int count = 0;
  error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess) {
    list.problem = describe("no CUDA device can be used", error, remedy(error));
    return list;
  }
  for (int i = 0; i < count; ++i) {
    cudaDeviceProp properties{};
    error = cudaGetDeviceProperties(&properties, i);
    if (error != cudaSuccess) {
      list.problem =
          describe(fmt::format("CUDA device {} can't be used", i).c_str(), error, remedy(error));
      continue;
    }
    CudaDevice device;
    device.name = properties.name;
    device.compute_major = properties.major;
    device.compute_minor = properties.minor;
    device.multiprocessors = properties.multiProcessorCount;
    device.memory_bytes = properties.totalGlobalMem;
    list.devices.push_back(device);
  }
  return list;
}

}  // namespace thermoe
