#include "thermoe/quantize_checkpoint.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <mutex>
#include <optional>
#include <set>

#include "experts/expert_quantizer.h"
#include "model/checkpoint_writer.h"
#include "model/json_file.h"
#include "model/tensor_names.h"
#include "model/transformer_weights.h"
#include "thermoe/error.h"
#include "thermoe/transformer.h"

namespace thermoe {
namespace {

namespace fs = std::filesystem;

// The shards that a quantised checkpoint is written as: one a layer, one for the rest.
class Conversion {
 public:
  Conversion(const Checkpoint& source, const fs::path& out, ThreadPool& pool,
             const QuantizeSettings& settings)
      : source_(source),
        config_(source.config()),
        pool_(pool),
        settings_(settings),
        rounding_{.plane_ratio = settings.plane_ratio},
        writer_(out, config_.layers + 1) {
    const auto sparse = std::count(config_.sparse.begin(), config_.sparse.end(), true);
    result_.kept_experts = static_cast<int64_t>(settings.keep.size());
    result_.experts = config_.experts * static_cast<int64_t>(sparse) - result_.kept_experts;
  }

  // Quantises the experts of `layer` for `inputs` (one for each expert) and writes its shard.
  // Layers come in rising order; those before it that have no experts are written first.
  void add_layer(int layer, std::span<const SimpleExpert> experts,
                 std::span<const ExpertInputs> inputs);
  QuantizeResult finish();

 private:
  bool kept(int layer, int expert) const {
    return std::find(settings_.keep.begin(), settings_.keep.end(), std::pair(layer, expert)) !=
           settings_.keep.end();
  }
  TensorToWrite as_stored(const std::string& name) const;
  void write_dense_layers(int before);
  void write_shard(int layer, std::vector<TensorToWrite> tensors,
                   const std::set<std::string>& replaced);
  std::vector<TensorToWrite> expert_tensors(int layer, int expert,
                                            const QuantizedWeights& weights) const;
  void summarise(int layer, std::span<const std::optional<QuantizedWeights>> experts);

  const Checkpoint& source_;
  const ModelConfig& config_;
  ThreadPool& pool_;
  const QuantizeSettings& settings_;
  NestedRounding rounding_;
  CheckpointWriter writer_;
  QuantizeResult result_;
  std::mutex progress_;
  int64_t done_ = 0;
  int next_layer_ = 0;
};

void add_matrix(const std::string& name, const cpu::PackedPlanes& planes, const float& base,
                std::vector<TensorToWrite>& to) {
  const NestedView shape = planes.view(1, 1);
  const auto plane = [&](const char* suffix, const std::vector<uint8_t>& bytes, int64_t block) {
    to.push_back({name + suffix,
                  "U8",
                  {shape.row_blocks(), shape.col_blocks(), block},
                  bytes.data(),
                  bytes.size()});
  };
  plane(kHiSuffix, planes.hi, NestedView::kPlaneBlockBytes);
  plane(kLoSuffix, planes.lo, NestedView::kPlaneBlockBytes);
  plane(kScalesSuffix, planes.scales, NestedView::kScaleBlockBytes);
  to.push_back({name + kBaseSuffix, "F32", {1}, &base, sizeof(base)});
}

std::vector<TensorToWrite> Conversion::expert_tensors(int layer, int expert,
                                                      const QuantizedWeights& weights) const {
  const std::string at = expert_prefix(config_, layer, expert);
  std::vector<TensorToWrite> tensors;
  add_matrix(at + kNestedGateUp, weights.gate_up, weights.gate_up_base, tensors);
  add_matrix(at + kNestedDown, weights.down, weights.down_base, tensors);
  return tensors;
}

TensorToWrite Conversion::as_stored(const std::string& name) const {
  const TensorView view = source_.tensor(name);
  uint64_t elements = 1;
  for (const int64_t size : view.shape) elements *= static_cast<uint64_t>(size);
  return {name, safetensors_name_of(view.dtype), view.shape, view.data,
          elements * size_bytes(view.dtype)};
}

// Planes first: their sizes are multiples of the alignment that they and all others need.
void Conversion::write_shard(int layer, std::vector<TensorToWrite> tensors,
                             const std::set<std::string>& replaced) {
  const std::string at = fmt::format("model.layers.{}.", layer);
  for (const std::string& name : source_.names())
    if (name.starts_with(at) && !replaced.contains(name)) tensors.push_back(as_stored(name));
  std::stable_sort(tensors.begin(), tensors.end(), [](const auto& a, const auto& b) {
    const auto rank = [](const TensorToWrite& t) {
      return t.dtype_name == "U8" ? 0 : t.dtype_name == "F32" ? 1 : 2;
    };
    return rank(a) < rank(b);
  });
  for (const TensorToWrite& tensor : tensors) result_.checkpoint_bytes += tensor.size_bytes;
  writer_.add_shard(tensors);
}

void Conversion::write_dense_layers(int before) {
  for (; next_layer_ < before; ++next_layer_) write_shard(next_layer_, {}, {});
}

void Conversion::summarise(int layer, std::span<const std::optional<QuantizedWeights>> experts) {
  QuantizedLayer summary{.layer = layer};
  for (const auto& weights : experts) {
    if (!weights) continue;
    ++summary.experts;
    summary.int8_error_mean += weights->int8_error_frac;
    summary.int4_error_mean += weights->int4_error_frac;
    summary.int8_error_max = std::max(summary.int8_error_max, weights->int8_error_frac);
    summary.int4_error_max = std::max(summary.int4_error_max, weights->int4_error_frac);
  }
  if (summary.experts > 0) {
    summary.int8_error_mean /= static_cast<float>(summary.experts);
    summary.int4_error_mean /= static_cast<float>(summary.experts);
  }
  result_.layers.push_back(summary);
}

void Conversion::add_layer(int layer, std::span<const SimpleExpert> experts,
                           std::span<const ExpertInputs> inputs) {
  write_dense_layers(layer);
  std::vector<std::optional<QuantizedWeights>> quantized(experts.size());
  pool_.run(static_cast<int>(experts.size()), [&](int e, int) {
    if (kept(layer, e)) return;
    const size_t at = static_cast<size_t>(e);
    quantized[at] = quantize_expert(experts[at], inputs[at], rounding_);
    const std::lock_guard lock(progress_);
    ++done_;
    if (settings_.progress) settings_.progress(done_, result_.experts);
  });
  std::vector<TensorToWrite> tensors;
  std::set<std::string> replaced;
  std::vector<float> int8_errors, int4_errors;
  const ExpertNames names = expert_names(config_.family);
  for (size_t e = 0; e < experts.size(); ++e) {
    const auto& weights = quantized[e];
    result_.stored_expert_bytes += experts[e].weight_bytes();
    int8_errors.push_back(weights ? weights->int8_error_frac : 0);
    int4_errors.push_back(weights ? weights->int4_error_frac : 0);
    if (!weights) {
      result_.expert_bytes += experts[e].weight_bytes();
      continue;
    }
    const int number = static_cast<int>(e);
    for (TensorToWrite& tensor : expert_tensors(layer, number, *weights)) {
      result_.expert_bytes += tensor.size_bytes;
      tensors.push_back(std::move(tensor));
    }
    for (const char* name : {names.gate, names.up, names.down})
      replaced.insert(expert_prefix(config_, layer, number) + name + ".weight");
  }
  const std::string at = moe_prefix(config_, layer);
  for (const auto& [name, errors] :
       {std::pair(kInt8Error, &int8_errors), std::pair(kInt4Error, &int4_errors)})
    tensors.push_back(
        {at + name, "F32", {config_.experts}, errors->data(), errors->size() * sizeof(float)});
  write_shard(layer, std::move(tensors), replaced);
  next_layer_ = layer + 1;
  summarise(layer, quantized);
}

// config.json with the format of the planes in it.
std::string quantized_config(const fs::path& directory, int plane_ratio) {
  std::ifstream file(directory / "config.json", std::ios::binary);
  auto config = nlohmann::ordered_json::parse(file);  // read and checked before
  config["quantization_config"] = {{"quant_method", kNestedQuantMethod},
                                   {"group_size", NestedView::kBlock},
                                   {"plane_ratio", plane_ratio}};
  return config.dump(2) + "\n";
}

QuantizeResult Conversion::finish() {
  write_dense_layers(config_.layers);
  std::vector<TensorToWrite> rest;
  for (const std::string& name : source_.names())
    if (!name.starts_with("model.layers.")) rest.push_back(as_stored(name));
  for (const TensorToWrite& tensor : rest) result_.checkpoint_bytes += tensor.size_bytes;
  writer_.add_shard(rest);
  writer_.add_file("config.json", quantized_config(source_.directory(), settings_.plane_ratio));
  for (const auto& entry : fs::directory_iterator(source_.directory())) {
    const fs::path& path = entry.path();
    const std::string name = path.filename().string();
    if (entry.is_regular_file() && path.extension() != ".safetensors" && name != "config.json" &&
        name != "model.safetensors.index.json")
      writer_.copy_file(path);
  }
  writer_.finish();
  return std::move(result_);
}

std::vector<SimpleExpert> stored_experts(const MoeLayer& moe) {
  std::vector<SimpleExpert> experts;
  experts.reserve(static_cast<size_t>(moe.experts()));
  for (int e = 0; e < moe.experts(); ++e) experts.push_back(*moe.expert(e).stored);
  return experts;
}

// Hands each layer's pass to the conversion.
class LayerQuantizer : public PlanObserver {
 public:
  explicit LayerQuantizer(Conversion& conversion) : conversion_(conversion) {}
  void on_plan(int, const RoutingPlan&) override {}
  void on_layer(const LayerPass& pass) override {
    conversion_.add_layer(pass.layer.settings().layer, stored_experts(pass.layer),
                          calibration_inputs(pass));
  }

 private:
  Conversion& conversion_;
};

// One pass over all texts at once, each cut into windows that don't see each other.
void run_over(const Checkpoint& source, std::span<const std::vector<int32_t>> texts,
              int64_t context, ThreadPool& pool, PlanObserver& observer) {
  std::vector<int32_t> tokens, sequences, positions;
  int32_t sequence = -1;
  const int64_t most = source.config().max_positions;  // 0: not said
  if (most > 0) context = std::min(context, most);
  for (const auto& text : texts)
    for (size_t i = 0; i < text.size(); ++i) {
      const int64_t position = static_cast<int64_t>(i) % context;
      if (position == 0) ++sequence;
      tokens.push_back(text[i]);
      sequences.push_back(sequence);
      positions.push_back(static_cast<int32_t>(position));
    }
  Transformer model(source, pool);
  KvCache cache(source.config(), sequence + 1, context);
  TopKPolicy policy;
  const RowGroup all{0, static_cast<int64_t>(tokens.size())};
  model.forward({tokens, sequences, positions, {&all, 1}},
                {.policy = &policy, .prices = {}, .observer = &observer}, cache, {}, {});
}

void check(const ModelConfig& config, const QuantizeSettings& settings) {
  if (config.plane_ratio != 0)
    throw InvalidArgument(
        "the model's experts are quantised already: quantise the checkpoint that it was made of");
  if (settings.context < 1)
    throw InvalidArgument(fmt::format("context is {}: it must be 1 or more", settings.context));
  if (settings.plane_ratio < 1 || settings.plane_ratio > 16)
    throw InvalidArgument(
        fmt::format("plane_ratio is {}: it must be 1 to 16", settings.plane_ratio));
  std::set<std::pair<int, int>> seen;
  for (const auto& [layer, expert] : settings.keep) {
    const bool exists = layer >= 0 && layer < config.layers &&
                        config.sparse[static_cast<size_t>(layer)] && expert >= 0 &&
                        expert < config.experts;
    if (!exists || !seen.emplace(layer, expert).second)
      throw InvalidArgument(fmt::format("expert {} of layer {} can't be kept: {}", expert, layer,
                                        exists ? "it is named twice" : "there is none"));
  }
}

}  // namespace

QuantizeResult quantize_checkpoint(const Checkpoint& source,
                                   std::span<const std::vector<int32_t>> texts, const fs::path& out,
                                   ThreadPool& pool, const QuantizeSettings& settings) {
  check(source.config(), settings);
  Conversion conversion(source, out, pool, settings);
  int64_t tokens = 0;
  for (const auto& text : texts) tokens += static_cast<int64_t>(text.size());
  if (tokens > 0) {
    LayerQuantizer observer(conversion);
    run_over(source, texts, settings.context, pool, observer);
  } else {
    const TransformerWeights weights = bind_weights(source, make_moe_workspace());
    for (int layer = 0; layer < source.config().layers; ++layer) {
      const auto& moe = weights.layers[static_cast<size_t>(layer)].moe;
      if (!moe) continue;
      const std::vector<SimpleExpert> experts = stored_experts(*moe);
      conversion.add_layer(layer, experts, std::vector<ExpertInputs>(experts.size()));
    }
  }
  QuantizeResult result = conversion.finish();
  result.calibration_tokens = tokens;
  return result;
}

}  // namespace thermoe
