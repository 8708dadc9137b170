// From a layer's router logits on the device to its plan there: by the routing kernel, or by any
// policy on the host; and what an observer is told of it.
#pragma once

#include <span>
#include <vector>

#include "model/cuda_instances.h"
#include "model/cuda_plans.h"
#include "model/cuda_policy.h"
#include "thermoe/language_model.h"

namespace thermoe {

// A layer to route.
struct CudaRouting {
  MoeSettings settings;
  int experts = 0;
  std::span<const RowGroup> groups;
  CudaLayerPlan to;
  const CudaInstances* instances = nullptr;
};

class CudaRouter {
 public:
  // Grows the workspace to what route_on_device will need; true where it moved.
  bool reserve(const CudaPolicy& policy, const CudaRouting& routing);
  // Enqueues; capturable.
  void route_on_device(const CudaPolicy& policy, const CudaPrices& prices,
                       const CudaRouting& routing, const CudaPlans& plans, cudaStream_t stream);
  // Waits for the logits, asks the policy and enqueues the plan's copy. Returns the slots of a
  // token in it. Throws InvalidArgument for logits that are not finite, and as the policy does.
  int route_on_host(const RoutingContext& context, const CudaRouting& routing, int most_slots,
                    cudaStream_t stream);
  // After the pass: throws InvalidArgument where a layer's logits were not finite, and tells
  // `observer` (may be null) of the plans that the kernel made.
  void finish(const CudaPolicy& policy, const CudaRouting& routing, PlanObserver* observer,
              cudaStream_t stream);

 private:
  cuda::RoutingLaunch launch_of(const CudaPolicy& policy, const CudaRouting& routing,
                                size_t group) const;
  void observe(const CudaPolicy& policy, const CudaRouting& routing, size_t group,
               const cuda::GpuRoutingReport& report, PlanObserver& observer);
  ConstMatrix scores_of(const CudaRouting& routing, const RowGroup& rows, cudaStream_t stream);

  cuda::DeviceBytes workspace_;
  std::vector<float> scores_, masses_;
  std::vector<uint8_t> seen_;
  RoutingPlan group_plan_, plan_;
  std::vector<cuda::GpuRoutingReport> reports_;
};

}  // namespace thermoe
