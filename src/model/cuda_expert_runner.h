// A layer's experts by any of their kernels (thermoe/expert_kernels.h), on the current device.
#pragma once

#include <array>
#include <optional>

#include "kernels/cuda/cuda_resources.h"
#include "kernels/triton/triton_experts.h"
#include "thermoe/expert_kernels.h"
#include "thermoe/moe_layer.h"

namespace thermoe {

// Whether the current device has sm_90a's warpgroup products, which prefill and fp8 need.
bool has_warpgroup_products();

// Which forms (cuda::ExpertForm) a plan's instances have.
struct ExpertForms {
  std::array<bool, kPrecisions> held{};
  bool has(cuda::ExpertForm form) const { return held[static_cast<size_t>(form)]; }
  void add(cuda::ExpertForm form) { held[static_cast<size_t>(form)] = true; }
  bool nested() const { return has(cuda::ExpertForm::kInt8) || has(cuda::ExpertForm::kInt4); }
};

class CudaExpertRunner {
 public:
  // Throws IoError where THERMOE_TRITON_DIR names a folder that doesn't do.
  CudaExpertRunner();

  // The kernels that run these forms; the prefill kernel runs int8 and int4 where there is
  // reserve_unpacked()'s room. Throws InvalidArgument where none does.
  ExpertKernelSet able(const ExpertForms& forms) const;
  // Room for the planes of so many instances as bf16, unless the device hasn't the memory. True
  // where a buffer moved.
  bool reserve_unpacked(int instances, int hidden, int inter);
  bool unpacks(int instances) const {
    return unpacked_table_.size() >= static_cast<size_t>(instances);
  }
  // What `kernel` needs before it runs for the first time, which a capture can't do. Throws
  // CudaError where the driver doesn't load it.
  void load(ExpertKernel kernel);
  // One that is able and loaded; its workspace is cuda::prefill_experts_workspace()'s. Capturable.
  // Throws CudaError.
  void run(ExpertKernel kernel, const cuda::DecodeExpertsArguments& arguments,
           const ExpertForms& forms, cudaStream_t stream) const;

 private:
  cudaError_t prefill(cuda::DecodeExpertsArguments arguments, const ExpertForms& forms,
                      cudaStream_t stream) const;

  bool warpgroups_ = false;
  ExpertKernelSet triton_;  // those that there are for the device
  std::optional<triton::TritonExperts> triton_experts_;
  cuda::DeviceBytes unpacked_;  // planes as bf16, of the layer at hand
  cuda::DeviceArray<cuda::DeviceExpert> unpacked_table_;
};

}  // namespace thermoe
