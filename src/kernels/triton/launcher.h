// Compiled Triton kernels on a device, launched through the driver. Only for files that are
// compiled with the CUDA code.
#pragma once

#include <cuda_runtime_api.h>

#include <span>

#include "kernels/triton/compiled_kernels.h"

namespace thermoe::triton {

// Of the device that CUDA calls are about now; throw CudaError.
int current_device();
int device_arch(int device);  // compute capability times ten

struct Grid {
  unsigned x = 1, y = 1, z = 1;
};

// A kernel that the driver has loaded, for the current device and every later launch on it.
class LoadedKernel {
 public:
  LoadedKernel() = default;
  // Loads it, which allocates device memory: not while a stream is captured. Throws CudaError.
  LoadedKernel(const CompiledKernel& kernel, int device);
  ~LoadedKernel();
  LoadedKernel(LoadedKernel&& other) noexcept;
  LoadedKernel& operator=(LoadedKernel&& other) noexcept;

  // arguments: the address of each of the kernel's parameters' values, hidden ones left out; there
  // are as many as `parameters` has letters. Capturable. cudaErrorInvalidValue for another count,
  // cudaErrorLaunchFailure and the like as the driver says.
  cudaError_t launch(Grid grid, std::span<void* const> arguments, cudaStream_t stream) const;

 private:
  const CompiledKernel* kernel_ = nullptr;
  void* library_ = nullptr;   // CUlibrary
  void* function_ = nullptr;  // CUfunction
};

}  // namespace thermoe::triton
