#include "model/cuda_expert_kernels.h"

#include <algorithm>

namespace thermoe {

CudaExpertKernels::CudaExpertKernels(const ModelConfig& config) : config_(config) {
  set_chooser(nullptr);
}

void CudaExpertKernels::set_chooser(std::shared_ptr<const ExpertKernelChooser> chooser) {
  chooser_ = chooser != nullptr ? std::move(chooser) : std::make_shared<ThresholdChooser>();
}

ExpertWork CudaExpertKernels::work_of(int rows, const CudaInstances& instances) const {
  const ExpertForms& forms = instances.forms();
  return {rows,
          config_.top_k,
          instances.count(),
          forms.has(cuda::ExpertForm::kBf16),
          forms.has(cuda::ExpertForm::kInt8),
          forms.has(cuda::ExpertForm::kInt4),
          forms.has(cuda::ExpertForm::kFp8)};
}

// `room`: for nested planes as bf16.
ExpertKernel CudaExpertKernels::choose_one(const ExpertWork& work, const ExpertForms& forms,
                                           bool room) const {
  ExpertKernelSet able = runner_.able(forms);
  if (forms.nested() && !room) able.remove(ExpertKernel::kCudaPrefill);
  return chooser_->choose(work, able);
}

bool CudaExpertKernels::choose(int rows, std::span<const CudaInstances> instances) {
  int unpacked = 0;
  for (const CudaInstances& layer : instances)
    if (layer.forms().nested() &&
        choose_one(work_of(rows, layer), layer.forms(), true) == ExpertKernel::kCudaPrefill)
      unpacked = std::max(unpacked, layer.count());
  const bool moved =
      unpacked > 0 && runner_.reserve_unpacked(unpacked, static_cast<int>(config_.hidden_size),
                                               static_cast<int>(config_.expert_inter_size));
  chosen_.clear();
  for (const CudaInstances& layer : instances)
    chosen_.push_back(
        choose_one(work_of(rows, layer), layer.forms(), runner_.unpacks(layer.count())));
  for (const ExpertKernel kernel : chosen_) runner_.load(kernel);
  return moved;
}

void CudaExpertKernels::run(int layer, const cuda::DecodeExpertsArguments& arguments,
                            const CudaInstances& instances, cudaStream_t stream) const {
  runner_.run(chosen_[static_cast<size_t>(layer)], arguments, instances.forms(), stream);
}

}  // namespace thermoe
