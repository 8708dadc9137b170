// Each token's choice by Triton's kernels: top-k, or the best at slope and marginal prices, packed.
// Only for files that are compiled with the CUDA code.
#pragma once

#include <array>

#include "kernels/cuda/routing.h"
#include "kernels/triton/launcher.h"

namespace thermoe::triton {

// The kernels for one device, loaded.
class TritonRouting {
 public:
  // Whether `set` has the kernels for the device.
  static bool available(const KernelSet& set, int device_arch);
  // For the current device. Throws as find_kernel() and LoadedKernel.
  explicit TritonRouting(const KernelSet& set);

  static size_t workspace_bytes(const cuda::RoutingLaunch& launch);
  // As cuda::launch_routing() in modes kTopK and kPerToken, in three launches: on given scores the
  // same bits. cudaErrorNotSupported for the program of a whole batch.
  cudaError_t run(const cuda::RoutingLaunch& launch, void* workspace, size_t workspace_bytes,
                  cudaStream_t stream) const;

 private:
  struct Kernel {
    const CompiledKernel* compiled = nullptr;
    LoadedKernel loaded;
  };
  static Kernel load(const KernelSet& set, const char* name, const char* parameters);
  const Kernel& route_kernel(const cuda::RoutingLaunch& launch) const;
  cudaError_t route(const cuda::RoutingLaunch& launch, void* bad, cudaStream_t stream) const;

  Kernel small_, large_, small_priced_, large_priced_, pack_, report_;
};

}  // namespace thermoe::triton
