// The prefill kernel's smaller launches, before and after its products.
#pragma once

#include "kernels/cuda/prefill_experts.h"

namespace thermoe::cuda {

// x [tokens, hidden] to e4m3 [tokens, padded_128(hidden)], zeros at the end, and scales [tokens,
// padded_128(hidden) / 128]: amax / 448 of each 128 columns. `follows`: a kernel before it, on the
// same stream, lets it start early.
cudaError_t quantize_tokens_fp8(const __nv_bfloat16* x, int tokens, int hidden, uint8_t* quantized,
                                float* scales, bool follows, cudaStream_t stream);

// out[t] = sum over slots, in their order, of weight * part; part [T, k, hidden] bf16 in fragment
// order; NaN where an instance's form is not in `forms`.
cudaError_t combine_parts(const PrefillExpertsArguments& arguments, int forms, const uint8_t* part,
                          cudaStream_t stream);

}  // namespace thermoe::cuda
