// A layer's experts by whichever kernel is chosen for them.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "kernels/triton/triton_experts.h"
#include "model/cuda_instances.h"
#include "thermoe/expert_kernels.h"
#include "thermoe/model_config.h"

namespace thermoe {

// Whether the current device has sm_90a's warpgroup products, which prefill and fp8 need.
bool has_warpgroup_products();

class CudaExpertKernels {
 public:
  // Triton's kernels are loaded where there are any for the device.
  explicit CudaExpertKernels(const ModelConfig& config);
  // Null: by thresholds, as in the beginning.
  void set_chooser(std::shared_ptr<const ExpertKernelChooser> chooser);

  // Room for the planes of a layer in bf16, where the prefill kernel would multiply them; without
  // it (no memory is left) other kernels run them. True where it moved.
  bool reserve(int rows, std::span<const CudaInstances> instances);
  // A kernel for each layer of such a pass. Throws InvalidArgument where none takes its precisions.
  std::vector<ExpertKernel> choose(int rows, std::span<const CudaInstances> instances) const;
  // Capturable.
  void run(ExpertKernel kernel, cuda::DecodeExpertsArguments arguments,
           const CudaInstances& instances, cudaStream_t stream) const;

 private:
  ExpertWork work_of(int rows, const CudaInstances& instances) const;
  ExpertKernelSet able(const ExpertWork& work, bool room) const;
  void prefill(cuda::DecodeExpertsArguments arguments, const CudaInstances& instances,
               cudaStream_t stream) const;

  const ModelConfig& config_;
  std::shared_ptr<const ExpertKernelChooser> chooser_;
  bool warpgroups_ = false;
  ExpertKernelSet triton_;  // those that are loaded
  std::optional<triton::TritonExperts> triton_experts_;
  cuda::DeviceBytes unpacked_;  // planes as bf16, of the layer at hand
  cuda::DeviceArray<cuda::DeviceExpert> unpacked_table_;
};

}  // namespace thermoe
