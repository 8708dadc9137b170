// How well the shipped H100 profile predicts what it was not told: a limit that no change may
// break.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "cost/kernel_model.h"
#include "cost/paths.h"

namespace thermoe::cost {
namespace {

double quantile(std::vector<double>& errors, double share) {
  std::sort(errors.begin(), errors.end());
  return errors[static_cast<size_t>(share * static_cast<double>(errors.size()))];
}

void expect_errors(std::vector<double> errors, const char* what, double median, double p90) {
  const double found[] = {quantile(errors, 0.5), quantile(errors, 0.9)};
  std::printf("  H100  bf16, %s (%zu points): median %.2f %%, p90 %.2f %%\n", what, errors.size(),
              100 * found[0], 100 * found[1]);
  EXPECT_LE(found[0], median) << what;
  EXPECT_LE(found[1], p90) << what;
}

// One test, because it is the drawn loads that take the time, and a process draws them once.
TEST(HeldOut, UnseenShapesAndUnseenTokensOfTheH100) {
  const KernelProfile profile = read_kernel_profile(test::h100_profile());
  const MeasuredKernel& kernel = find_kernel(profile, Operation::kExperts, "bf16", "");
  const KernelPeaks peaks =
      peaks_of(kernel.dtype, profile.memory_bytes_per_s, profile.bf16_flops_per_s);

  MeasuredKernel rest = kernel;
  rest.curves.clear();
  std::vector<const MeasuredCurve*> held;
  KernelShape last;
  size_t shapes = 0;
  for (const MeasuredCurve& curve : kernel.curves) {
    KernelShape unskewed = curve.shape;
    unskewed.load_exponent = 0;
    if (!(unskewed == last)) ++shapes;
    last = unskewed;
    if (shapes % 5 == 0)
      held.push_back(&curve);
    else
      rest.curves.push_back(curve);
  }
  EXPECT_GT(held.size(), 70u);
  const KernelModel model(rest, peaks);
  std::vector<double> errors;
  for (const MeasuredCurve* curve : held) {
    const KernelCurve predicted = model.curve(curve->shape);
    EXPECT_FALSE(predicted.measured());
    for (size_t t = 0; t < kernel.tokens.size(); ++t)
      if (std::isfinite(curve->latency_us[t]))
        errors.push_back(
            std::abs(predicted.at(kernel.tokens[t]).latency_us / curve->latency_us[t] - 1));
  }
  expect_errors(errors, "unseen shapes", 0.05, 0.16);

  const KernelModel whole(kernel, peaks);
  errors.clear();
  for (size_t c = 0; c < kernel.curves.size(); ++c)
    for (size_t t = 1; t + 1 < kernel.tokens.size(); ++t) {
      const std::vector<double>& us = kernel.curves[c].latency_us;
      if (std::isfinite(us[t - 1]) && std::isfinite(us[t]) && std::isfinite(us[t + 1]))
        errors.push_back(std::abs(whole.latency_without(c, t) / us[t] - 1));
    }
  expect_errors(errors, "unseen token counts", 0.022, 0.09);
}

}  // namespace
}  // namespace thermoe::cost
