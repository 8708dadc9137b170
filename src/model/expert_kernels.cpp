#include "thermoe/expert_kernels.h"

#include "thermoe/error.h"

namespace thermoe {
namespace {

constexpr std::array<const char*, kExpertKernels> kNames = {
    "cuda_experts", "cuda_prefill", "triton_m16", "triton_m64", "triton_m128"};

}  // namespace

const char* name_of(ExpertKernel kernel) { return kNames[static_cast<size_t>(kernel)]; }

std::optional<ExpertKernel> expert_kernel_of(std::string_view name) {
  for (const ExpertKernel kernel : kAllExpertKernels)
    if (name == name_of(kernel)) return kernel;
  return std::nullopt;
}

ExpertKernel ThresholdChooser::choose(const ExpertWork& work, const ExpertKernelSet& able) const {
  const bool many = work.tokens_an_instance() > kManyTokens || !able.has(ExpertKernel::kCudaDecode);
  return many && able.has(ExpertKernel::kCudaPrefill) ? ExpertKernel::kCudaPrefill
                                                      : ExpertKernel::kCudaDecode;
}

ExpertKernel TritonChooser::choose(const ExpertWork& work, const ExpertKernelSet& able) const {
  if (work.fp8)
    throw InvalidArgument(
        "the Triton kernels have no fp8: give other --variants or --kernels cuda");
  std::optional<ExpertKernel> chosen;
  for (const ExpertKernel kernel : kAllExpertKernels) {
    if (!is_triton(kernel) || !able.has(kernel)) continue;
    // The largest tile that an instance's tokens fill, or the smallest there is.
    if (!chosen || triton_tile_tokens(kernel) <= work.tokens_an_instance()) chosen = kernel;
  }
  if (!chosen)
    throw InvalidArgument(
        "no Triton kernels for this GPU in this build: give --kernels cuda (thermoe doctor says "
        "what is missing)");
  return *chosen;
}

}  // namespace thermoe
