// What happens to each token of a transformer between the products: embedding, RMS norm, RoPE and
// the way into the cache, and the choice of the next token. f32 residuals, bf16 operands.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/cuda/attention.h"

namespace thermoe::cuda {

// x [rows, hidden] = embeddings [vocabulary, hidden] of tokens [rows], which must be in range.
cudaError_t embed(const __nv_bfloat16* embeddings, const int32_t* tokens, int rows, int hidden,
                  float* x, cudaStream_t stream);

struct NormArguments {
  int rows = 0, hidden = 0;              // hidden even; a multiple of 32 where there is fragments
  float* x = nullptr;                    // [N, hidden] residuals, updated by what is added
  const int32_t* from = nullptr;         // [rows] which rows of x; null: 0 .. rows - 1
  const __nv_bfloat16* added = nullptr;  // [N, hidden] added to x first; null: nothing
  const float* bias = nullptr;           // [hidden] likewise
  const float* weight = nullptr;         // [hidden]
  float eps = 1e-6f;
  __nv_bfloat16* normed = nullptr;     // [rows, hidden]
  __nv_bfloat16* fragments = nullptr;  // the same in fragment order (decode_experts.h); may be null
};
// normed = x / sqrt(mean(x^2) + eps) * weight.
cudaError_t rms_norm(const NormArguments& arguments, cudaStream_t stream);

enum class HeadNorm : int32_t { kNone, kPerHead, kWholeProjection };

// From the projections to queries and to the cache: biases, norms, clamp, rotation by the position.
struct ProjectionArguments {
  int rows = 0, heads = 0;
  const __nv_bfloat16* projected = nullptr;  // [rows, (heads + 2 kv_heads) * head_dim]: q, k, v
  const float* bias = nullptr;               // as wide; null: none
  HeadNorm norm = HeadNorm::kNone;
  const float *q_norm = nullptr, *k_norm = nullptr;  // [head_dim], or of the whole projection
  float eps = 1e-6f;
  float clip = 0;                      // clamp to [-clip, clip] after the norm; 0: none
  const float* frequencies = nullptr;  // [head_dim / 2] radians a position
  const int32_t* sequences = nullptr;  // [rows]
  const int32_t* positions = nullptr;  // [rows]
  __nv_bfloat16* queries = nullptr;    // [rows, heads, head_dim], fragment order
  CacheView cache;                     // its head_dim is everybody's
};
cudaError_t finish_projections(const ProjectionArguments& arguments, cudaStream_t stream);

// The next token of each row of logits [rows, vocabulary]: the likeliest (the lowest id of equals),
// or at a temperature > 0 drawn by a random number that depends on seed, round, row and the
// position of the token alone.
struct SampleArguments {
  int rows = 0, vocabulary = 0;
  const float* logits = nullptr;
  float temperature = 0;
  uint64_t seed = 0;
  const int32_t* round = nullptr;      // [1] read on the device
  const int32_t* positions = nullptr;  // [rows] of the row: its next token stands one further
  int32_t* tokens = nullptr;           // [rows]
};
cudaError_t sample(const SampleArguments& arguments, cudaStream_t stream);

// After a decode step: log[step[0] * rows + r] = tokens[r], positions[r] += 1, step[0] += 1.
cudaError_t advance_step(const int32_t* tokens, int rows, int32_t* positions, int32_t* step,
                         int32_t* log, cudaStream_t stream);

}  // namespace thermoe::cuda
