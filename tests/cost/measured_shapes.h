// The shapes that a shipped profile measured on one device alone, for tests against its points.
#pragma once

#include <cmath>
#include <filesystem>
#include <vector>

#include "cost/kernel_profile.h"
#include "cost/latency_surface.h"

namespace thermoe::test {

// One load of the kernel's curve `c`, with the distinct experts that its distribution expects.
inline cost::MeasuredLoad measured_load(const cost::MeasuredKernel& kernel,
                                        const cost::MeasuredCurve& c) {
  cost::MeasuredLoad load;
  for (size_t i = 0; i < kernel.tokens.size(); ++i) {
    if (!std::isfinite(c.latency_us[i])) continue;
    load.tokens.push_back(kernel.tokens[i]);
    load.distinct_experts.push_back(cost::load_of(c.shape, kernel.tokens[i]).distinct);
    load.latency_us.push_back(c.latency_us[i]);
  }
  return load;
}

// The bf16 experts that are split over no devices, the balanced load of each first.
inline std::vector<cost::MeasuredShape> unsplit_shapes(const std::filesystem::path& profile_file) {
  const cost::KernelProfile profile = cost::read_kernel_profile(profile_file);
  const cost::MeasuredKernel& kernel =
      cost::find_kernel(profile, cost::Operation::kExperts, "bf16", "");
  std::vector<cost::MeasuredShape> shapes;
  for (const cost::MeasuredCurve& balanced : kernel.curves) {
    const cost::KernelShape& s = balanced.shape;
    if (s.tp != 1 || s.ep != 1 || s.load_exponent != 0) continue;
    cost::MeasuredShape shape{s.hidden_size, s.inter_size, s.experts, s.top_k, {}};
    shape.loads.push_back(measured_load(kernel, balanced));
    for (const cost::MeasuredCurve& skewed : kernel.curves) {
      cost::KernelShape unskewed = skewed.shape;
      unskewed.load_exponent = 0;
      if (skewed.shape.load_exponent > 0 && unskewed == s)
        shape.loads.push_back(measured_load(kernel, skewed));
    }
    shapes.push_back(std::move(shape));
  }
  return shapes;
}

}  // namespace thermoe::test
