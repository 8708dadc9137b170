#include "thermoe/expert_calibration.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <system_error>

#include "cost/profile_file.h"
#include "thermoe/error.h"

namespace thermoe {
namespace {

using cost::ProfileNode;

constexpr const char* kSchema = "thermoe-expert-calibration";
constexpr cost::FileKind kKind{.name = "calibration of experts",
                               .remedy = "make it anew with thermoe calibrate-experts"};
// Norms are f32; squares of norms up to here are too.
constexpr double kLargestNorm = 1e18;
constexpr double kLargestSquare = 1e36;

// The first thing wrong with a layer that has the right shape, as "field: what"; none: nothing.
std::optional<std::string> fault_of(const LayerCalibration& layer, int experts) {
  const auto in = [](float value, double low, double high) {
    return value >= low && value <= high;
  };
  const size_t count = static_cast<size_t>(experts);
  double load = 0;
  for (size_t e = 0; e < count; ++e) {
    if (!in(layer.load_frac[e], 0, 1))
      return fmt::format("load_frac[{}] is {}, outside [0, 1]", e, layer.load_frac[e]);
    if (!in(layer.output_norm[e], 0, kLargestNorm))
      return fmt::format("output_norm[{}] is {}, not finite and 0 or more", e,
                         layer.output_norm[e]);
    if (!in(layer.output_square[e], 0, kLargestSquare))
      return fmt::format("output_square[{}] is {}, not finite and 0 or more", e,
                         layer.output_square[e]);
    load += layer.load_frac[e];
    for (size_t other = 0; other <= e; ++other) {
      const float cosine = layer.similarity[e * count + other];
      if (!in(cosine, -1, 1))
        return fmt::format("similarity[{}][{}] is {}, outside [-1, 1]", e, other, cosine);
      if (e == other && cosine != 1)
        return fmt::format("similarity[{0}][{0}] is {1}, not 1", e, cosine);
      if (cosine != layer.similarity[other * count + e])
        return fmt::format("similarity[{0}][{1}] differs from similarity[{1}][{0}]", e, other);
    }
  }
  if (std::fabs(load - 1) > 1e-3) return fmt::format("load_frac sums to {:.6g}, not 1", load);
  return std::nullopt;
}

// Shapes first, then values.
std::optional<std::string> fault_of(const ExpertCalibration& calibration) {
  const int experts = calibration.experts;
  if (experts < 1) return fmt::format("experts is {}, not 1 or more", experts);
  if (calibration.top_k < 1 || calibration.top_k > experts)
    return fmt::format("top_k is {}, outside [1, {}]", calibration.top_k, experts);
  if (calibration.tokens < 1) return fmt::format("tokens is {}, not 1 or more", calibration.tokens);
  if (calibration.similarity_tokens < 1 || calibration.similarity_tokens > calibration.tokens)
    return fmt::format("similarity_tokens is {}, outside [1, {}]", calibration.similarity_tokens,
                       calibration.tokens);
  const size_t count = static_cast<size_t>(experts);
  bool any = false;
  for (size_t l = 0; l < calibration.layers.size(); ++l) {
    const LayerCalibration& layer = calibration.layers[l];
    const auto wrong = [&](const char* field, const std::vector<float>& values, size_t wanted) {
      return fmt::format("layer {}: {} holds {} values, not {}", l, field, values.size(), wanted);
    };
    if (layer.load_frac.empty() && layer.output_norm.empty() && layer.output_square.empty() &&
        layer.similarity.empty())
      continue;
    any = true;
    if (layer.load_frac.size() != count) return wrong("load_frac", layer.load_frac, count);
    if (layer.output_norm.size() != count) return wrong("output_norm", layer.output_norm, count);
    if (layer.output_square.size() != count)
      return wrong("output_square", layer.output_square, count);
    if (layer.similarity.size() != count * count)
      return wrong("similarity", layer.similarity, count * count);
    if (const auto fault = fault_of(layer, experts)) return fmt::format("layer {}: {}", l, *fault);
  }
  if (!any) return "layers: none has experts";
  return std::nullopt;
}

std::vector<float> floats(const std::vector<double>& values) {
  return {values.begin(), values.end()};
}

LayerCalibration read_layer(const ProfileNode& node, int experts) {
  LayerCalibration layer;
  layer.load_frac = floats(node.numbers("load_frac", experts, 0, 1));
  layer.output_norm = floats(node.numbers("output_norm", experts, 0, kLargestNorm));
  layer.output_square = floats(node.numbers("output_square", experts, 0, kLargestSquare));
  layer.similarity = floats(node.matrix("similarity", experts, experts, -1, 1));
  if (const auto fault = fault_of(layer, experts)) node.fail(*fault);
  return layer;
}

int small_count(const ProfileNode& node, const char* key) {
  // A bound on what is allocated for a file's word; published models stay below a tenth.
  constexpr int64_t kMost = 10'000;
  const int64_t value = node.count(key);
  if (value > kMost) node.fail(fmt::format("field \"{}\" is {}, above {}", key, value, kMost));
  return static_cast<int>(value);
}

std::string list_of(std::span<const float> values, const char* format) {
  std::string text = "[";
  for (const float value : values) {
    if (text.size() > 1) text += ", ";
    text += fmt::format(fmt::runtime(format), value);
  }
  return text + "]";
}

std::string text_of(const LayerCalibration& layer, size_t number, size_t experts) {
  std::string text = fmt::format(
      "    {{\n      \"layer\": {},\n      \"load_frac\": {},\n      \"output_norm\": {},\n"
      "      \"output_square\": {},\n      \"similarity\": [\n",
      number, list_of(layer.load_frac, "{:.6g}"), list_of(layer.output_norm, "{:.6g}"),
      list_of(layer.output_square, "{:.6g}"));
  for (size_t e = 0; e < experts; ++e)
    text +=
        fmt::format("        {}{}\n",
                    list_of(std::span(layer.similarity).subspan(e * experts, experts), "{:.4f}"),
                    e + 1 < experts ? "," : "");
  return text + "      ]\n    }";
}

std::string text_of(const ExpertCalibration& calibration) {
  std::string text = fmt::format(
      "{{\n  \"schema\": \"{}\",\n  \"version\": 1,\n  \"model\": {},\n  \"tokens\": {},\n"
      "  \"similarity_tokens\": {},\n  \"model_layers\": {},\n  \"experts\": {},\n"
      "  \"top_k\": {},\n  \"layers\": [",
      kSchema,
      nlohmann::json(calibration.model)
          .dump(-1, ' ', false, nlohmann::json::error_handler_t::replace),
      calibration.tokens, calibration.similarity_tokens, calibration.layers.size(),
      calibration.experts, calibration.top_k);
  bool first = true;
  for (size_t l = 0; l < calibration.layers.size(); ++l) {
    if (calibration.layers[l].load_frac.empty()) continue;
    text += (first ? "\n" : ",\n") +
            text_of(calibration.layers[l], l, static_cast<size_t>(calibration.experts));
    first = false;
  }
  return text + "\n  ]\n}\n";
}

}  // namespace

ExpertCalibration ExpertCalibration::load(const std::filesystem::path& file) {
  const ProfileNode root = ProfileNode::open(file, kSchema, kKind);
  ExpertCalibration calibration;
  calibration.model = root.text("model");
  calibration.tokens = root.count("tokens");
  calibration.similarity_tokens = root.count("similarity_tokens");
  calibration.experts = small_count(root, "experts");
  calibration.top_k = small_count(root, "top_k");
  const int layers = small_count(root, "model_layers");
  calibration.layers.resize(static_cast<size_t>(layers));
  int64_t next = 0;
  for (const ProfileNode& node : root.children("layers")) {
    const int64_t number = node.index("layer", layers);
    if (number < next)
      node.fail(fmt::format("layer {} follows {}: they must rise", number, next - 1));
    calibration.layers[static_cast<size_t>(number)] = read_layer(node, calibration.experts);
    next = number + 1;
  }
  if (const auto fault = fault_of(calibration)) root.fail(*fault);
  return calibration;
}

void ExpertCalibration::save(const std::filesystem::path& file) const {
  if (const auto fault = fault_of(*this))
    throw IoError(file.string(), "can't hold this: " + *fault);
  const std::filesystem::path partial = file.string() + ".part";
  std::ofstream stream(partial, std::ios::binary | std::ios::trunc);
  stream << text_of(*this);
  stream.close();
  std::error_code failed;
  if (!stream) {
    std::filesystem::remove(partial, failed);
    throw IoError(file.string(), "can't be written: check that the folder exists and has room");
  }
  std::filesystem::rename(partial, file, failed);
  if (failed) throw IoError(file.string(), "can't be replaced: " + failed.message());
}

UtilityModel calibrated_utility(const ExpertCalibration& calibration, float power,
                                float norm_power) {
  if (!(power > 0) || !std::isfinite(power))
    throw InvalidArgument(fmt::format("power is {}: it must be above 0", power));
  if (!(std::fabs(norm_power) <= 8))  // beyond that a float could not hold every scale
    throw InvalidArgument(fmt::format("norm_power is {}: it must be in [-8, 8]", norm_power));
  constexpr double kLeast = 1e-3;  // of the mean: keeps every scale above 0
  UtilityModel utility;
  utility.power = power;
  for (const LayerCalibration& layer : calibration.layers) {
    std::vector<float> scale(static_cast<size_t>(calibration.experts), 1.0f);
    if (!layer.output_norm.empty() && layer.output_norm.size() != scale.size())
      throw InvalidArgument(fmt::format("layer {} of the calibration has {} norms, not {}",
                                        utility.scale.size(), layer.output_norm.size(),
                                        scale.size()));
    double mean = 0;
    for (const float norm : layer.output_norm)
      mean += norm / static_cast<double>(layer.output_norm.size());
    if (mean > 0)
      for (size_t e = 0; e < scale.size(); ++e)
        scale[e] =
            static_cast<float>(std::pow(std::max(layer.output_norm[e] / mean, kLeast), norm_power));
    utility.scale.push_back(std::move(scale));
  }
  return utility;
}

}  // namespace thermoe
