// Which kernel runs each layer's experts: asked of a chooser, before a pass and before a capture.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "model/cuda_expert_runner.h"
#include "model/cuda_instances.h"
#include "thermoe/model_config.h"

namespace thermoe {

class CudaExpertKernels {
 public:
  explicit CudaExpertKernels(const ModelConfig& config);
  // Null: by thresholds, as in the beginning.
  void set_chooser(std::shared_ptr<const ExpertKernelChooser> chooser);

  // A kernel for each layer of passes of so many rows, and room for them; true where a buffer
  // moved. Throws InvalidArgument where none takes a layer's precisions.
  bool choose(int rows, std::span<const CudaInstances> instances);
  const std::vector<ExpertKernel>& chosen() const { return chosen_; }
  // The layer's experts by the chosen kernel; capturable.
  void run(int layer, const cuda::DecodeExpertsArguments& arguments, const CudaInstances& instances,
           cudaStream_t stream) const;

 private:
  ExpertWork work_of(int rows, const CudaInstances& instances) const;
  ExpertKernel choose_one(const ExpertWork& work, const ExpertForms& forms, bool room) const;

  const ModelConfig& config_;
  std::shared_ptr<const ExpertKernelChooser> chooser_;
  CudaExpertRunner runner_;
  std::vector<ExpertKernel> chosen_;  // [layers]
};

}  // namespace thermoe
