#include "route_input.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iostream>
#include <iterator>
#include <limits>
#include <nlohmann/json.hpp>
#include <span>

#include "kernels/cpu/elementwise.h"
#include "model/json_file.h"
#include "npy.h"
#include "paths.h"
#include "read_number.h"
#include "thermoe/error.h"

namespace thermoe::app {
namespace {

using nlohmann::json;

constexpr int kMaxDevices = 65536;  // more than any placement has: a slip of the pen ends here

FloatArray read_npy(const std::string& path) {
  const bool standard_input = path == "-";
  const std::string bytes =
      standard_input ? std::string(std::istreambuf_iterator<char>(std::cin), {}) : read_file(path);
  return parse_npy(std::as_bytes(std::span(bytes)), standard_input ? "standard input" : path);
}

// Names the first value that cannot be routed by.
void check_values(const ScoreBatches& scores, bool logits, const std::string& name) {
  const auto bad = std::find_if(scores.values.begin(), scores.values.end(), [logits](float value) {
    return !std::isfinite(value) || (!logits && value < 0.0f);
  });
  if (bad == scores.values.end()) return;
  const int64_t at = bad - scores.values.begin();
  const int64_t token = at / scores.experts;
  throw IoError(
      name,
      fmt::format("the {} of batch {}, token {}, expert {} is {}: {}", logits ? "logit" : "score",
                  token / scores.tokens, token % scores.tokens, at % scores.experts, *bad,
                  std::isfinite(*bad)
                      ? "probabilities are not negative; give logits with --logits"
                      : "look for what broke before the router; mask an expert with -1e4"));
}

std::vector<std::string_view> split(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(separator, begin), text.size());
    parts.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return parts;
}

// The bits that a format's name says: bf16, fp8, fp8_e4m3, int4.
std::optional<double> bits_of(std::string_view name) {
  const size_t digits = std::min(name.find_first_of("0123456789"), name.size());
  constexpr std::string_view kFamilies[] = {"bf",  "f",    "fp",   "float",
                                            "int", "uint", "mxfp", "nvfp"};
  if (std::find(std::begin(kFamilies), std::end(kFamilies), name.substr(0, digits)) ==
      std::end(kFamilies))
    return std::nullopt;
  const size_t end = std::min(name.find_first_not_of("0123456789", digits), name.size());
  return read_number(name.substr(digits, end - digits));
}

ExpertVariant parse_variant(std::string_view text) {
  const auto parts = split(text, ':');
  const auto fail = [text](const std::string& problem) {
    return InvalidArgument(fmt::format("--variants: '{}' {}", text, problem));
  };
  if (parts.size() > 3 || parts[0].empty())
    throw fail("is not NAME[:ERROR_FRAC[:READ_FRAC]], as in int8:0.004:0.5");
  ExpertVariant option;
  option.name = parts[0];
  if (parts.size() > 1) {
    const auto error = read_number(parts[1]);
    if (!error || !(*error >= 0 && *error < 1))
      throw fail("has an error that is no number from 0 to below 1");
    option.error_frac = static_cast<float>(*error);
  }
  if (parts.size() > 2) {
    const auto frac = read_number(parts[2]);
    if (!frac || !(*frac >= 0) || !std::isfinite(*frac))
      throw fail("has an opening share that is no number of 0 or more");
    option.read_frac = static_cast<float>(*frac);
  }
  return option;
}

int natural(const json& value, const std::string& path, const std::string& what) {
  if (!value.is_number_unsigned() || value.get<uint64_t>() > std::numeric_limits<int32_t>::max())
    throw IoError(path, fmt::format("{} is no natural number: {}", what, printable(value.dump())));
  return value.get<int>();
}

// `what` names the price in the error.
float price(double value, const std::string& what) {
  const float narrow = static_cast<float>(value);
  if (!std::isfinite(narrow) || narrow < 0)
    throw InvalidArgument(fmt::format("{} is {}: prices are finite and not negative", what, value));
  return narrow;
}

std::string entry(const std::string& path, size_t index) {
  return fmt::format("{}: entry {}", path, index);
}

std::vector<float> floats_of(const json& value, const std::string& path, const char* what) {
  const auto fail = [&] {
    return IoError(path, fmt::format("{} must be a number or an array of numbers", what));
  };
  if (!value.is_array() && !value.is_number()) throw fail();
  std::vector<float> out;
  for (const json& element : value.is_array() ? value : json::array({value})) {
    if (!element.is_number()) throw fail();
    out.push_back(price(element.get<double>(), entry(path, out.size())));
  }
  return out;
}

std::vector<float> read_price_file(const std::string& path) {
  const std::string bytes = read_file(path);
  if (bytes.empty()) throw IoError(path, "is empty: give an .npy or JSON array of prices");
  if (bytes[0] != '\x93') return floats_of(parse_json(bytes, path), path, "the file");
  FloatArray array = parse_npy(std::as_bytes(std::span(bytes)), path);
  if (array.shape.size() != 1)
    throw IoError(path, fmt::format("has {} dimensions: prices are one, [E]", array.shape.size()));
  for (size_t i = 0; i < array.values.size(); ++i)
    price(static_cast<double>(array.values[i]), entry(path, i));
  return std::move(array.values);
}

// One value for each instance out of one, E or I of them; `origin` names them in the error.
template <typename T>
std::vector<T> spread(const std::vector<T>& values, const ExpertLayout& layout,
                      const std::string& origin) {
  const size_t experts = static_cast<size_t>(layout.experts);
  if (values.size() != 1 && values.size() != experts && values.size() != layout.instances.size())
    throw InvalidArgument(
        layout.instances.size() == experts
            ? fmt::format("{} has {} values for {} experts: give one for each", origin,
                          values.size(), experts)
            : fmt::format("{} has {} values: give one for each of {} experts, or of {} instances "
                          "(by expert, then variant, then device)",
                          origin, values.size(), experts, layout.instances.size()));
  if (values.size() == layout.instances.size()) return values;
  std::vector<T> out;
  for (const ExpertInstance& instance : layout.instances)
    out.push_back(values[values.size() == 1 ? 0 : static_cast<size_t>(instance.expert)]);
  return out;
}

// The devices that hold expert `e`.
std::vector<int32_t> devices_of(const json& held, size_t e, int devices, const std::string& path) {
  if (!held.is_array() || held.empty())
    throw IoError(path,
                  fmt::format("expert {} is on no device: give an array of device numbers", e));
  std::vector<int32_t> out;
  for (const json& device : held) {
    out.push_back(natural(device, path, fmt::format("a device of expert {}", e)));
    if (out.back() >= devices)
      throw IoError(path, fmt::format("expert {} is on device {}, and there are {}: number them "
                                      "from 0, or raise devices",
                                      e, out.back(), devices));
    if (std::find(out.begin(), out.end() - 1, out.back()) != out.end() - 1)
      throw IoError(path, fmt::format("expert {} is on device {} twice: name each device once", e,
                                      out.back()));
  }
  return out;
}

// The optional keys of a placement.
void read_limits(const json& file, const std::string& path, Placement& placement) {
  if (const auto capacity = file.find("capacity"); capacity != file.end())
    for (const json& value : capacity->is_array() ? *capacity : json::array({*capacity}))
      placement.capacity.push_back(natural(value, path, "a capacity"));
  const auto base = file.find("device_base");
  if (base == file.end()) return;
  placement.device_base = floats_of(*base, path, "device_base");
  const size_t devices = static_cast<size_t>(placement.devices);
  if (!base->is_array()) placement.device_base.resize(devices, placement.device_base[0]);
  if (placement.device_base.size() != devices)
    throw IoError(path, fmt::format("device_base has {} values for {} devices: give one for each",
                                    placement.device_base.size(), devices));
}

}  // namespace

ScoreBatches read_scores(const std::string& path, bool logits) {
  FloatArray array = read_npy(path);
  const std::string name = path == "-" ? "standard input" : path;
  const auto& shape = array.shape;
  if (shape.size() != 2 && shape.size() != 3)
    throw IoError(name,
                  fmt::format("has {} dimensions: give [tokens, experts] or [batches, tokens, "
                              "experts]",
                              shape.size()));
  ScoreBatches scores;
  scores.stacked = shape.size() == 3;
  scores.batches = scores.stacked ? shape[0] : 1;
  scores.tokens = shape[shape.size() - 2];
  scores.experts = shape.back();
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max();
  if (array.values.empty() || scores.tokens > kMost || scores.experts > kMost)
    throw IoError(name, fmt::format("nothing to route: it is [{}]; give at least one token and one "
                                    "expert",
                                    fmt::join(shape, ", ")));
  scores.values = std::move(array.values);
  check_values(scores, logits, name);
  if (logits)
    for (int64_t row = 0; row < scores.batches * scores.tokens; ++row)
      cpu::softmax(scores.values.data() + row * scores.experts, scores.experts);
  return scores;
}

std::vector<ExpertVariant> parse_variants(std::string_view text) {
  std::vector<ExpertVariant> options;
  for (const std::string_view part : split(text, ',')) {
    ExpertVariant option = parse_variant(part);
    const std::string& name = option.name;
    if (std::any_of(options.begin(), options.end(),
                    [&](const ExpertVariant& other) { return other.name == name; }))
      throw InvalidArgument(fmt::format("--variants: '{}' is given twice", name));
    if (std::count(part.begin(), part.end(), ':') < 2 && !options.empty()) {
      const auto bits = bits_of(name), first = bits_of(options[0].name);
      if (!bits || !first || *first == 0)
        throw InvalidArgument(
            fmt::format("--variants: the names '{}' and '{}' do not say both sizes: give the share "
                        "of the opening price as a third part, {}:ERROR_FRAC:0.5",
                        options[0].name, name, name));
      option.read_frac = static_cast<float>(*bits / *first) * options[0].read_frac;
    }
    options.push_back(std::move(option));
  }
  return options;
}

Placement read_placement(const std::string& path, int experts) {
  const json file = parse_json(read_file(path), path);
  if (!file.is_object() || !file.contains("devices") || !file.contains("experts") ||
      !file["experts"].is_array())
    throw IoError(path, R"(is no placement: write {"devices": 2, "experts": [[0], [1], [0, 1]]})");
  for (const auto& [key, value] : file.items())
    if (key != "devices" && key != "experts" && key != "capacity" && key != "device_base")
      throw IoError(path, fmt::format("has the unknown key '{}': known are devices, experts, "
                                      "capacity and device_base",
                                      printable(key)));
  Placement placement;
  placement.devices = natural(file["devices"], path, "devices");
  if (placement.devices < 1 || placement.devices > kMaxDevices)
    throw IoError(path,
                  fmt::format("has {} devices: give 1 to {}", placement.devices, kMaxDevices));
  if (file["experts"].size() != static_cast<size_t>(experts))
    throw IoError(path, fmt::format("places {} experts, the scores have {}: give each its devices",
                                    file["experts"].size(), experts));
  for (const json& held : file["experts"])
    placement.experts.push_back(
        devices_of(held, placement.experts.size(), placement.devices, path));
  read_limits(file, path, placement);
  return placement;
}

std::optional<ExpertLayout> make_layout(int experts, const std::vector<ExpertVariant>& variants,
                                        const std::optional<Placement>& placement,
                                        std::optional<int> capacity) {
  if (variants.empty() && !placement && !capacity) return std::nullopt;
  std::vector<ExpertVariant> kinds = variants;
  if (kinds.empty()) kinds.push_back({.name = "exact", .error_frac = 0});
  std::vector<ExpertInstance> instances;
  for (int32_t e = 0; e < experts; ++e)
    for (int32_t v = 0; v < static_cast<int32_t>(kinds.size()); ++v)
      for (const int32_t device :
           placement ? placement->experts[static_cast<size_t>(e)] : std::vector<int32_t>{0})
        instances.push_back({.expert = e, .variant = v, .device = device});
  ExpertLayout layout = ExpertLayout::of_instances(experts, placement ? placement->devices : 1,
                                                   std::move(kinds), std::move(instances));
  const bool own = placement && !placement->capacity.empty();
  if (capacity && own)
    throw InvalidArgument("the placement has capacities of its own: leave --capacity out");
  if (capacity) layout.capacity.assign(layout.instances.size(), *capacity);
  if (own) layout.capacity = spread(placement->capacity, layout, "capacity of the placement");
  return layout;
}

std::vector<float> read_prices(const PriceOption& option, int experts, const ExpertLayout* layout,
                               bool of_bytes) {
  if (option.source.empty()) return {};
  const ExpertLayout single = layout != nullptr ? ExpertLayout() : ExpertLayout::single(experts);
  const ExpertLayout& where = layout != nullptr ? *layout : single;
  const std::string origin = option.flag + " " + option.source;
  std::vector<float> given;
  if (const auto value = read_number(option.source)) {
    given.push_back(price(*value, option.flag));
  } else {
    given = read_price_file(option.source);
  }
  std::vector<float> prices = spread(given, where, origin);
  const bool per_instance = given.size() == where.instances.size() && where.count() != experts;
  if (!of_bytes || per_instance) return prices;
  for (int i = 0; i < where.count(); ++i)
    prices[static_cast<size_t>(i)] *= where.variant_of(i).read_frac;
  return prices;
}

}  // namespace thermoe::app
