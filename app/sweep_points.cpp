#include "sweep_points.h"

#include <fmt/format.h>

#include <algorithm>
#include <regex>

#include "thermoe/error.h"

namespace thermoe::app {
namespace {

constexpr const char* kQuickShapes[] = {"256x64e32k4", "256x64e16k2", "256x128e32k4", "128x64e32k4",
                                        "256x256",     "256x128",     "256x4096",     "512x512"};
// The first of each kind are models/nano's.
constexpr const char* kShapes[] = {
    "256x64e32k4", "256x64e64k8",  "256x64e16k2",  "256x128e32k4", "256x128e16k2",  "128x64e32k4",
    "384x96e24k4", "512x128e32k4", "512x128e64k8", "512x256e32k4", "1024x256e16k2", "256x256",
    "256x128",     "256x4096",     "512x512",      "512x1024",     "1024x512",      "1024x1024",
    "384x384",     "1024x4096",    "2048x2048"};

constexpr double kGpuPowerS = 0.45;  // boards refresh their power ten times a second, a while later
constexpr size_t kGpuPublishedShapes = 4;  // of kGpuShapes, which other kernels are measured at
constexpr const char* kGpuQuickShapes[] = {"2048x768e128k8", "2048x1024e64k8"};
// Qwen3-30B-A3B, OLMoE, Mixtral-8x7B and gpt-oss-120B first; then neighbours of theirs, most of
// them published too (gpt-oss-20b, Qwen3-235B-A22B, Phi-3.5-MoE, Llama 4 Scout, Qwen3-Next-80B,
// ERNIE-4.5-21B-A3B, DeepSeek-V2-Lite, Granite 3.0 3B-A800M).
constexpr const char* kGpuShapes[] = {
    "2048x768e128k8",  "2048x1024e64k8", "4096x14336e8k2", "2880x2880e128k4", "2880x2880e32k4",
    "4096x1536e128k8", "4096x6400e16k2", "5120x8192e16k1", "2048x512e512k10", "2560x1536e64k6",
    "2048x1408e64k6",  "1536x512e40k8",  "2048x768e64k8",  "2048x768e128k4",  "2048x1024e128k8",
    "4096x2048e64k8",  "3072x1024e64k6", "4096x4096e32k4"};

cost::KernelShape shape_of(const std::smatch& sizes) {
  const auto size = [&](size_t group) { return std::stoll(sizes[group]); };
  cost::KernelShape shape;
  shape.hidden_size = size(1);
  shape.inter_size = size(2);
  shape.op = sizes[3].matched ? cost::Operation::kExperts : cost::Operation::kLinear;
  if (sizes[3].matched) {
    shape.experts = static_cast<int>(size(3));
    shape.top_k = static_cast<int>(size(4));
  }
  return shape;
}

// The point at so many tokens, with warm weights where the plan has those, and with cold ones.
void add_point(std::vector<SweepPoint>& points, const SweepPlan& plan, SweepPoint point,
               int64_t tokens) {
  const bool balanced = point.shape.load_exponent == 0;
  point.tokens = tokens;
  if (plan.most_warm_tokens == 0 || (balanced && tokens <= plan.most_warm_tokens))
    points.push_back(point);
  point.cold = true;
  const std::vector<int64_t>& power = plan.power_tokens;
  if (balanced && std::find(power.begin(), power.end(), tokens) != power.end())
    point.least_s = plan.power_s;
  points.push_back(point);
}

}  // namespace

SweepPlan default_sweep(bool quick) {
  SweepPlan plan;
  if (quick) {
    for (const char* shape : kQuickShapes) plan.shapes.push_back(parse_shape(shape));
    plan.tokens = {1, 8, 64};
  } else {
    for (const char* shape : kShapes) plan.shapes.push_back(parse_shape(shape));
    plan.tokens = {1, 2, 4, 8, 16, 32, 64, 128, 256};
  }
  return plan;
}

SweepPlan default_gpu_sweep(bool quick) {
  SweepPlan plan;
  plan.dtypes = {"bf16", "int8", "int4"};
  plan.power_s = kGpuPowerS;
  if (quick) {
    for (const char* shape : kGpuQuickShapes) plan.shapes.push_back(parse_shape(shape));
    plan.tokens = {1, 16, 64};
    plan.most_warm_tokens = 1;
    plan.power_tokens = {16};
    return plan;
  }
  for (const char* shape : kGpuShapes)
    plan.shapes.push_back(parse_shape(shape, kMostGpuWeightsLog2));
  // The steeper law touches few experts with few tokens, as priced routing does.
  plan.load_exponents = {0, 1.2, 2};
  plan.tokens = {1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256};
  plan.most_warm_tokens = 4;
  plan.power_tokens = {1, 8, 64, 256};
  return plan;
}

SweepPlan gpu_kernel_sweep(bool quick, const std::string& dtype,
                           const std::vector<std::string>& kernels) {
  SweepPlan plan;
  plan.dtypes = {dtype};
  plan.kernels = kernels;
  const size_t shapes = quick ? 1 : kGpuPublishedShapes;
  for (size_t i = 0; i < shapes; ++i)
    plan.shapes.push_back(parse_shape(kGpuShapes[i], kMostGpuWeightsLog2));
  plan.tokens = {1, 4, 16, 64, 256, 1024, 4096};
  if (quick) plan.tokens = {1, 64, 1024};
  plan.most_warm_tokens = -1;
  return plan;
}

SweepPlan gpu_prefill_sweep(bool quick, const std::string& dtype, const std::string& kernel) {
  SweepPlan plan = gpu_kernel_sweep(quick, dtype, {kernel});
  plan.tokens = {512, 1024, 2048, 4096, 8192, 16384};
  if (quick) plan.tokens = {4096};
  plan.power_tokens = {1024, 4096, 16384};
  plan.power_s = kGpuPowerS;
  return plan;
}

cost::KernelShape parse_shape(const std::string& text, int most_weights_log2) {
  static const std::regex form("([0-9]{1,6})x([0-9]{1,6})(?:e([0-9]{1,5})k([0-9]{1,5}))?");
  std::smatch sizes;
  if (!std::regex_match(text, sizes, form))
    throw InvalidArgument(
        fmt::format("shape \"{}\": give HIDDENxINTERMEDIATEeEXPERTSkTOP_K, such "
                    "as 256x64e32k4, or INPUTSxOUTPUTS of a dense product",
                    text));
  const cost::KernelShape s = shape_of(sizes);
  if (s.hidden_size < 1 || s.inter_size < 1 || s.top_k < 1 || s.top_k > s.experts)
    throw InvalidArgument(
        fmt::format("shape \"{}\": sizes must be at least 1, and top_k at most the experts", text));
  const int64_t matrices = s.op == cost::Operation::kExperts ? 3 * s.experts : 1;
  if (s.hidden_size * s.inter_size > (int64_t{1} << most_weights_log2) / matrices)
    throw InvalidArgument(fmt::format(
        "shape \"{}\": has more than 2^{} weights; give a smaller one", text, most_weights_log2));
  return s;
}

std::vector<SweepPoint> points_of(const SweepPlan& plan) {
  std::vector<SweepPoint> points;
  for (const cost::KernelShape& shape : plan.shapes) {
    const bool experts = shape.op == cost::Operation::kExperts;
    for (const std::string& dtype : plan.dtypes)
      for (const std::string& kernel : plan.kernels)
        for (const double exponent : plan.load_exponents) {
          if (exponent > 0 && !experts) continue;
          SweepPoint point;
          point.shape = shape;
          point.shape.load_exponent = exponent;
          point.dtype = dtype;
          point.kernel = kernel;
          for (const int64_t tokens : plan.tokens) add_point(points, plan, point, tokens);
        }
  }
  return points;
}

}  // namespace thermoe::app
