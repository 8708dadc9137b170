#include "model/cuda_expert_runner.h"

#include <vector>

#include "kernels/cuda/prefill_experts.h"
#include "kernels/cuda/unpack_nested.h"
#include "thermoe/error.h"

namespace thermoe {

using cuda::ExpertForm;

bool has_warpgroup_products() { return triton::device_arch(triton::current_device()) / 10 == 9; }

CudaExpertRunner::CudaExpertRunner() : warpgroups_(has_warpgroup_products()) {
  const triton::KernelSet& set = triton::kernels_in_use();
  const int arch = triton::device_arch(triton::current_device());
  for (const ExpertKernel kernel : kAllExpertKernels) {
    const int tokens = triton_tile_tokens(kernel);
    if (tokens > 0 && triton::TritonExperts::available(set, tokens, arch)) triton_.add(kernel);
  }
}

void CudaExpertRunner::load(ExpertKernel kernel) {
  if (!is_triton(kernel) || triton_experts_) return;
  std::vector<int> tiles;
  for (const ExpertKernel one : kAllExpertKernels)
    if (triton_.has(one)) tiles.push_back(triton_tile_tokens(one));
  triton_experts_.emplace(triton::kernels_in_use(), tiles);
}

ExpertKernelSet CudaExpertRunner::able(const ExpertForms& forms) const {
  const bool fp8 = forms.has(ExpertForm::kFp8);
  if (fp8 && forms.nested())
    throw InvalidArgument("fp8 can't be mixed with int8 or int4: give other --variants");
  ExpertKernelSet set = fp8 ? ExpertKernelSet() : triton_;
  if (!fp8) set.add(ExpertKernel::kCudaDecode);
  if (warpgroups_) set.add(ExpertKernel::kCudaPrefill);
  return set;
}

bool CudaExpertRunner::reserve_unpacked(int instances, int hidden, int inter) {
  const size_t bytes = static_cast<size_t>(instances) * cuda::unpacked_bytes(hidden, inter);
  if (bytes <= unpacked_.bytes() && unpacks(instances)) return false;
  size_t unused = 0, total = 0;
  cuda::check(cudaMemGetInfo(&unused, &total), "asking for the GPU's memory");
  if (bytes > unused + unpacked_.bytes()) return false;
  unpacked_ = cuda::DeviceBytes();  // before the larger one is made
  unpacked_table_ = cuda::DeviceArray<cuda::DeviceExpert>();
  unpacked_ = cuda::DeviceBytes(bytes);
  unpacked_table_ = cuda::DeviceArray<cuda::DeviceExpert>(static_cast<size_t>(instances));
  return true;
}

cudaError_t CudaExpertRunner::prefill(cuda::DecodeExpertsArguments arguments,
                                      const ExpertForms& forms, cudaStream_t stream) const {
  if (forms.nested()) {
    const cudaError_t status =
        cuda::unpack_experts(arguments.experts, arguments.offsets, arguments.instances,
                             arguments.hidden, arguments.inter, unpacked_table_.data(),
                             reinterpret_cast<uint8_t*>(unpacked_.data()), stream);
    if (status != cudaSuccess) return status;
    arguments.experts = unpacked_table_.data();
  }
  const auto which = !forms.has(ExpertForm::kFp8)   ? cuda::PrefillForms::kBf16
                     : forms.has(ExpertForm::kBf16) ? cuda::PrefillForms::kBoth
                                                    : cuda::PrefillForms::kFp8;
  return cuda::prefill_experts(arguments, which, stream);
}

void CudaExpertRunner::run(ExpertKernel kernel, const cuda::DecodeExpertsArguments& arguments,
                           const ExpertForms& forms, cudaStream_t stream) const {
  if (kernel == ExpertKernel::kCudaDecode)
    return cuda::check(cuda::decode_experts(arguments, stream), "experts");
  if (kernel == ExpertKernel::kCudaPrefill)
    return cuda::check(prefill(arguments, forms, stream), "experts");
  const triton::TritonForms launches{forms.has(ExpertForm::kBf16), forms.has(ExpertForm::kInt8),
                                     forms.has(ExpertForm::kInt4)};
  cuda::check(triton_experts_->run(arguments, launches, triton_tile_tokens(kernel), stream),
              "Triton's experts");
}

}  // namespace thermoe
