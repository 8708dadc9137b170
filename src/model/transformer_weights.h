// The tensors of a checkpoint by their part in the model, checked for shape.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "thermoe/checkpoint.h"
#include "thermoe/expert_variants.h"
#include "thermoe/moe_layer.h"

namespace thermoe {

// Empty vectors are parts that the family or configuration doesn't have.
struct AttentionWeights {
  WeightView q, k, v, o;
  std::vector<float> q_bias, k_bias, v_bias, o_bias;
  std::vector<float> q_norm, k_norm;
};

struct LayerWeights {
  std::vector<float> attention_norm, ffn_norm;
  AttentionWeights attention;
  std::optional<MoeLayer> moe;      // exactly one of the two
  LayerVariants variants;           // of moe's experts
  std::vector<SimpleExpert> dense;  // one, for a dense feed-forward layer
};

struct TransformerWeights {
  WeightView embeddings, head;
  std::vector<float> final_norm;
  std::vector<LayerWeights> layers;
};

// Throws IoError naming the tensor that is missing, misshapen or of another dtype than its peers.
TransformerWeights bind_weights(const Checkpoint& checkpoint,
                                const std::shared_ptr<MoeWorkspace>& workspace);

// [head_dim / 2] radians a position: theta^(-2i / head_dim).
std::vector<float> rope_frequencies(const ModelConfig& config);

}  // namespace thermoe
