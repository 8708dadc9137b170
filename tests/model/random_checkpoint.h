// Checkpoints of random weights, of shapes that the GPU's kernels take, written to a folder.
#pragma once

#include <filesystem>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include "kernels/reference.h"
#include "model/safetensors_writer.h"
#include "model/tensor_names.h"
#include "thermoe/model_config.h"

namespace thermoe::test {

// The folder goes with it.
class RandomCheckpoint {
 public:
  // `config`: the text of config.json; weights are bf16, of about 1 / sqrt(inputs).
  RandomCheckpoint(const std::string& name, const std::string& config)
      : directory_(std::filesystem::temp_directory_path() / ("thermoe-random-" + name)) {
    std::filesystem::create_directories(directory_);
    std::ofstream(directory_ / "config.json") << config;
    const ModelConfig model = read_model_config(directory_);
    const int64_t hidden = model.hidden_size;
    matrix("model.embed_tokens", model.vocab_size, hidden);
    if (!model.tied_embeddings) matrix("lm_head", model.vocab_size, hidden);
    vector("model.norm.weight", hidden);
    for (int l = 0; l < model.layers; ++l) layer(model, l);
    write();
  }
  ~RandomCheckpoint() { std::filesystem::remove_all(directory_); }
  RandomCheckpoint(const RandomCheckpoint&) = delete;
  RandomCheckpoint& operator=(const RandomCheckpoint&) = delete;

  const std::filesystem::path& directory() const { return directory_; }

 private:
  void add(const std::string& name, std::vector<int64_t> shape, float spread, float mean) {
    int64_t count = 1;
    for (const int64_t n : shape) count *= n;
    StoredWeight weight =
        random_weight(DType::kBf16, 1, count, static_cast<uint32_t>(weights_.size() + 1), spread);
    if (mean != 0)  // 1.0 and its neighbours
      for (uint16_t& half : weight.halves) half = static_cast<uint16_t>(0x3F80 + half % 16);
    shapes_.emplace_back(name, std::move(shape));
    weights_.push_back(std::move(weight.halves));
  }
  void matrix(const std::string& name, int64_t rows, int64_t cols) {
    add(name + ".weight", {rows, cols}, 1.0f / std::sqrt(static_cast<float>(cols)), 0);
  }
  void vector(const std::string& name, int64_t size) { add(name, {size}, 1, 1); }

  void attention(const ModelConfig& model, const std::string& at) {
    const int64_t q = model.heads * model.head_dim, kv = model.kv_heads * model.head_dim;
    const std::pair<const char*, int64_t> projections[] = {
        {"q_proj", q}, {"k_proj", kv}, {"v_proj", kv}};
    for (const auto& [name, size] : projections) {
      matrix(at + name, size, model.hidden_size);
      if (model.attention_bias) vector(at + name + ".bias", size);
    }
    matrix(at + "o_proj", model.hidden_size, q);
    if (model.attention_bias) vector(at + "o_proj.bias", model.hidden_size);
    if (model.qk_norm == QkNorm::kNone) return;
    const bool per_head = model.qk_norm == QkNorm::kPerHead;
    vector(at + "q_norm.weight", per_head ? model.head_dim : q);
    vector(at + "k_norm.weight", per_head ? model.head_dim : kv);
  }

  void expert(const ModelConfig& model, const std::string& at, const ExpertNames& names,
              int64_t inter) {
    matrix(at + names.gate, inter, model.hidden_size);
    matrix(at + names.up, inter, model.hidden_size);
    matrix(at + names.down, model.hidden_size, inter);
  }

  void layer(const ModelConfig& model, int number) {
    const std::string at = "model.layers." + std::to_string(number) + ".";
    vector(at + "input_layernorm.weight", model.hidden_size);
    vector(at + "post_attention_layernorm.weight", model.hidden_size);
    attention(model, at + "self_attn.");
    if (!model.sparse[static_cast<size_t>(number)])
      return expert(model, at + "mlp.", kDenseNames, model.inter_size);
    matrix(moe_prefix(model, number) + "gate", model.experts, model.hidden_size);
    for (int e = 0; e < model.experts; ++e)
      expert(model, expert_prefix(model, number, e), expert_names(model.family),
             model.expert_inter_size);
  }

  void write() const {
    std::vector<TensorToWrite> tensors;
    for (size_t t = 0; t < weights_.size(); ++t)
      tensors.push_back({shapes_[t].first, safetensors_name_of(DType::kBf16), shapes_[t].second,
                         weights_[t].data(), 2 * weights_[t].size()});
    write_safetensors(directory_ / "model.safetensors", tensors);
  }

  std::filesystem::path directory_;
  std::vector<std::pair<std::string, std::vector<int64_t>>> shapes_;
  std::vector<std::vector<uint16_t>> weights_;
};

}  // namespace thermoe::test
