#include "model/cuda_plans.h"

namespace thermoe {

CudaPlans::CudaPlans(const ModelConfig& config, int rows, int groups, int slots, int instances)
    : rows_(rows), groups_(groups), slots_(slots), instances_(instances), experts_(config.experts) {
  const size_t layers = static_cast<size_t>(config.layers), n = static_cast<size_t>(rows);
  const size_t pairs = layers * n * static_cast<size_t>(slots);
  logits_ = cuda::DeviceArray<float>(layers * n * static_cast<size_t>(experts_));
  weights_ = cuda::DeviceArray<float>(pairs);
  ids_ = cuda::DeviceArray<int32_t>(pairs);
  plan_instances_ = cuda::DeviceArray<int32_t>(pairs);
  packed_ = cuda::DeviceArray<int32_t>(pairs);
  offsets_ = cuda::DeviceArray<int32_t>(layers * (static_cast<size_t>(instances) + 1));
  changed_ = cuda::DeviceArray<uint8_t>(layers * n);
  reports_ = cuda::DeviceArray<cuda::GpuRoutingReport>(layers * static_cast<size_t>(groups));
  group_offsets_ = cuda::DeviceArray<int32_t>(static_cast<size_t>(instances) + 1);
  group_packed_ = cuda::DeviceArray<int32_t>(n * static_cast<size_t>(slots));
}

CudaLayerPlan CudaPlans::layer(int number) const {
  const size_t l = static_cast<size_t>(number), n = static_cast<size_t>(rows_);
  const size_t pairs = l * n * static_cast<size_t>(slots_);
  CudaLayerPlan layer;
  layer.logits = logits_.data() + l * n * static_cast<size_t>(experts_);
  layer.plan.ids = ids_.data() + pairs;
  layer.plan.instances = plan_instances_.data() + pairs;
  layer.plan.weights = weights_.data() + pairs;
  layer.plan.changed = changed_.data() + l * n;
  layer.plan.offsets = offsets_.data() + l * (static_cast<size_t>(instances_) + 1);
  layer.plan.packed = packed_.data() + pairs;
  layer.plan.report = reports_.data() + l * static_cast<size_t>(groups_);
  return layer;
}

}  // namespace thermoe
