#include "sweep_points.h"

#include <fmt/format.h>

#include <regex>

#include "thermoe/error.h"

namespace thermoe::app {
namespace {

constexpr double kSkewedLoad = 1.2;  // the more skewed of the measured tables
constexpr int64_t kMostWeights = int64_t{1} << 31;

constexpr const char* kQuickShapes[] = {"256x64e32k4", "256x64e16k2", "256x128e32k4", "128x64e32k4",
                                        "256x256",     "256x128",     "256x4096",     "512x512"};
// The first of each kind are models/nano's.
constexpr const char* kShapes[] = {
    "256x64e32k4", "256x64e64k8",  "256x64e16k2",  "256x128e32k4", "256x128e16k2",  "128x64e32k4",
    "384x96e24k4", "512x128e32k4", "512x128e64k8", "512x256e32k4", "1024x256e16k2", "256x256",
    "256x128",     "256x4096",     "512x512",      "512x1024",     "1024x512",      "1024x1024",
    "384x384",     "1024x4096",    "2048x2048"};

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

cost::KernelShape parse_shape(const std::string& text) {
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
  if (s.hidden_size * s.inter_size > kMostWeights / matrices)
    throw InvalidArgument(
        fmt::format("shape \"{}\": has more than 2^31 weights; give a smaller one", text));
  return s;
}

std::vector<SweepPoint> points_of(const SweepPlan& plan) {
  std::vector<SweepPoint> points;
  for (const cost::KernelShape& shape : plan.shapes) {
    const bool experts = shape.op == cost::Operation::kExperts;
    for (const double exponent : {0.0, kSkewedLoad}) {
      if (exponent > 0 && !experts) continue;
      for (const int64_t tokens : plan.tokens)
        for (const bool cold : {false, true}) {
          points.push_back({shape, tokens, cold});
          points.back().shape.load_exponent = exponent;
        }
    }
  }
  return points;
}

}  // namespace thermoe::app
