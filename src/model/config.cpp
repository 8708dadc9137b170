#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <limits>
#include <string_view>
#include <system_error>

#include "model/config_parser.h"
#include "model/config_reader.h"
#include "model/json_file.h"
#include "thermoe/error.h"
#include "thermoe/model_config.h"
#include "thermoe/nested_view.h"

namespace thermoe {
namespace {

using nlohmann::json;

// What transformers 5 assumes where config.json omits a key (models/*/configuration_*.py).
struct FamilyDefaults {
  ModelFamily family;
  const char* model_type;
  const char* architecture;
  const char* expert_inter_key;
  QkNorm qk_norm;
  int64_t vocab_size, hidden_size, inter_size, expert_inter_size;
  int64_t layers, heads, kv_heads;  // kv_heads 0: as many as heads
  int64_t experts, top_k;
  double rms_norm_eps, rope_theta;
  int64_t max_positions, eos;  // eos -1: none
};

constexpr std::array<FamilyDefaults, 3> kFamilies = {{
    {ModelFamily::kQwen3Moe, "qwen3_moe", "Qwen3MoeForCausalLM", "moe_intermediate_size",
     QkNorm::kPerHead, 151936, 2048, 6144, 768, 24, 32, 4, 128, 8, 1e-6, 1e4, 32768, -1},
    {ModelFamily::kOlmoe, "olmoe", "OlmoeForCausalLM", "intermediate_size",
     QkNorm::kWholeProjection, 50304, 2048, 2048, 2048, 16, 16, 0, 64, 8, 1e-5, 1e4, 4096, 50279},
    {ModelFamily::kMixtral, "mixtral", "MixtralForCausalLM", "intermediate_size", QkNorm::kNone,
     32000, 4096, 14336, 14336, 32, 32, 8, 8, 2, 1e-5, 1e6, 131072, 2},
}};

// Far above every published model, and low enough that products of two fit in 64 bits.
constexpr int64_t kMaxWidth = 1 << 24;
constexpr int64_t kMaxCount = 1 << 16;
constexpr int64_t kMaxInt32 = std::numeric_limits<int32_t>::max();

const FamilyDefaults& family_of(const ConfigReader& config) {
  std::string type = config.string("model_type", "");
  const json* architectures = config.find("architectures");
  if (architectures != nullptr && !architectures->is_array()) {
    config.refuse("architectures", "a list of names is expected");
  }
  for (const auto& defaults : kFamilies) {
    const bool named =
        architectures != nullptr && std::find(architectures->begin(), architectures->end(),
                                              json(defaults.architecture)) != architectures->end();
    if (type != defaults.model_type && !(type.empty() && named)) continue;
    if (architectures != nullptr && !architectures->empty() && !named) {
      config.refuse("architectures",
                    fmt::format("of {} models thermoe runs {}", type, defaults.architecture));
    }
    return defaults;
  }
  config.refuse("model_type", "thermoe runs qwen3_moe, olmoe and mixtral models");
}

constexpr const char* kUseDense =
    "of quantised checkpoints only those of thermoe quantize are supported; use the bf16, f16 or "
    "f32 one";

// Keys that change the computation in ways that are not implemented.
void refuse_unsupported(const ConfigReader& config, const FamilyDefaults& family) {
  if (config.string("hidden_act", "silu") != "silu") {
    config.refuse("hidden_act", "only silu is supported");
  }
  if (config.find("compression_config") != nullptr) {
    config.refuse("compression_config", kUseDense);
  }
  if (config.find("per_layer_config") != nullptr) {
    config.refuse("per_layer_config", "layers that differ from the model's are not supported");
  }
  if (family.family != ModelFamily::kQwen3Moe) {
    if (config.find("sliding_window") != nullptr) {
      config.refuse("sliding_window", "sliding-window attention is not supported");
    }
  } else if (config.boolean("use_sliding_window", false) && !config.holds_null("sliding_window")) {
    config.refuse("use_sliding_window", "sliding-window attention is not supported");
  }
  const json* layer_types = config.find("layer_types");
  if (layer_types != nullptr &&
      !(layer_types->is_array() &&
        std::all_of(layer_types->begin(), layer_types->end(),
                    [](const json& t) { return t == "full_attention"; }))) {
    config.refuse("layer_types", "only full_attention layers are supported");
  }
  if (family.family == ModelFamily::kMixtral && config.boolean("attention_bias", false)) {
    config.refuse("attention_bias", "mixtral models have no attention biases");
  }
}

// plane_ratio of a checkpoint that thermoe quantize wrote; 0 of one that isn't quantised.
int read_plane_ratio(const ConfigReader& config, const std::string& path) {
  const json* format = config.find("quantization_config");
  if (format == nullptr) return 0;
  if (!format->is_object()) config.refuse("quantization_config", kUseDense);
  const ConfigReader planes(*format, path, "quantization_config.");
  if (planes.string("quant_method", "") != kNestedQuantMethod) {
    planes.refuse("quant_method", kUseDense);
  }
  if (planes.integer("group_size", 0, 0, kMaxCount) != NestedView::kBlock) {
    planes.refuse("group_size", fmt::format("only {} is supported", NestedView::kBlock));
  }
  const int64_t ratio = planes.integer("plane_ratio", 0, 0, 16);
  if (ratio == 0) planes.refuse("plane_ratio", "a number from 1 to 16 is expected");
  return static_cast<int>(ratio);
}

void refuse_scaled_rope(const ConfigReader& rope, const char* key) {
  if (rope.find(key) != nullptr && rope.string(key, "") != "default") {
    rope.refuse(key, "scaled RoPE is not supported, only the default type");
  }
}

void refuse_partial_rotary(const ConfigReader& rope) {
  if (rope.number("partial_rotary_factor", 1.0) != 1.0) {
    rope.refuse("partial_rotary_factor", "only RoPE over whole heads (1.0) is supported");
  }
}

// Older files: rope_theta and rope_scaling; newer: both within rope_parameters.
double read_rope_theta(const ConfigReader& config, const json& object, const std::string& path,
                       double fallback) {
  double theta = config.positive("rope_theta", fallback);
  refuse_partial_rotary(config);
  for (const char* key : {"rope_parameters", "rope_scaling"}) {
    const json* value = config.find(key);
    if (value == nullptr) continue;
    if (!value->is_object()) config.refuse(key, "an object or null is expected");
    for (const auto& [name, inner] : value->items()) {
      if (inner.is_object()) config.refuse(key, "RoPE that differs by layer is not supported");
    }
    const ConfigReader rope(object.at(key), path, std::string(key) + ".");
    refuse_scaled_rope(rope, "rope_type");
    refuse_scaled_rope(rope, "type");
    refuse_partial_rotary(rope);
    theta = rope.positive("rope_theta", theta);
  }
  return theta;
}

void read_sizes(const ConfigReader& config, const FamilyDefaults& family, ModelConfig& out) {
  out.vocab_size = config.integer("vocab_size", family.vocab_size, 1, kMaxInt32);
  out.hidden_size = config.integer("hidden_size", family.hidden_size, 1, kMaxWidth);
  out.inter_size = config.integer("intermediate_size", family.inter_size, 1, kMaxWidth);
  out.expert_inter_size =
      config.integer(family.expert_inter_key, family.expert_inter_size, 1, kMaxWidth);
  out.layers = static_cast<int>(config.integer("num_hidden_layers", family.layers, 1, kMaxCount));
  out.max_positions = config.integer("max_position_embeddings", family.max_positions, 1, kMaxInt32);
}

void read_heads(const ConfigReader& config, const FamilyDefaults& family, ModelConfig& out) {
  out.heads = static_cast<int>(config.integer("num_attention_heads", family.heads, 1, kMaxCount));
  // Files older than grouped-query attention have null: one for each head.
  const bool as_heads = family.kv_heads == 0 || config.holds_null("num_key_value_heads");
  out.kv_heads = static_cast<int>(
      config.integer("num_key_value_heads", as_heads ? out.heads : family.kv_heads, 1, kMaxCount));
  if (out.heads % out.kv_heads != 0) {
    config.fail(fmt::format("num_key_value_heads is {}: it must divide num_attention_heads, {}",
                            out.kv_heads, out.heads));
  }
  if (config.find("head_dim") == nullptr && out.hidden_size % out.heads != 0) {
    config.fail(
        fmt::format("hidden_size is {}: without head_dim, num_attention_heads ({}) must "
                    "divide it",
                    out.hidden_size, out.heads));
  }
  out.head_dim = config.integer("head_dim", out.hidden_size / out.heads, 1, kMaxCount);
  if (out.head_dim % 2 != 0) {
    config.fail(fmt::format("head_dim is {}: RoPE needs an even one", out.head_dim));
  }
  // OLMoE's norm weights are sized by hidden_size.
  if (out.qk_norm == QkNorm::kWholeProjection && out.head_dim * out.heads != out.hidden_size) {
    config.fail(
        fmt::format("head_dim is {}: an olmoe model needs hidden_size / "
                    "num_attention_heads = {} / {}",
                    out.head_dim, out.hidden_size, out.heads));
  }
}

void read_experts(const ConfigReader& config, const FamilyDefaults& family, ModelConfig& out) {
  const int64_t older = config.integer("num_experts", -1, 1, kMaxCount);
  const int64_t newer = config.integer("num_local_experts", -1, 1, kMaxCount);
  if (older > 0 && newer > 0 && older != newer) {
    config.fail(fmt::format("num_experts is {} but num_local_experts {}: remove one of the two",
                            older, newer));
  }
  out.experts = static_cast<int>(newer > 0 ? newer : older > 0 ? older : family.experts);
  out.top_k = static_cast<int>(config.integer("num_experts_per_tok", family.top_k, 1, kMaxCount));
  if (out.top_k > out.experts) {
    config.fail(fmt::format("num_experts_per_tok is {}: there are only {} experts", out.top_k,
                            out.experts));
  }
  out.renormalize_top_k =
      family.family == ModelFamily::kMixtral || config.boolean("norm_topk_prob", false);
}

void read_sparse_layers(const ConfigReader& config, ModelConfig& out) {
  out.sparse.assign(static_cast<size_t>(out.layers), true);
  if (out.family != ModelFamily::kQwen3Moe) return;
  const int64_t step = config.integer("decoder_sparse_step", 1, 1, kMaxInt32);
  for (int layer = 0; layer < out.layers; ++layer) out.sparse[layer] = (layer + 1) % step == 0;
  if (const json* dense = config.find("mlp_only_layers")) {
    if (!dense->is_array()) config.refuse("mlp_only_layers", "a list of layer numbers is expected");
    for (const auto& entry : *dense) {
      int64_t layer = 0;
      if (!integer_in(entry, 0, out.layers - 1, layer)) {
        config.refuse("mlp_only_layers",
                      fmt::format("layer numbers from 0 to {} are expected", out.layers - 1));
      }
      out.sparse[static_cast<size_t>(layer)] = false;
    }
  }
  if (std::find(out.sparse.begin(), out.sparse.end(), true) == out.sparse.end()) {
    config.fail(
        "decoder_sparse_step and mlp_only_layers leave no layer with experts: thermoe runs "
        "mixture-of-experts models");
  }
}

// One id, a list, or nothing (`given` false). Ids outside the vocabulary can't occur: dropped.
std::vector<int32_t> read_eos(const ConfigReader& config, int64_t vocab_size, bool& given) {
  const json* value = config.find("eos_token_id");
  given = value != nullptr;
  if (!given) return {};
  std::vector<int32_t> out;
  const json list = value->is_array() ? *value : json::array({*value});
  for (const auto& entry : list) {
    int64_t id = 0;
    if (!entry.is_number_integer()) {
      config.refuse("eos_token_id", "an integer or a list of integers is expected");
    }
    if (integer_in(entry, 0, vocab_size - 1, id)) out.push_back(static_cast<int32_t>(id));
  }
  return out;
}

json parse_object(std::string_view text, const std::string& path) {
  json out = parse_json(text, path);
  if (!out.is_object()) throw IoError(path, "is not a JSON object: download it again");
  return out;
}

}  // namespace

const char* name_of(ModelFamily family) {
  for (const auto& defaults : kFamilies) {
    if (defaults.family == family) return defaults.model_type;
  }
  return "unknown";
}

ModelConfig parse_model_config(std::string_view text, const std::string& path,
                               std::string_view generation_text,
                               const std::string& generation_path) {
  const json object = parse_object(text, path);
  const ConfigReader config(object, path);
  const FamilyDefaults& family = family_of(config);
  refuse_unsupported(config, family);

  ModelConfig out;
  out.family = family.family;
  out.qk_norm = family.qk_norm;
  read_sizes(config, family, out);
  read_heads(config, family, out);
  read_experts(config, family, out);
  read_sparse_layers(config, out);
  out.attention_bias = config.boolean("attention_bias", false);
  if (out.family == ModelFamily::kOlmoe && config.find("clip_qkv") != nullptr) {
    out.clip_qkv = config.positive("clip_qkv", 0);
  }
  out.plane_ratio = read_plane_ratio(config, path);
  out.rms_norm_eps = config.positive("rms_norm_eps", family.rms_norm_eps);
  out.rope_theta = read_rope_theta(config, object, path, family.rope_theta);
  out.tied_embeddings = config.boolean("tie_word_embeddings", false);  // so in all three families

  bool given = false;
  if (!generation_text.empty()) {
    const json generation = parse_object(generation_text, generation_path);
    out.eos_token_ids = read_eos(ConfigReader(generation, generation_path), out.vocab_size, given);
  }
  if (!given) out.eos_token_ids = read_eos(config, out.vocab_size, given);
  if (!given && !config.holds_null("eos_token_id") && family.eos >= 0 &&
      family.eos < out.vocab_size) {
    out.eos_token_ids = {static_cast<int32_t>(family.eos)};
  }
  return out;
}

ModelConfig read_model_config(const std::filesystem::path& directory) {
  constexpr uint64_t kMaxConfigBytes = 16'000'000;  // published ones have a few kB
  std::error_code ignored;
  if (!std::filesystem::is_directory(directory, ignored)) {
    throw IoError(directory.string(),
                  "no such directory: name one that holds config.json, tokenizer.json and the "
                  "weights of a Hugging Face model");
  }
  const auto path = directory / "config.json";
  const auto generation = directory / "generation_config.json";
  const std::string generation_text = std::filesystem::exists(generation, ignored)
                                          ? read_file(generation, kMaxConfigBytes)
                                          : std::string();
  return parse_model_config(read_file(path, kMaxConfigBytes), path.string(), generation_text,
                            generation.string());
}

}  // namespace thermoe
