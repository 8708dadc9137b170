// The experts of one MoE layer for few tokens each, on a GPU: bf16 weights or nested planes, read
// once, from the plan's packed order to the weighted sum.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

namespace thermoe::cuda {

enum class ExpertForm : int32_t { kBf16, kInt8, kInt4, kFp8 };  // kFp8: prefill only

// A weight in device memory, in blocks of 512 bytes that are a warp's operands, 16 bytes a thread.
// int8, int4: the planes hi and lo and the scales of thermoe/nested_view.h; int4 reads no lo.
// bf16: `data` has rows 0 to 7 of each tile of 16 rows and `lo` rows 8 to 15, both [tiles, groups
// of 32 columns, 512], as pack_gate_up() and pack_down() write them: for the decode and the prefill
// kernel. Pointers aligned to 16 bytes.
struct DeviceWeight {
  const uint8_t* data = nullptr;
  const uint8_t* lo = nullptr;
  const uint8_t* scales = nullptr;
  float base = 1;
  float plane_ratio = 1;
};

// One instance of the plan: an expert in one precision.
struct DeviceExpert {
  ExpertForm form = ExpertForm::kBf16;
  DeviceWeight gate_up;  // nested: as in thermoe/quantized_expert.h
  DeviceWeight down;     // [hidden, inter]
};

// bf16 weights to the kernel's order. gate, up [inter, hidden]; down [hidden, inter]; dimensions
// multiples of 32; data and lo half of the weights' bytes each, apart from them. No value changes.
cudaError_t pack_gate_up(const __nv_bfloat16* gate, const __nv_bfloat16* up, int hidden, int inter,
                         uint8_t* data, uint8_t* lo, cudaStream_t stream);
cudaError_t pack_down(const __nv_bfloat16* down, int hidden, int inter, uint8_t* data, uint8_t* lo,
                      cudaStream_t stream);

// A layer's experts and one batch's plan (thermoe/routing_plan.h), all in device memory.
struct DecodeExpertsArguments {
  int tokens = 0, k = 0;
  int hidden = 0, inter = 0;                // multiples of 32
  int instances = 0;                        // 1 to kMostInstances
  const DeviceExpert* experts = nullptr;    // [I]
  const __nv_bfloat16* x = nullptr;         // [T, hidden] in fragment order, 16-byte aligned
  const int32_t* plan_instances = nullptr;  // [T, k], unused slots -1
  const float* plan_weights = nullptr;      // [T, k]
  const int32_t* offsets = nullptr;         // [I + 1]
  const int32_t* packed = nullptr;          // [offsets[I]] pairs token * k + slot
  __nv_bfloat16* out = nullptr;             // [T, hidden]: sum over slots, in their order, of
                                            // weight * expert(x), accumulated in f32
  std::byte* workspace = nullptr;           // decode_experts_workspace(), zeroed once; left so
};

constexpr int kMostInstances = 1024;

// Of each 32 values of x the order in which a thread of m16n8k16 reads them: 2t, 2t + 1, 2t + 8,
// 2t + 9, 2t + 16, 2t + 17, 2t + 24, 2t + 25 for t = 0 .. 3. `count`: of values, a multiple of 32.
cudaError_t to_fragment_order(const __nv_bfloat16* x, __nv_bfloat16* fragments, int64_t count,
                              cudaStream_t stream);

// Bytes for up to so many tokens.
size_t decode_experts_workspace(int tokens, int k, int hidden, int inter);

// One launch on `stream`, capturable: everything that the plan decides is read on the device. Made
// for up to about 16 tokens an expert; more are right, but read the weights again for each 16.
// Deterministic: no output bit depends on the order in which blocks run. Two launches that may run
// at once need a workspace each. Returns cudaErrorInvalidValue where a size is out of bounds.
cudaError_t decode_experts(const DecodeExpertsArguments& arguments, cudaStream_t stream);

}  // namespace thermoe::cuda
