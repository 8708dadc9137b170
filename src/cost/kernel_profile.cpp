#include "cost/kernel_profile.h"

#include <fmt/format.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "cost/moe_load.h"
#include "cost/profile_file.h"
#include "thermoe/error.h"

namespace thermoe::cost {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kSchema = "thermoe-kernel-profile";

Operation operation_of(const ProfileNode& node) {
  const std::string name = node.text("op");
  for (Operation op : {Operation::kExperts, Operation::kLinear})
    if (name == name_of(op)) return op;
  node.fail(fmt::format("op \"{}\" is not known, only moe and gemm", name));
}

KernelShape read_shape(const ProfileNode& node, Operation op) {
  KernelShape shape;
  shape.op = op;
  if (op == Operation::kLinear) {
    shape.hidden_size = node.count("k");
    shape.inter_size = node.count("n");
    return shape;
  }
  shape.hidden_size = node.count("hidden_size");
  shape.inter_size = node.count("expert_inter_size");
  shape.experts = static_cast<int>(node.count("experts"));
  shape.top_k = static_cast<int>(node.count("top_k"));
  shape.tp = static_cast<int>(node.count("moe_tp"));
  shape.ep = static_cast<int>(node.count("moe_ep"));
  try {
    shape.load_exponent = load_exponent(node.text("distribution"));
  } catch (const InvalidArgument& error) {
    node.fail(error.what());
  }
  if (shape.top_k > shape.experts) node.fail("top_k exceeds experts");
  if (shape.inter_size % shape.tp != 0 || shape.experts % shape.ep != 0)
    node.fail("moe_tp doesn't divide expert_inter_size, or moe_ep experts");
  return shape;
}

MeasuredCurve read_curve(const ProfileNode& node, const MeasuredKernel& kernel) {
  MeasuredCurve curve;
  curve.shape = read_shape(node, kernel.op);
  curve.latency_us = node.positives_or_missing("latency_us");
  if (node.has("power_w")) curve.power_w = node.positives_or_missing("power_w");
  const size_t points = kernel.tokens.size();
  if (curve.latency_us.size() != points ||
      (!curve.power_w.empty() && curve.power_w.size() != points))
    node.fail("latency_us or power_w isn't as long as the kernel's tokens");
  bool any = false;
  for (double x : curve.latency_us) any |= std::isfinite(x);
  if (!any) node.fail("latency_us holds no measurement");
  return curve;
}

HeldOutErrors read_errors(const ProfileNode& node, const std::string& key) {
  if (!node.has(key)) return {};
  const ProfileNode errors = node.child(key);
  return {errors.number("median_frac"), errors.number("p90_frac"), true};
}

MeasuredKernel read_kernel(const ProfileNode& node) {
  MeasuredKernel kernel;
  kernel.op = operation_of(node);
  kernel.kernel = node.text("kernel");
  kernel.framework = node.text("framework");
  kernel.dtype = node.text("dtype");
  if (node.has("stage_columns")) kernel.stage_columns = node.positive("stage_columns");
  try {
    peaks_of(kernel.dtype, 1, 1);
  } catch (const InvalidArgument& error) {
    node.fail(error.what());
  }
  const ProfileNode roofline = node.child("roofline");
  for (const char* name : kRooflineNames) kernel.roofline.push_back(roofline.positive(name));
  kernel.covariance = node.positives("covariance");
  if (kernel.covariance.size() != lengths_of(kernel.op).size() + 4)
    node.fail("covariance doesn't hold a length per feature and four deviations");
  if (node.has("power")) {
    const ProfileNode power = node.child("power");
    kernel.power_limit_w = power.positive("limit_w");
    kernel.power_parameters = {power.positive("idle_w"), power.positive("memory_w"),
                               power.positive("compute_w")};
    kernel.power_outlier_frac = power.positive("outlier_frac");
    if (power.has("least_us")) kernel.power_least_us = power.positive("least_us");
  }
  kernel.unseen_shape = read_errors(node, "unseen_shape_error");
  kernel.unseen_tokens = read_errors(node, "unseen_tokens_error");
  kernel.unseen_shape_power = read_errors(node, "unseen_shape_power_error");
  kernel.tokens = node.positives("tokens");
  for (size_t i = 1; i < kernel.tokens.size(); ++i)
    if (kernel.tokens[i] <= kernel.tokens[i - 1])
      node.fail(fmt::format("tokens[{}] doesn't rise", i));
  for (const ProfileNode& curve : node.children("curves"))
    kernel.curves.push_back(read_curve(curve, kernel));
  return kernel;
}

double rounded(double value, int digits) {
  if (value == 0 || !std::isfinite(value)) return value;
  const double scale = std::pow(10.0, digits - std::ceil(std::log10(std::abs(value))));
  return std::round(value * scale) / scale;
}

Json series(const std::vector<double>& values, int digits) {
  Json out = Json::array();
  for (double value : values)
    out.push_back(std::isfinite(value) ? Json(rounded(value, digits)) : Json());
  return out;
}

Json curve_json(const MeasuredCurve& curve) {
  const KernelShape& s = curve.shape;
  Json json;
  if (s.op == Operation::kLinear) {
    json = {{"n", s.inter_size}, {"k", s.hidden_size}};
  } else {
    json = {{"hidden_size", s.hidden_size},
            {"expert_inter_size", s.inter_size},
            {"experts", s.experts},
            {"top_k", s.top_k},
            {"moe_tp", s.tp},
            {"moe_ep", s.ep},
            {"distribution", distribution_name(s.load_exponent)}};
  }
  json["latency_us"] = series(curve.latency_us, 5);
  if (!curve.power_w.empty()) json["power_w"] = series(curve.power_w, 4);
  return json;
}

void add_errors(Json& json, const char* key, const HeldOutErrors& errors) {
  if (errors.known)
    json[key] = {{"median_frac", rounded(errors.median_frac, 3)},
                 {"p90_frac", rounded(errors.p90_frac, 3)}};
}

Json kernel_json(const MeasuredKernel& kernel) {
  Json json = {{"op", name_of(kernel.op)},
               {"kernel", kernel.kernel},
               {"framework", kernel.framework},
               {"dtype", kernel.dtype}};
  if (kernel.stage_columns > 0) json["stage_columns"] = kernel.stage_columns;
  for (int i = 0; i < kRooflineParameters; ++i)
    json["roofline"][kRooflineNames[i]] = rounded(kernel.roofline[static_cast<size_t>(i)], 5);
  json["covariance"] = series(kernel.covariance, 4);
  if (!kernel.power_parameters.empty())
    json["power"] = {{"limit_w", kernel.power_limit_w},
                     {"idle_w", rounded(kernel.power_parameters[0], 4)},
                     {"memory_w", rounded(kernel.power_parameters[1], 4)},
                     {"compute_w", rounded(kernel.power_parameters[2], 4)},
                     {"outlier_frac", kernel.power_outlier_frac}};
  if (json.contains("power") && kernel.power_least_us != kLeastPowerUs)
    json["power"]["least_us"] = kernel.power_least_us;
  add_errors(json, "unseen_shape_error", kernel.unseen_shape);
  add_errors(json, "unseen_tokens_error", kernel.unseen_tokens);
  add_errors(json, "unseen_shape_power_error", kernel.unseen_shape_power);
  json["tokens"] = series(kernel.tokens, 9);
  return json;
}

// The fields of an object without its closing brace, on one line.
std::string opened(const Json& json) {
  std::string text = json.dump();
  text.pop_back();
  return text;
}

std::string text_of(const KernelProfile& profile) {
  const Json head = {{"schema", kSchema},
                     {"version", 1},
                     {"device", profile.device},
                     {"power_profile", profile.power_profile},
                     {"linear_profile", profile.linear_profile},
                     {"memory_bytes_per_s", profile.memory_bytes_per_s},
                     {"bf16_flops_per_s", profile.bf16_flops_per_s},
                     {"provenance", profile.provenance}};
  std::string text = opened(head) + ",\n\"kernels\":[";
  for (size_t k = 0; k < profile.kernels.size(); ++k) {
    text += (k == 0 ? "\n" : ",\n") + opened(kernel_json(profile.kernels[k])) + ",\n\"curves\":[";
    const auto& curves = profile.kernels[k].curves;
    for (size_t c = 0; c < curves.size(); ++c)
      text += (c == 0 ? "\n" : ",\n") + curve_json(curves[c]).dump();
    text += "\n]}";
  }
  return text + "\n]}\n";
}

}  // namespace

KernelProfile read_kernel_profile(const std::filesystem::path& file) {
  const ProfileNode node = ProfileNode::open(file, kSchema);
  KernelProfile profile;
  profile.device = node.text("device");
  profile.power_profile = node.text("power_profile");
  profile.linear_profile = node.text("linear_profile");
  profile.memory_bytes_per_s = node.positive("memory_bytes_per_s");
  profile.bf16_flops_per_s = node.positive("bf16_flops_per_s");
  profile.provenance = node.texts("provenance");
  for (const ProfileNode& kernel : node.children("kernels"))
    profile.kernels.push_back(read_kernel(kernel));
  return profile;
}

void write_kernel_profile(const KernelProfile& profile, const std::filesystem::path& file) {
  std::filesystem::path part = file;
  part += ".part";
  std::ofstream stream(part, std::ios::binary);
  stream << text_of(profile);
  stream.close();
  if (!stream) throw IoError(part.string(), "can't be written; check the folder and free space");
  std::error_code error;
  std::filesystem::rename(part, file, error);
  if (error) throw IoError(file.string(), "can't be replaced: " + error.message());
}

const MeasuredKernel& find_kernel(const KernelProfile& profile, Operation op,
                                  const std::string& dtype, const std::string& kernel) {
  const MeasuredKernel* best = nullptr;
  std::string covered;
  for (const MeasuredKernel& k : profile.kernels) {
    covered +=
        fmt::format("{}{} {} ({})", covered.empty() ? "" : ", ", name_of(k.op), k.dtype, k.kernel);
    if (k.op != op || k.dtype != dtype || (!kernel.empty() && k.kernel != kernel)) continue;
    if (best == nullptr || k.curves.size() > best->curves.size()) best = &k;
  }
  if (best == nullptr)
    throw ProfileMiss(fmt::format("{}: no measured kernel for {} {}{}; covered: {}", profile.device,
                                  name_of(op), dtype, kernel.empty() ? "" : " (" + kernel + ")",
                                  covered));
  return *best;
}

}  // namespace thermoe::cost
