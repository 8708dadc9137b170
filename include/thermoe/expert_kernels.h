// The implementations of a layer's experts on a GPU, and who chooses among them.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>

namespace thermoe {

enum class ExpertKernel : uint8_t {
  kCudaDecode,   // one launch, weights read once, any mix of bf16, int8 and int4
  kCudaPrefill,  // warpgroup products of bf16 and fp8; int8 and int4 become bf16 on the way
  kTritonM16,    // Triton's, in tiles of 16, 64 or 128 tokens of an expert: a launch a precision
  kTritonM64,
  kTritonM128,  // int8 and int4 in tiles of 64
};
constexpr int kExpertKernels = 5;
constexpr std::array<ExpertKernel, kExpertKernels> kAllExpertKernels = {
    ExpertKernel::kCudaDecode, ExpertKernel::kCudaPrefill, ExpertKernel::kTritonM16,
    ExpertKernel::kTritonM64, ExpertKernel::kTritonM128};
// As profiles name them, behind "thermoe_": "cuda_experts", "cuda_prefill", "triton_m16", ...
const char* name_of(ExpertKernel kernel);
std::optional<ExpertKernel> expert_kernel_of(std::string_view name);
constexpr bool is_triton(ExpertKernel kernel) { return kernel >= ExpertKernel::kTritonM16; }
// Tokens of an expert in a tile of Triton's; 0 for the others.
constexpr int triton_tile_tokens(ExpertKernel kernel) {
  constexpr std::array<int, kExpertKernels> kTokens = {0, 0, 16, 64, 128};
  return kTokens[static_cast<size_t>(kernel)];
}

// A layer's experts in one pass.
struct ExpertWork {
  int64_t tokens = 0;
  int k = 0;
  int instances = 0;  // that the layout has: more than the experts where it has several of some
  bool bf16 = false, int8 = false, int4 = false, fp8 = false;  // precisions that some instance has
  double tokens_an_instance() const { return static_cast<double>(tokens * k) / instances; }
};

// A set of kernels that can run: a bit each.
class ExpertKernelSet {
 public:
  void add(ExpertKernel kernel) { bits_ |= bit(kernel); }
  void remove(ExpertKernel kernel) { bits_ &= ~bit(kernel); }
  bool has(ExpertKernel kernel) const { return (bits_ & bit(kernel)) != 0; }
  bool empty() const { return bits_ == 0; }

 private:
  static uint32_t bit(ExpertKernel kernel) { return 1u << static_cast<uint32_t>(kernel); }
  uint32_t bits_ = 0;
};

// Chooses before a pass, and before a decode step is captured: from what is known then. A change of
// mind costs a capture.
class ExpertKernelChooser {
 public:
  virtual ~ExpertKernelChooser() = default;
  // One of `able`, which is not empty.
  virtual ExpertKernel choose(const ExpertWork& work, const ExpertKernelSet& able) const = 0;
};

// By tokens an instance alone: what was measured on an H100 (docs/gpu-kernels.md).
class ThresholdChooser : public ExpertKernelChooser {
 public:
  // Tokens an instance from which on the prefill kernel is the faster.
  static constexpr int kManyTokens = 24;
  ExpertKernel choose(const ExpertWork& work, const ExpertKernelSet& able) const override;
};

// Always Triton's, in tiles of about as many tokens as an instance has.
class TritonChooser : public ExpertKernelChooser {
 public:
  // InvalidArgument where Triton's can't run: the build or the device has none, or fp8 is asked
  // for.
  ExpertKernel choose(const ExpertWork& work, const ExpertKernelSet& able) const override;
};

}  // namespace thermoe
