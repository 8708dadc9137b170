#include "model/cuda_expert_kernels.h"

#include <algorithm>

#include "kernels/cuda/prefill_experts.h"
#include "kernels/cuda/unpack_nested.h"
#include "thermoe/error.h"

namespace thermoe {
namespace {

using cuda::ExpertForm;

int attribute_of_device(cudaDeviceAttr which) {
  int device = 0, value = 0;
  cuda::check(cudaGetDevice(&device), "asking for the GPU");
  cuda::check(cudaDeviceGetAttribute(&value, which, device), "asking for the GPU's abilities");
  return value;
}

int device_arch() {
  return 10 * attribute_of_device(cudaDevAttrComputeCapabilityMajor) +
         attribute_of_device(cudaDevAttrComputeCapabilityMinor);
}

}  // namespace

bool has_warpgroup_products() {
  return attribute_of_device(cudaDevAttrComputeCapabilityMajor) == 9;
}

CudaExpertKernels::CudaExpertKernels(const ModelConfig& config)
    : config_(config), warpgroups_(has_warpgroup_products()) {
  set_chooser(nullptr);
  const triton::KernelSet& set = triton::kernels_in_use();
  const int arch = device_arch();
  std::vector<int> tiles;
  for (int i = 0; i < kExpertKernels; ++i) {
    const auto kernel = static_cast<ExpertKernel>(i);
    const int tokens = triton_tile_tokens(kernel);
    if (tokens == 0 || !triton::TritonExperts::available(set, tokens, arch)) continue;
    triton_.add(kernel);
    tiles.push_back(tokens);
  }
  if (!tiles.empty()) triton_experts_.emplace(set, tiles);
}

void CudaExpertKernels::set_chooser(std::shared_ptr<const ExpertKernelChooser> chooser) {
  chooser_ = chooser != nullptr ? std::move(chooser) : std::make_shared<ThresholdChooser>();
}

ExpertWork CudaExpertKernels::work_of(int rows, const CudaInstances& instances) const {
  return {rows,
          config_.top_k,
          instances.count(),
          instances.has(ExpertForm::kBf16),
          instances.has(ExpertForm::kInt8),
          instances.has(ExpertForm::kInt4),
          instances.has(ExpertForm::kFp8)};
}

// `room`: for the planes in bf16.
ExpertKernelSet CudaExpertKernels::able(const ExpertWork& work, bool room) const {
  const bool nested = work.int8 || work.int4;
  if (work.fp8 && nested)
    throw InvalidArgument("fp8 can't be mixed with int8 or int4: give other --variants");
  ExpertKernelSet set = work.fp8 ? ExpertKernelSet() : triton_;
  if (!work.fp8) set.add(ExpertKernel::kCudaDecode);
  if (warpgroups_ && (!nested || room)) set.add(ExpertKernel::kCudaPrefill);
  return set;
}

bool CudaExpertKernels::reserve(int rows, std::span<const CudaInstances> instances) {
  int most = 0;
  for (const CudaInstances& layer : instances) {
    if (!layer.nested()) continue;
    const ExpertWork work = work_of(rows, layer);
    if (chooser_->choose(work, able(work, true)) == ExpertKernel::kCudaPrefill)
      most = std::max(most, layer.count());
  }
  const size_t bytes =
      static_cast<size_t>(most) * cuda::unpacked_bytes(static_cast<int>(config_.hidden_size),
                                                       static_cast<int>(config_.expert_inter_size));
  if (bytes <= unpacked_.bytes()) return false;
  size_t unused = 0, total = 0;
  cuda::check(cudaMemGetInfo(&unused, &total), "asking for the GPU's memory");
  if (bytes > unused) return false;
  unpacked_ = cuda::DeviceBytes(bytes);
  unpacked_table_ = cuda::DeviceArray<cuda::DeviceExpert>(static_cast<size_t>(most));
  return true;
}

std::vector<ExpertKernel> CudaExpertKernels::choose(
    int rows, std::span<const CudaInstances> instances) const {
  std::vector<ExpertKernel> chosen;
  for (const CudaInstances& layer : instances) {
    const ExpertWork work = work_of(rows, layer);
    const bool room = unpacked_table_.size() >= static_cast<size_t>(layer.count());
    chosen.push_back(chooser_->choose(work, able(work, room)));
  }
  return chosen;
}

void CudaExpertKernels::prefill(cuda::DecodeExpertsArguments arguments,
                                const CudaInstances& instances, cudaStream_t stream) const {
  if (instances.nested()) {
    cuda::check(cuda::unpack_experts(arguments.experts, arguments.offsets, arguments.instances,
                                     arguments.hidden, arguments.inter, unpacked_table_.data(),
                                     reinterpret_cast<uint8_t*>(unpacked_.data()), stream),
                "unpacking planes");
    arguments.experts = unpacked_table_.data();
  }
  const auto forms = !instances.has(ExpertForm::kFp8)   ? cuda::PrefillForms::kBf16
                     : instances.has(ExpertForm::kBf16) ? cuda::PrefillForms::kBoth
                                                        : cuda::PrefillForms::kFp8;
  cuda::check(cuda::prefill_experts(arguments, forms, stream), "experts");
}

void CudaExpertKernels::run(ExpertKernel kernel, cuda::DecodeExpertsArguments arguments,
                            const CudaInstances& instances, cudaStream_t stream) const {
  if (kernel == ExpertKernel::kCudaDecode)
    return cuda::check(cuda::decode_experts(arguments, stream), "experts");
  if (kernel == ExpertKernel::kCudaPrefill) return prefill(arguments, instances, stream);
  const triton::ExpertForms forms{instances.has(ExpertForm::kBf16),
                                  instances.has(ExpertForm::kInt8),
                                  instances.has(ExpertForm::kInt4)};
  cuda::check(triton_experts_->run(arguments, forms, triton_tile_tokens(kernel), stream),
              "Triton's experts");
}

}  // namespace thermoe
