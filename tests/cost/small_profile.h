// A made-up device whose kernels follow a known roofline, for tests that need no shipped profile.
#pragma once

#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "cost/kernel_model.h"
#include "cost/kernel_profile.h"
#include "cost/measured_table.h"

namespace thermoe::test {

inline constexpr double kSmallMemoryBytesPerS = 3.35e12, kSmallFlopsPerS = 9.9e14;
inline cost::RooflineParameters small_roofline() {
  return {12, 1.3, 1.1, 0.4, 0.9, 0.2, 3, 2, 3, 2};
}
inline cost::KernelPeaks small_peaks() {
  return cost::peaks_of("bf16", kSmallMemoryBytesPerS, kSmallFlopsPerS);
}
inline const std::vector<double>& small_tokens() {
  static const std::vector<double> tokens = {1, 4, 16, 64, 256, 1024, 4096, 16384};
  return tokens;
}

// Twelve balanced shapes: three models, each whole and split.
inline std::vector<cost::KernelShape> small_shapes() {
  std::vector<cost::KernelShape> shapes;
  const cost::KernelShape models[] = {{cost::Operation::kExperts, 2048, 768, 128, 8, 1, 1, 0},
                                      {cost::Operation::kExperts, 4096, 14336, 8, 2, 1, 1, 0},
                                      {cost::Operation::kExperts, 3072, 1024, 256, 8, 1, 1, 0}};
  for (cost::KernelShape shape : models)
    for (const auto& [tp, ep] : {std::pair(1, 1), {2, 1}, {1, 4}, {4, 1}}) {
      shape.tp = tp;
      shape.ep = ep;
      shapes.push_back(shape);
    }
  return shapes;
}
inline double small_latency_us(const cost::KernelShape& shape, double tokens) {
  return cost::roofline(shape, cost::load_of(shape, tokens), small_peaks(), small_roofline())
      .total_us;
}

// As thermoe fit would find it, with power, a point that was not measured and no dense products.
inline cost::KernelProfile small_profile() {
  cost::MeasuredKernel kernel;
  kernel.kernel = "made_up";
  kernel.framework = "none 1.0";
  kernel.dtype = "bf16";
  kernel.roofline = small_roofline();
  kernel.covariance = cost::parts_of(cost::covariance_start(kernel.op));
  kernel.power_limit_w = 700;
  kernel.power_parameters = {120, 250, 500};
  kernel.unseen_shape = {0.03, 0.1, true};
  kernel.unseen_tokens = {0.02, 0.07, true};
  kernel.tokens = small_tokens();
  for (const cost::KernelShape& shape : small_shapes()) {
    cost::MeasuredCurve curve{shape, {}, {}};
    for (double tokens : kernel.tokens) {
      curve.latency_us.push_back(small_latency_us(shape, tokens));
      curve.power_w.push_back(300 + 20 * std::log2(tokens));
    }
    kernel.curves.push_back(std::move(curve));
  }
  kernel.curves[1].latency_us[2] = kernel.curves[1].power_w[2] =
      std::numeric_limits<double>::quiet_NaN();
  cost::KernelProfile profile;
  profile.device = "Made-up GPU";
  profile.power_profile = "h100-sxm-power.json";
  profile.memory_bytes_per_s = kSmallMemoryBytesPerS;
  profile.bf16_flops_per_s = kSmallFlopsPerS;
  profile.provenance = {{"origin", "tests"}};
  profile.kernels.push_back(std::move(kernel));
  return profile;
}

// The same kernel's rows, as a table would list them; no power.
inline std::vector<cost::MeasuredRow> small_rows() {
  std::vector<cost::MeasuredRow> rows;
  for (const cost::KernelShape& shape : small_shapes())
    for (double tokens : small_tokens())
      rows.push_back({shape, "made_up", "none 1.0", "Made-up GPU", "bf16", "balanced", tokens,
                      small_latency_us(shape, tokens), 0, 0});
  return rows;
}

}  // namespace thermoe::test
