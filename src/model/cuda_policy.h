// Which policies the routing kernel knows, and their prices in device memory.
#pragma once

#include <optional>
#include <vector>

#include "kernels/cuda/cuda_resources.h"
#include "kernels/cuda/routing.h"
#include "thermoe/language_model.h"

namespace thermoe {

// A policy as the kernel runs it.
struct CudaPolicy {
  cuda::RoutingMode mode = cuda::RoutingMode::kTopK;  // kBatch: of groups that are small enough
  UtilityModel utility = {};
  // [layers][I] of every layer's instances, or experts; empty: zero
  std::vector<std::vector<float>> open, slope;

  // Nothing where it, its goal, the prices or the layouts are none that the kernel knows. `context`
  // has passed check_routing.
  static std::optional<CudaPolicy> of(const RoutingContext& context, const ModelConfig& config);
};

// Every layer's prices in one piece of device memory, which captured graphs read.
class CudaPrices {
 public:
  // Room for so many instances a layer.
  CudaPrices(int layers, int instances);
  // Enqueues the copy; the values may change as soon as it returns.
  void write(const CudaPolicy& policy, cudaStream_t stream);
  const float* open(int layer) const { return at(0, layer); }
  const float* slope(int layer) const { return at(1, layer); }

 private:
  const float* at(int which, int layer) const {
    return values_.data() +
           (static_cast<size_t>(which) * layers_ + static_cast<size_t>(layer)) * instances_;
  }
  size_t layers_, instances_;
  std::vector<float> host_;
  cuda::DeviceArray<float> values_;
};

}  // namespace thermoe
