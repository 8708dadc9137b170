#include "kernels/triton/triton_experts.h"

#include <fmt/format.h>

#include <algorithm>

#include "thermoe/error.h"

namespace thermoe::triton {
namespace {

constexpr std::array<const char*, 3> kForms = {"bf16", "int8", "int4"};
// experts.py: experts, x, offsets, packed, inner, pairs, k, hidden, inter, instances
constexpr const char* kUpParameters = "pppppiiiii";
// experts, inner, offsets, packed, part, pairs, hidden, inter, instances
constexpr const char* kDownParameters = "pppppiiii";
// part, plan_instances, plan_weights, out, k, hidden
constexpr const char* kCombineParameters = "ppppii";

// Nested planes have no larger tiles (specialisations.py).
constexpr int kMostNestedTile = 64;

std::string kernel_name(const char* which, size_t form, int tile_tokens) {
  const int tokens = form == 0 ? tile_tokens : std::min(tile_tokens, kMostNestedTile);
  return fmt::format("{}_{}_{}", which, kForms[form], tokens);
}

// Behind the decode kernel's counters, which it wants left at zero.
struct Buffers {
  void* inner;
  void* part;
};
Buffers buffers_of(const cuda::DecodeExpertsArguments& a) {
  constexpr size_t kCounterBytes = (64 + 2 * cuda::kMostInstances) * sizeof(int);
  constexpr size_t kAlignment = 256;
  const size_t pairs = static_cast<size_t>(a.tokens) * static_cast<size_t>(a.k);
  const size_t inner_bytes =
      (pairs * static_cast<size_t>(a.inter) * 2 + kAlignment - 1) / kAlignment * kAlignment;
  return {a.workspace + kCounterBytes, a.workspace + kCounterBytes + inner_bytes};
}

// grid_programs() of experts.py.
unsigned programs(int pairs, int instances, int units, const CompiledKernel& kernel) {
  const int rows = kernel.constant("BLOCK_M"), columns = kernel.constant("UNITS");
  return static_cast<unsigned>(std::min(pairs, instances + pairs / rows)) *
         static_cast<unsigned>((units + columns - 1) / columns);
}

bool valid(const cuda::DecodeExpertsArguments& a) {
  constexpr int kGroup = 32;
  return a.tokens > 0 && a.k > 0 && a.hidden > 0 && a.inter > 0 && a.hidden % kGroup == 0 &&
         a.inter % kGroup == 0 && a.instances > 0 && a.instances <= cuda::kMostInstances &&
         int64_t{a.tokens} * a.k < (int64_t{1} << 31) / std::max(a.hidden, a.inter);
}

}  // namespace

bool TritonExperts::available(const KernelSet& set, int tile_tokens, int device_arch) {
  try {
    for (size_t form = 0; form < kForms.size(); ++form) {
      find_kernel(set, kernel_name("gate_up", form, tile_tokens), device_arch, kUpParameters);
      find_kernel(set, kernel_name("down", form, tile_tokens), device_arch, kDownParameters);
    }
    find_kernel(set, "combine", device_arch, kCombineParameters);
  } catch (const InvalidArgument&) {
    return false;
  }
  return true;
}

TritonExperts::TritonExperts(const KernelSet& set, std::span<const int> tile_tokens) {
  const int device = current_device(), arch = device_arch(device);
  for (const int tokens : tile_tokens) {
    Tile& tile = tiles_[tokens];
    for (size_t form = 0; form < kForms.size(); ++form) {
      Pair& pair = tile[form];
      pair.compiled_up =
          &find_kernel(set, kernel_name("gate_up", form, tokens), arch, kUpParameters);
      pair.compiled_down =
          &find_kernel(set, kernel_name("down", form, tokens), arch, kDownParameters);
      pair.up = LoadedKernel(*pair.compiled_up, device);
      pair.down = LoadedKernel(*pair.compiled_down, device);
    }
  }
  compiled_combine_ = &find_kernel(set, "combine", arch, kCombineParameters);
  combine_ = LoadedKernel(*compiled_combine_, device);
}

cudaError_t TritonExperts::run_form(const Pair& pair, const cuda::DecodeExpertsArguments& a,
                                    cudaStream_t stream) const {
  const Buffers buffers = buffers_of(a);
  int pairs = a.tokens * a.k, k = a.k, hidden = a.hidden, inter = a.inter, instances = a.instances;
  const void* experts = a.experts;
  const void* x = a.x;
  const void* offsets = a.offsets;
  const void* packed = a.packed;
  void* inner = buffers.inner;
  void* part = buffers.part;
  void* const up[] = {&experts, &x, &offsets, &packed, &inner,
                      &pairs,   &k, &hidden,  &inter,  &instances};
  cudaError_t status =
      pair.up.launch({programs(pairs, instances, inter, *pair.compiled_up)}, up, stream);
  if (status != cudaSuccess) return status;
  void* const down[] = {&experts, &inner,  &offsets, &packed,   &part,
                        &pairs,   &hidden, &inter,   &instances};
  return pair.down.launch({programs(pairs, instances, hidden / 2, *pair.compiled_down)}, down,
                          stream);
}

cudaError_t TritonExperts::combine(const cuda::DecodeExpertsArguments& a,
                                   cudaStream_t stream) const {
  void* part = buffers_of(a).part;
  const void* plan_instances = a.plan_instances;
  const void* plan_weights = a.plan_weights;
  void* out = a.out;
  int k = a.k, hidden = a.hidden;
  void* const arguments[] = {&part, &plan_instances, &plan_weights, &out, &k, &hidden};
  const int columns = compiled_combine_->constant("COLUMNS");
  return combine_.launch(
      {static_cast<unsigned>(a.tokens), static_cast<unsigned>((hidden + columns - 1) / columns)},
      arguments, stream);
}

cudaError_t TritonExperts::run(const cuda::DecodeExpertsArguments& arguments, TritonForms forms,
                               int tile_tokens, cudaStream_t stream) const {
  if (!valid(arguments)) return cudaErrorInvalidValue;
  const auto tile = tiles_.find(tile_tokens);
  if (tile == tiles_.end()) return cudaErrorNotSupported;
  const std::array<bool, 3> wanted = {forms.bf16, forms.int8, forms.int4};
  for (size_t form = 0; form < wanted.size(); ++form) {
    if (!wanted[form]) continue;
    const cudaError_t status = run_form(tile->second[form], arguments, stream);
    if (status != cudaSuccess) return status;
  }
  return combine(arguments, stream);
}

}  // namespace thermoe::triton
