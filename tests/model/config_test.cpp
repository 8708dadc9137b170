#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "model/config_parser.h"
#include "model_files.h"
#include "thermoe/model_config.h"

namespace thermoe {
namespace {

using nlohmann::json;
using test::io_error_of;

ModelConfig parse(const json& config) { return parse_model_config(config.dump(), "config.json"); }

json with(json config, const json& changes) {
  config.update(changes);
  return config;
}

// Qwen3-30B-A3B's published file, in the older spelling.
json qwen3() {
  return json::parse(R"({
    "architectures": ["Qwen3MoeForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
    "bos_token_id": 151643, "decoder_sparse_step": 1, "eos_token_id": 151645, "head_dim": 128,
    "hidden_act": "silu", "hidden_size": 2048, "initializer_range": 0.02,
    "intermediate_size": 6144, "max_position_embeddings": 40960, "max_window_layers": 48,
    "mlp_only_layers": [], "model_type": "qwen3_moe", "moe_intermediate_size": 768,
    "norm_topk_prob": true, "num_attention_heads": 32, "num_experts": 128,
    "num_experts_per_tok": 8, "num_hidden_layers": 48, "num_key_value_heads": 4,
    "output_router_logits": false, "rms_norm_eps": 1e-06, "rope_scaling": null,
    "rope_theta": 1000000.0, "router_aux_loss_coef": 0.001, "sliding_window": null,
    "tie_word_embeddings": false, "torch_dtype": "bfloat16", "use_cache": true,
    "use_sliding_window": false, "vocab_size": 151936})");
}

// OLMoE-1B-7B-0924's.
json olmoe() {
  return json::parse(R"({
    "architectures": ["OlmoeForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
    "clip_qkv": null, "eos_token_id": 50279, "hidden_act": "silu", "hidden_size": 2048,
    "intermediate_size": 1024, "max_position_embeddings": 4096, "model_type": "olmoe",
    "norm_topk_prob": false, "num_attention_heads": 16, "num_experts": 64,
    "num_experts_per_tok": 8, "num_hidden_layers": 16, "num_key_value_heads": 16,
    "pad_token_id": 1, "rope_scaling": null, "rope_theta": 10000.0,
    "tie_word_embeddings": false, "torch_dtype": "bfloat16", "vocab_size": 50304})");
}

// Mixtral-8x7B-v0.1's.
json mixtral() {
  return json::parse(R"({
    "architectures": ["MixtralForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 1,
    "eos_token_id": 2, "hidden_act": "silu", "hidden_size": 4096, "intermediate_size": 14336,
    "max_position_embeddings": 32768, "model_type": "mixtral", "num_attention_heads": 32,
    "num_experts_per_tok": 2, "num_hidden_layers": 32, "num_key_value_heads": 8,
    "num_local_experts": 8, "output_router_logits": false, "rms_norm_eps": 1e-05,
    "rope_theta": 1000000.0, "router_aux_loss_coef": 0.02, "sliding_window": null,
    "tie_word_embeddings": false, "torch_dtype": "bfloat16", "vocab_size": 32000})");
}

void expect_refusal(const json& config, const std::string& part) {
  const std::string error = io_error_of([&] { parse(config); });
  EXPECT_EQ(error.rfind("config.json: ", 0), 0u) << error;
  EXPECT_NE(error.find(part), std::string::npos) << error;
}

TEST(ModelConfig, ReadsQwen3Moe) {
  const ModelConfig c = parse(qwen3());
  EXPECT_EQ(c.family, ModelFamily::kQwen3Moe);
  EXPECT_STREQ(name_of(c.family), "qwen3_moe");
  EXPECT_EQ(c.vocab_size, 151936);
  EXPECT_EQ(c.hidden_size, 2048);
  EXPECT_EQ(c.inter_size, 6144);
  EXPECT_EQ(c.expert_inter_size, 768);
  EXPECT_EQ(c.layers, 48);
  EXPECT_EQ(c.heads, 32);
  EXPECT_EQ(c.kv_heads, 4);
  EXPECT_EQ(c.head_dim, 128);
  EXPECT_EQ(c.experts, 128);
  EXPECT_EQ(c.top_k, 8);
  EXPECT_TRUE(c.renormalize_top_k);
  EXPECT_FALSE(c.attention_bias);
  EXPECT_EQ(c.clip_qkv, 0);
  EXPECT_EQ(c.qk_norm, QkNorm::kPerHead);
  EXPECT_EQ(c.rms_norm_eps, 1e-6);
  EXPECT_EQ(c.rope_theta, 1e6);
  EXPECT_FALSE(c.tied_embeddings);
  EXPECT_EQ(c.max_positions, 40960);
  EXPECT_EQ(c.sparse, std::vector<bool>(48, true));
  EXPECT_EQ(c.eos_token_ids, std::vector<int32_t>{151645});
}

TEST(ModelConfig, ReadsOlmoe) {
  const ModelConfig c = parse(olmoe());
  EXPECT_EQ(c.family, ModelFamily::kOlmoe);
  EXPECT_EQ(c.expert_inter_size, 1024);
  EXPECT_EQ(c.head_dim, 128);
  EXPECT_EQ(c.experts, 64);
  EXPECT_FALSE(c.renormalize_top_k);
  EXPECT_EQ(c.qk_norm, QkNorm::kWholeProjection);
  EXPECT_EQ(c.rms_norm_eps, 1e-5);  // absent from the file
  EXPECT_EQ(c.clip_qkv, 0);
  EXPECT_EQ(parse(with(olmoe(), {{"clip_qkv", 8.5}})).clip_qkv, 8.5);
  EXPECT_TRUE(parse(with(olmoe(), {{"attention_bias", true}})).attention_bias);
}

TEST(ModelConfig, ReadsMixtral) {
  const ModelConfig c = parse(mixtral());
  EXPECT_EQ(c.family, ModelFamily::kMixtral);
  EXPECT_EQ(c.expert_inter_size, 14336);
  EXPECT_EQ(c.head_dim, 128);
  EXPECT_EQ(c.kv_heads, 8);
  EXPECT_EQ(c.experts, 8);
  EXPECT_TRUE(c.renormalize_top_k);
  EXPECT_EQ(c.qk_norm, QkNorm::kNone);
  EXPECT_EQ(c.eos_token_ids, std::vector<int32_t>{2});
  // Mixtral always normalises, whatever its file says.
  EXPECT_TRUE(parse(with(mixtral(), {{"norm_topk_prob", false}})).renormalize_top_k);
}

TEST(ModelConfig, TakesTheNewerSpelling) {
  json newer = qwen3();
  newer.erase("num_experts");
  newer.erase("rope_theta");
  newer.erase("rope_scaling");
  newer.erase("torch_dtype");
  newer.update({{"num_local_experts", 128},
                {"dtype", "bfloat16"},
                {"rope_parameters", {{"rope_theta", 1e6}, {"rope_type", "default"}}}});
  const ModelConfig c = parse(newer);
  EXPECT_EQ(c.experts, 128);
  EXPECT_EQ(c.rope_theta, 1e6);
  // What stands in rope_parameters counts before a rope_theta beside it.
  EXPECT_EQ(parse(with(newer, {{"rope_theta", 5.0}})).rope_theta, 1e6);
  EXPECT_EQ(
      parse(with(newer, {{"rope_theta", 5.0}, {"rope_parameters", json::object()}})).rope_theta,
      5.0);
  expect_refusal(with(newer, {{"num_experts", 64}}), "num_experts is 64 but num_local_experts 128");
}

// Values: transformers' configuration classes with no arguments.
TEST(ModelConfig, AppliesTransformersDefaults) {
  const ModelConfig q = parse({{"model_type", "qwen3_moe"}});
  EXPECT_EQ(q.vocab_size, 151936);
  EXPECT_EQ(q.layers, 24);
  EXPECT_EQ(q.kv_heads, 4);
  EXPECT_EQ(q.head_dim, 64);
  EXPECT_EQ(q.experts, 128);
  EXPECT_FALSE(q.renormalize_top_k);
  EXPECT_EQ(q.rope_theta, 1e4);
  EXPECT_FALSE(q.tied_embeddings);
  EXPECT_TRUE(q.eos_token_ids.empty());
  const ModelConfig o = parse({{"model_type", "olmoe"}});
  EXPECT_EQ(o.kv_heads, 16);
  EXPECT_EQ(o.rope_theta, 1e4);
  EXPECT_EQ(o.eos_token_ids, std::vector<int32_t>{50279});
  const ModelConfig m = parse({{"architectures", {"MixtralForCausalLM"}}});
  EXPECT_EQ(m.rope_theta, 1e6);
  EXPECT_EQ(m.kv_heads, 8);
  EXPECT_EQ(m.max_positions, 131072);
  EXPECT_EQ(m.rms_norm_eps, 1e-5);
  EXPECT_EQ(parse(with(mixtral(), {{"num_key_value_heads", nullptr}})).kv_heads, 32);
  EXPECT_EQ(parse(with(mixtral(), {{"head_dim", nullptr}})).head_dim, 128);
}

TEST(ModelConfig, FindsTheDenseLayers) {
  const json six = with(qwen3(), {{"num_hidden_layers", 6}});
  EXPECT_EQ(parse(with(six, {{"decoder_sparse_step", 2}})).sparse,
            (std::vector<bool>{false, true, false, true, false, true}));
  EXPECT_EQ(parse(with(six, {{"decoder_sparse_step", 2}, {"mlp_only_layers", {0, 3}}})).sparse,
            (std::vector<bool>{false, true, false, false, false, true}));
  EXPECT_EQ(parse(with(six, {{"mlp_only_layers", nullptr}})).sparse, std::vector<bool>(6, true));
  expect_refusal(with(six, {{"decoder_sparse_step", 7}}), "leave no layer with experts");
  expect_refusal(with(six, {{"decoder_sparse_step", 0}}), "decoder_sparse_step is 0");
  expect_refusal(with(six, {{"mlp_only_layers", {6}}}), "mlp_only_layers is [6]");
  expect_refusal(with(six, {{"mlp_only_layers", "all"}}), "mlp_only_layers is \"all\"");
}

TEST(ModelConfig, ReadsEndOfTextIds) {
  const auto eos = [](const json& config, const std::string& generation) {
    return parse_model_config(config.dump(), "c", generation, "g").eos_token_ids;
  };
  EXPECT_EQ(eos(qwen3(), R"({"eos_token_id": [151645, 151643]})"),
            (std::vector<int32_t>{151645, 151643}));
  EXPECT_EQ(eos(qwen3(), R"({"temperature": 0.6})"), std::vector<int32_t>{151645});
  EXPECT_EQ(eos(with(qwen3(), {{"eos_token_id", {7, 8}}}), ""), (std::vector<int32_t>{7, 8}));
  EXPECT_EQ(eos(with(qwen3(), {{"eos_token_id", nullptr}}), ""), std::vector<int32_t>{});
  EXPECT_EQ(eos(with(qwen3(), {{"eos_token_id", {-1, 151936, 3}}}), ""), std::vector<int32_t>{3});
  EXPECT_NE(io_error_of([&] {
              eos(qwen3(), R"({"eos_token_id": "end"})");
            }).find("g: eos_token_id is \"end\""),
            std::string::npos);
}

TEST(ModelConfig, RefusesByNameWhatIsNotSupported) {
  expect_refusal(with(qwen3(), {{"model_type", "llama"}}), "model_type is \"llama\"");
  expect_refusal({{"vocab_size", 5}},
                 "model_type is absent: thermoe runs qwen3_moe, olmoe and mix");
  expect_refusal(with(qwen3(), {{"architectures", {"Qwen3MoeForTokenClassification"}}}),
                 "thermoe runs Qwen3MoeForCausalLM");
  expect_refusal(with(qwen3(), {{"hidden_act", "gelu"}}), "hidden_act is \"gelu\": only silu");
  expect_refusal(with(qwen3(), {{"quantization_config", {{"quant_method", "fp8"}}}}),
                 "quantization_config.quant_method is \"fp8\"");
  const auto nested = [](int group_size, int plane_ratio) {
    return with(qwen3(), {{"quantization_config",
                           {{"quant_method", "thermoe-nested"},
                            {"group_size", group_size},
                            {"plane_ratio", plane_ratio}}}});
  };
  EXPECT_EQ(parse(nested(32, 12)).plane_ratio, 12);
  expect_refusal(nested(64, 12), "quantization_config.group_size is 64: only 32");
  expect_refusal(nested(32, 17), "quantization_config.plane_ratio is 17");
  expect_refusal(with(mixtral(), {{"sliding_window", 4096}}), "sliding_window is 4096");
  expect_refusal(with(mixtral(), {{"attention_bias", true}}), "attention_bias is true");
  expect_refusal(with(qwen3(), {{"per_layer_config", {{"0", {{"heads", 1}}}}}}),
                 "per_layer_config");
  expect_refusal(with(qwen3(), {{"layer_types", {"full_attention", "sliding_attention"}}}),
                 "layer_types is [");
}

TEST(ModelConfig, RefusesSlidingWindowsOnlyWhereInUse) {
  EXPECT_EQ(parse(with(qwen3(), {{"sliding_window", 4096}})).layers, 48);
  EXPECT_EQ(parse(with(qwen3(), {{"use_sliding_window", true}})).layers, 48);  // window null: none
  json used = with(qwen3(), {{"use_sliding_window", true}, {"sliding_window", 4096}});
  expect_refusal(used, "use_sliding_window is true: sliding-window attention is not supported");
  used.erase("sliding_window");  // transformers then takes 4096
  expect_refusal(used, "use_sliding_window is true");
}

TEST(ModelConfig, RefusesScaledAndPartialRope) {
  const json yarn = {{"rope_type", "yarn"}, {"factor", 4.0}};
  expect_refusal(with(qwen3(), {{"rope_scaling", yarn}}), "rope_scaling.rope_type is \"yarn\"");
  expect_refusal(with(qwen3(), {{"rope_scaling", {{"type", "linear"}, {"factor", 2}}}}),
                 "rope_scaling.type is \"linear\"");
  expect_refusal(with(qwen3(), {{"rope_parameters", yarn}}),
                 "rope_parameters.rope_type is \"yarn\"");
  expect_refusal(with(qwen3(), {{"rope_parameters", {{"full_attention", yarn}}}}),
                 "RoPE that differs by layer");
  expect_refusal(with(qwen3(), {{"partial_rotary_factor", 0.5}}), "partial_rotary_factor is 0.5");
  expect_refusal(with(qwen3(), {{"rope_parameters", {{"partial_rotary_factor", 0.25}}}}),
                 "rope_parameters.partial_rotary_factor is 0.25");
  expect_refusal(with(qwen3(), {{"rope_theta", 0}}), "rope_theta is 0: a number above 0");
  EXPECT_EQ(parse(with(qwen3(), {{"rope_scaling", {{"type", "default"}}}})).rope_theta, 1e6);
}

TEST(ModelConfig, ValidatesRanges) {
  expect_refusal(with(qwen3(), {{"num_key_value_heads", 5}}), "must divide num_attention_heads");
  expect_refusal(with(qwen3(), {{"num_experts_per_tok", 129}}), "there are only 128 experts");
  expect_refusal(with(qwen3(), {{"num_hidden_layers", 0}}), "num_hidden_layers is 0");
  expect_refusal(with(qwen3(), {{"hidden_size", -1}}), "hidden_size is -1");
  expect_refusal(with(qwen3(), {{"hidden_size", 2048.5}}), "hidden_size is 2048.5");
  expect_refusal(with(qwen3(), {{"hidden_size", "2048"}}), "hidden_size is \"2048\"");
  expect_refusal(with(qwen3(), {{"vocab_size", 18446744073709551615u}}), "vocab_size is 1844");
  expect_refusal(with(qwen3(), {{"head_dim", 127}}), "RoPE needs an even one");
  expect_refusal(with(mixtral(), {{"num_attention_heads", 24}}), "must divide it");
  expect_refusal(with(olmoe(), {{"head_dim", 64}}), "an olmoe model needs hidden_size");
  expect_refusal(with(olmoe(), {{"clip_qkv", 0}}), "clip_qkv is 0");
  expect_refusal(with(qwen3(), {{"rms_norm_eps", -1e-6}}), "rms_norm_eps is -1e-06");
  expect_refusal(with(qwen3(), {{"norm_topk_prob", 1}}), "norm_topk_prob is 1: true or false");
  expect_refusal(json::array(), "is not a JSON object");
}

TEST(ModelConfig, ReadsTheShippedAndTheGoldenModels) {
  const std::filesystem::path root = THERMOE_SOURCE_DIR;
  const ModelConfig nano = read_model_config(root / "models/nano");
  EXPECT_EQ(nano.experts, 32);
  EXPECT_EQ(nano.top_k, 4);
  EXPECT_TRUE(nano.tied_embeddings);
  EXPECT_EQ(nano.eos_token_ids, std::vector<int32_t>{0});
  const ModelConfig dense = read_model_config(root / "tests/golden/models/qwen3-dense-layers");
  EXPECT_EQ(dense.sparse, (std::vector<bool>{false, true, false, true}));
  EXPECT_TRUE(dense.attention_bias);
  const ModelConfig tied = read_model_config(root / "tests/golden/models/qwen3-tied");
  EXPECT_EQ(tied.eos_token_ids, (std::vector<int32_t>{1, 2}));
}

TEST(ModelConfig, NamesAMissingDirectoryOrFile) {
  const test::TemporaryDirectory empty;
  EXPECT_NE(
      io_error_of([&] { read_model_config(empty.path() / "nothing"); }).find("no such direct"),
      std::string::npos);
  const std::string error = io_error_of([&] { read_model_config(empty.path()); });
  EXPECT_EQ(error, (empty.path() / "config.json").string() +
                       ": no such file: check the path, or download it");
}

}  // namespace
}  // namespace thermoe
