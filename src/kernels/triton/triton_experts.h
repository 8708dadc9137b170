// A layer's experts by Triton's kernels, with the arguments of the CUDA ones: a launch of gate_up
// and one of down for each precision in the plan, and one that combines. Only for files that are
// compiled with the CUDA code.
#pragma once

#include <array>
#include <map>

#include "kernels/cuda/decode_experts.h"
#include "kernels/triton/launcher.h"

namespace thermoe::triton {

// The precisions of a plan's instances, which each take launches of their own.
struct TritonForms {
  bool bf16 = false, int8 = false, int4 = false;
};

// The kernels for one device, loaded.
class TritonExperts {
 public:
  // Whether `set` has the kernels for tiles of `tile_tokens` on the device.
  static bool available(const KernelSet& set, int tile_tokens, int device_arch);

  // For the current device. Loads all that it has for tiles of these sizes. Throws as find_kernel()
  // and LoadedKernel.
  TritonExperts(const KernelSet& set, std::span<const int> tile_tokens);

  // As cuda::decode_experts(), in tiles of so many tokens of an expert, which have to be loaded.
  // The workspace is that of decode_experts(), whose counters stay as they are. Rounds inner and
  // what is combined to bf16. Deterministic. cudaErrorNotSupported for a tile that is not loaded.
  cudaError_t run(const cuda::DecodeExpertsArguments& arguments, TritonForms forms, int tile_tokens,
                  cudaStream_t stream) const;

 private:
  struct Pair {  // the kernels of a form
    const CompiledKernel* compiled_up = nullptr;
    const CompiledKernel* compiled_down = nullptr;
    LoadedKernel up, down;
  };
  using Tile = std::array<Pair, 3>;  // bf16, int8, int4
  cudaError_t run_form(const Pair& pair, const cuda::DecodeExpertsArguments& arguments,
                       cudaStream_t stream) const;
  cudaError_t combine(const cuda::DecodeExpertsArguments& arguments, cudaStream_t stream) const;

  std::map<int, Tile> tiles_;
  const CompiledKernel* compiled_combine_ = nullptr;
  LoadedKernel combine_;
};

}  // namespace thermoe::triton
