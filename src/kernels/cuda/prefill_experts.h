// The experts of one MoE layer for many tokens each, on a GPU: two grouped products and the
// weighted sum, on Hopper's warpgroup products.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/decode_experts.h"

namespace thermoe::cuda {

// fp8: e4m3 with one f32 scale a row, amax / 448. `data` has rows 0 to 7 of each tile of 16 rows
// and `lo` rows 8 to 15, both [tiles, ceil(columns / 128), 8 rows, 128], columns in fragment order
// and each row's 16-byte vectors swizzled (v ^ row % 8), zeros past the columns; `scales` f32, a
// row each. gate_up: gate's rows in `data`, up's in `lo`, both filled up with zeros to a multiple
// of 128 units; scales in the order of tiles, 8 of gate and 8 of up. Aligned to 16 bytes.
__host__ __device__ constexpr int padded_128(int n) { return (n + 127) / 128 * 128; }

// bf16 weights to fp8. gate, up [inter, hidden]; data, lo padded_128(inter) * padded_128(hidden)
// bytes each; scales [2 padded_128(inter)].
cudaError_t pack_gate_up_fp8(const __nv_bfloat16* gate, const __nv_bfloat16* up, int hidden,
                             int inter, uint8_t* data, uint8_t* lo, float* scales,
                             cudaStream_t stream);
// down [hidden, inter]; data, lo hidden / 2 * padded_128(inter) bytes each; scales [hidden].
cudaError_t pack_down_fp8(const __nv_bfloat16* down, int hidden, int inter, uint8_t* data,
                          uint8_t* lo, float* scales, cudaStream_t stream);

// As for decode_experts(), but for tokens <= kMostPrefillTokens, k <= kMostPrefillSlots.
using PrefillExpertsArguments = DecodeExpertsArguments;
constexpr int kMostPrefillTokens = 16384, kMostPrefillSlots = 16;

// The forms that a plan's instances may have, each a pass of its own. A token that uses an instance
// of another form gets NaN.
enum class PrefillForms : int32_t { kBf16 = 1, kFp8 = 2, kBoth = 3 };

// Bytes for up to so many tokens; serves decode_experts(), too.
size_t prefill_experts_workspace(int tokens, int k, int hidden, int inter);

// Three launches a form or so on `stream`, capturable: everything that the plan decides is read on
// the device. Deterministic: no output bit depends on the order in which blocks run. Two that may
// run at once need a workspace each. bf16: inner and part are rounded to bf16. fp8: x and inner are
// quantised, 128 values of a token a scale. Where the device or the build has no sm_90a, bf16 goes
// to decode_experts() (which takes int8 and int4, too) and fp8 returns cudaErrorNotSupported.
// Returns cudaErrorInvalidValue where a size is out of bounds.
cudaError_t prefill_experts(const PrefillExpertsArguments& arguments, PrefillForms forms,
                            cudaStream_t stream);

}  // namespace thermoe::cuda
