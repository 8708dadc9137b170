// Random weights and router logits, made on the GPU, for timing models that aren't at hand.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <cstdint>

namespace thermoe::cuda {

// About normal values (a sum of four uniform ones) of that standard deviation. Pointers aligned to
// 4 bytes, count even.
cudaError_t fill_random(__nv_bfloat16* values, int64_t count, float deviation, uint32_t seed,
                        cudaStream_t stream);
// Every byte of [low, high], uniform.
cudaError_t fill_random_bytes(uint8_t* values, int64_t count, int low, int high, uint32_t seed,
                              cudaStream_t stream);

// Router logits of tokens that ran through another model.
struct RecordedLogits {
  const float* table = nullptr;  // [layers, rows, experts]
  int layers = 0, rows = 0, experts = 0;
};
// logits [rows, experts]: each row of one recorded row of layer `layer` modulo those recorded, or,
// where there are more experts than recorded, of several side by side; which, the token and its
// position decide.
cudaError_t draw_logits(const RecordedLogits& recorded, int layer, const int32_t* tokens,
                        const int32_t* positions, int rows, int experts, float* logits,
                        cudaStream_t stream);

}  // namespace thermoe::cuda
