// Every layer's router logits and plan of one batch, in device memory.
#pragma once

#include <cstdint>

#include "kernels/cuda/cuda_resources.h"
#include "kernels/cuda/routing.h"
#include "thermoe/model_config.h"

namespace thermoe {

// Pointers into one layer's part, as in RouterOutput.
struct CudaLayerPlan {
  float* logits = nullptr;  // [rows, E]
  cuda::RouterOutput plan;  // report: one a group
};

class CudaPlans {
 public:
  CudaPlans() = default;
  // For up to so many rows in so many groups, of up to `instances` instances and `slots` a token.
  CudaPlans(const ModelConfig& config, int rows, int groups, int slots, int instances);
  bool fits(int rows, int groups, int slots, int instances) const {
    return rows <= rows_ && groups <= groups_ && slots <= slots_ && instances <= instances_;
  }
  int rows() const { return rows_; }
  int groups() const { return groups_; }
  int slots() const { return slots_; }
  CudaLayerPlan layer(int number) const;
  // Scratch of a group's own packed order, where the batch has several.
  int32_t* group_offsets() const { return group_offsets_.data(); }
  int32_t* group_packed() const { return group_packed_.data(); }

 private:
  int rows_ = 0, groups_ = 0, slots_ = 0, instances_ = 0, experts_ = 0;
  cuda::DeviceArray<float> logits_, weights_;
  cuda::DeviceArray<int32_t> ids_, plan_instances_, offsets_, packed_;
  cuda::DeviceArray<int32_t> group_offsets_, group_packed_;
  cuda::DeviceArray<uint8_t> changed_;
  cuda::DeviceArray<cuda::GpuRoutingReport> reports_;
};

}  // namespace thermoe
