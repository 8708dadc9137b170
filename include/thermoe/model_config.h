// The architecture of a published MoE language model, read from its config.json.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace thermoe {

enum class ModelFamily { kQwen3Moe, kOlmoe, kMixtral };
const char* name_of(ModelFamily family);

// quantization_config.quant_method of a checkpoint with nested planes (nested_view.h).
inline constexpr const char* kNestedQuantMethod = "thermoe-nested";

// Normalisation of queries and keys before RoPE: none, over each head, over the whole projection.
enum class QkNorm { kNone, kPerHead, kWholeProjection };

struct ModelConfig {
  ModelFamily family = ModelFamily::kQwen3Moe;
  int64_t vocab_size = 0, hidden_size = 0;
  int64_t inter_size = 0;  // of dense feed-forward layers
  int64_t expert_inter_size = 0;
  int layers = 0, heads = 0, kv_heads = 0;
  int64_t head_dim = 0;
  int experts = 0, top_k = 0;
  bool renormalize_top_k = true;
  bool attention_bias = false;  // q, k, v and o projections carry biases
  double clip_qkv = 0;          // OLMoE: clamp q, k, v to [-clip, clip]; 0: no clamp
  QkNorm qk_norm = QkNorm::kNone;
  double rms_norm_eps = 1e-6;
  double rope_theta = 10000.0;
  bool tied_embeddings = false;
  int64_t max_positions = 0;
  std::vector<bool> sparse;  // [layers] true: MoE, false: dense feed-forward; some are true
  int plane_ratio = 0;       // of experts that are stored as nested planes; 0: none are
  std::vector<int32_t> eos_token_ids;  // any of them ends a text; may be empty
};

// Reads <directory>/config.json (and generation_config.json's eos ids, which go first, where it
// exists), in the older and the newer spelling. An absent key has transformers' default for the
// family; eos ids outside the vocabulary are dropped. Throws IoError naming the file, the key and
// what is supported, for a missing or malformed file and for anything that is not implemented
// (other families, sliding windows, scaled RoPE, quantised formats, activations other than silu).
ModelConfig read_model_config(const std::filesystem::path& directory);

}  // namespace thermoe
