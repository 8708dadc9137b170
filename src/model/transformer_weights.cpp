#include "model/transformer_weights.h"

#include <fmt/format.h>

#include <cmath>
#include <string>

#include "model/nested_weights.h"
#include "model/tensor_names.h"
#include "thermoe/error.h"

namespace thermoe {
namespace {

class Binder {
 public:
  explicit Binder(const Checkpoint& checkpoint)
      : checkpoint_(checkpoint), config_(checkpoint.config()) {}

  AttentionWeights attention(const std::string& layer) const {
    const int64_t q_size = config_.heads * config_.head_dim;
    const int64_t kv_size = config_.kv_heads * config_.head_dim;
    const std::string at = layer + "self_attn.";
    AttentionWeights w;
    w.q = weight(at + "q_proj", q_size, config_.hidden_size);
    w.k = weight(at + "k_proj", kv_size, config_.hidden_size);
    w.v = weight(at + "v_proj", kv_size, config_.hidden_size);
    w.o = weight(at + "o_proj", config_.hidden_size, q_size);
    // One packing of the activations serves all three.
    same_dtype(at + "k_proj", w.q, w.k);
    same_dtype(at + "v_proj", w.q, w.v);
    if (config_.attention_bias) {
      w.q_bias = checkpoint_.vector(at + "q_proj.bias", q_size);
      w.k_bias = checkpoint_.vector(at + "k_proj.bias", kv_size);
      w.v_bias = checkpoint_.vector(at + "v_proj.bias", kv_size);
      w.o_bias = checkpoint_.vector(at + "o_proj.bias", config_.hidden_size);
    }
    if (config_.qk_norm != QkNorm::kNone) {
      const bool per_head = config_.qk_norm == QkNorm::kPerHead;
      w.q_norm = checkpoint_.vector(at + "q_norm.weight", per_head ? config_.head_dim : q_size);
      w.k_norm = checkpoint_.vector(at + "k_norm.weight", per_head ? config_.head_dim : kv_size);
    }
    return w;
  }

  SimpleExpert expert(const std::string& at, const ExpertNames& names, int64_t inter) const {
    const WeightView gate = weight(at + names.gate, inter, config_.hidden_size);
    const WeightView up = weight(at + names.up, inter, config_.hidden_size);
    const WeightView down = weight(at + names.down, config_.hidden_size, inter);
    same_dtype(at + names.up, gate, up);
    same_dtype(at + names.down, gate, down);
    return SimpleExpert(gate, up, down);
  }

  MoeLayer moe(int number, const std::shared_ptr<MoeWorkspace>& workspace) const {
    const ExpertNames names = expert_names(config_.family);
    const std::string at = moe_prefix(config_, number);
    std::vector<ExpertWeights> experts;
    experts.reserve(static_cast<size_t>(config_.experts));
    const SimpleExpert* first = nullptr;
    for (int e = 0; e < config_.experts; ++e) {
      if (holds_nested_expert(checkpoint_, number, e)) {
        experts.push_back({std::nullopt, bind_nested_expert(checkpoint_, number, e)});
        continue;
      }
      const std::string expert_at = expert_prefix(config_, number, e);
      experts.push_back({expert(expert_at, names, config_.expert_inter_size), std::nullopt});
      if (first == nullptr) first = &*experts.back().stored;
      same_dtype(expert_at + names.gate, first->gate(), experts.back().stored->gate());
    }
    const MoeSettings settings{config_.top_k, config_.renormalize_top_k, number};
    return MoeLayer(weight(at + "gate", config_.experts, config_.hidden_size), std::move(experts),
                    settings, workspace);
  }

  // `name` without its ".weight".
  WeightView weight(const std::string& name, int64_t rows, int64_t cols) const {
    return checkpoint_.weight(name + ".weight", rows, cols);
  }

 private:
  void same_dtype(const std::string& name, const WeightView& first, const WeightView& other) const {
    if (first.dtype != other.dtype)
      throw IoError(checkpoint_.directory().string(),
                    fmt::format("{}.weight is {} but its peers are {}: save the model in one dtype",
                                name, name_of(other.dtype), name_of(first.dtype)));
  }

  const Checkpoint& checkpoint_;
  const ModelConfig& config_;
};

}  // namespace

std::vector<float> rope_frequencies(const ModelConfig& config) {
  std::vector<float> frequencies;
  for (int64_t i = 0; i < config.head_dim / 2; ++i)
    frequencies.push_back(static_cast<float>(
        1.0 / std::pow(config.rope_theta,
                       2.0 * static_cast<double>(i) / static_cast<double>(config.head_dim))));
  return frequencies;
}

TransformerWeights bind_weights(const Checkpoint& checkpoint,
                                const std::shared_ptr<MoeWorkspace>& workspace) {
  const ModelConfig& config = checkpoint.config();
  const Binder binder(checkpoint);
  TransformerWeights weights;
  weights.embeddings = binder.weight("model.embed_tokens", config.vocab_size, config.hidden_size);
  weights.head = config.tied_embeddings
                     ? weights.embeddings
                     : binder.weight("lm_head", config.vocab_size, config.hidden_size);
  weights.final_norm = checkpoint.vector("model.norm.weight", config.hidden_size);
  for (int number = 0; number < config.layers; ++number) {
    const std::string at = fmt::format("model.layers.{}.", number);
    LayerWeights layer;
    layer.attention_norm = checkpoint.vector(at + "input_layernorm.weight", config.hidden_size);
    layer.ffn_norm = checkpoint.vector(at + "post_attention_layernorm.weight", config.hidden_size);
    layer.attention = binder.attention(at);
    if (config.sparse[static_cast<size_t>(number)]) {
      layer.moe.emplace(binder.moe(number, workspace));
      layer.variants = read_variants(checkpoint, number, *layer.moe);
    } else
      layer.dense.push_back(binder.expert(at + "mlp.", kDenseNames, config.inter_size));
    weights.layers.push_back(std::move(layer));
  }
  return weights;
}

}  // namespace thermoe
