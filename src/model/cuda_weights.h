// A model's weights in device memory, in the order in which the kernels read them.
#pragma once

#include <cuda_bf16.h>

#include <array>
#include <cstdint>
#include <vector>

#include "kernels/cuda/cuda_resources.h"
#include "kernels/cuda/decode_experts.h"
#include "model/transformer_weights.h"
#include "thermoe/checkpoint.h"

namespace thermoe {

using CudaBf16 = cuda::DeviceArray<__nv_bfloat16>;
using CudaFloats = cuda::DeviceArray<float>;

// Matrices lie at multiples of so many bytes, as by cudaMalloc.
constexpr int64_t kMatrixAlignment = 256;
constexpr int64_t matrix_bytes(int64_t bytes) {
  return (bytes + kMatrixAlignment - 1) / kMatrixAlignment * kMatrixAlignment;
}

struct CudaAttentionWeights {
  CudaBf16 qkv, o;  // [(heads + 2 kv_heads) head_dim, hidden]; [hidden, heads head_dim]
  CudaFloats qkv_bias, o_bias, q_norm, k_norm;  // empty where the model has none
};

// The feed-forward experts of a layer; a dense layer is one expert that every token takes.
struct CudaExperts {
  bool held(int expert, Precision precision) const {
    return forms[static_cast<size_t>(expert)][static_cast<size_t>(precision)].gate_up.data !=
           nullptr;
  }
  int inter = 0;
  std::vector<std::array<cuda::DeviceExpert, kPrecisions>> forms;  // [E]; data null: not held so
  cuda::DeviceBytes memory;
};

struct CudaLayerWeights {
  CudaFloats attention_norm, ffn_norm;
  CudaAttentionWeights attention;
  CudaBf16 gate;  // [E, hidden]; empty in a dense layer
  CudaExperts experts;
};

struct CudaWeights {
  CudaBf16 embeddings, own_head;       // own_head: empty where the head is the embeddings
  CudaFloats final_norm, frequencies;  // [head_dim / 2] radians a position
  std::vector<CudaLayerWeights> layers;

  const __nv_bfloat16* head() const {
    return own_head.size() > 0 ? own_head.data() : embeddings.data();
  }
};

// Throws InvalidArgument where the kernels can't run the model.
void check_cuda_model(const ModelConfig& config);

// Throws InvalidArgument where they don't fit, saying how much there is and is needed. `fp8`:
// stored experts of MoE layers in fp8, too.
CudaWeights upload_weights(const ModelConfig& config, const TransformerWeights& weights, bool fp8);

// Bytes of an expert in fp8, scales included, each matrix aligned.
int64_t fp8_expert_bytes(int64_t hidden, int64_t inter);
// Packs bf16 matrices [inter, hidden], [inter, hidden], [hidden, inter] in device memory to `to`,
// of fp8_expert_bytes().
cuda::DeviceExpert pack_fp8_expert(const __nv_bfloat16* gate, const __nv_bfloat16* up,
                                   const __nv_bfloat16* down, int hidden, int inter, uint8_t* to);

}  // namespace thermoe
