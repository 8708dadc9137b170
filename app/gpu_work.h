// The CUDA kernels on random weights, one captured batch of launches at a time, timed. Free of CUDA
// headers: gpu_work.cpp, and gpu_work_none.cpp where the build has no CUDA code.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "sweep.h"

namespace thermoe::app {

// What CUDA tells of the device.
struct GpuFacts {
  std::string name;          // "NVIDIA H100 80GB HBM3"
  std::string uuid;          // as NVML writes it: "GPU-..."
  std::string cuda_version;  // of the runtime, "13.0"
  MeasuredPeaks peaks;       // by its clocks, memory bus and multiprocessors
};

class GpuWork {
 public:
  virtual ~GpuWork() = default;
  virtual const GpuFacts& facts() const = 0;
  // The kernels (expert_kernels.h's names) that this build and device have for weights of a type;
  // the first of bf16, int8 and int4 takes all points. Empty: none. Throws InvalidArgument for a
  // type that no kernel has.
  virtual std::vector<std::string> kernels(const std::string& dtype) const = 0;
  // Throws InvalidArgument, with the remedy, where no kernel runs the point or the device hasn't
  // the memory for its weights.
  virtual void check(const SweepPoint& point) const = 0;
  // Sets what run_us() is of. Throws as check().
  virtual void prepare(const SweepPoint& point) = 0;
  // Microseconds a launch, mean of `replays` replays one after the other of the captured launches.
  // Cold launches rotate through the experts and through as many layers as it takes for none to
  // find its weights in the L2 cache; warm ones all read the same. A skewed load is several draws
  // of it, one launch after the other.
  virtual double run_us(int replays) = 0;
};

// On the first device that CUDA lists. Weights are as large as a checkpoint's and never zero.
// Throws InvalidArgument, with the remedy, where there is none or no CUDA code.
std::unique_ptr<GpuWork> make_gpu_work();

}  // namespace thermoe::app
