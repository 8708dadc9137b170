#include "cost/profile_fit.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "cost/kernel_model.h"
#include "cost/small_profile.h"
#include "thermoe/error.h"

namespace thermoe::cost {
namespace {

ProfileFitSettings settings() {
  ProfileFitSettings settings;
  settings.memory_bytes_per_s = test::kSmallMemoryBytesPerS;
  settings.bf16_flops_per_s = test::kSmallFlopsPerS;
  return settings;
}

TEST(ProfileFit, RecoversAKnownRoofline) {
  std::vector<double> progress;
  ProfileFitSettings with_progress = settings();
  with_progress.progress = [&](double done_frac) { progress.push_back(done_frac); };
  const KernelProfile profile = fit_profile(test::small_rows(), with_progress);
  EXPECT_EQ(progress, std::vector<double>{1});
  EXPECT_EQ(profile.device, "Made-up GPU");
  ASSERT_EQ(profile.kernels.size(), 1u);
  const MeasuredKernel& kernel = profile.kernels.front();
  EXPECT_EQ(kernel.tokens, test::small_tokens());
  EXPECT_EQ(kernel.curves.size(), test::small_shapes().size());
  EXPECT_TRUE(kernel.power_parameters.empty());

  // The roofline alone, without the measured curves, at shapes that were and were not among them.
  std::vector<KernelShape> shapes = test::small_shapes();
  shapes.push_back({Operation::kExperts, 2880, 1536, 64, 4, 1, 1, 0});
  shapes.push_back({Operation::kExperts, 3072, 1024, 256, 8, 2, 2, 0});
  for (const KernelShape& shape : shapes)
    for (double tokens : test::small_tokens()) {
      const double us =
          roofline(shape, load_of(shape, tokens), test::small_peaks(), kernel.roofline).total_us;
      EXPECT_NEAR(us / test::small_latency_us(shape, tokens), 1, 0.03)
          << text_of(shape) << " " << tokens;
    }
  EXPECT_TRUE(kernel.unseen_shape.known);
  EXPECT_TRUE(kernel.unseen_tokens.known);
  EXPECT_FALSE(kernel.unseen_shape_power.known);
  EXPECT_LT(kernel.unseen_shape.median_frac, 0.01);
  EXPECT_LT(kernel.unseen_shape.p90_frac, 0.03);
  EXPECT_LE(kernel.unseen_shape.median_frac, kernel.unseen_shape.p90_frac);
}

TEST(ProfileFit, FitsPowerWhereRowsAreLongEnough) {
  const std::vector<double> planted = {150, 260, 480};
  std::vector<MeasuredRow> rows = test::small_rows();
  for (MeasuredRow& row : rows) {
    row.power_limit_w = 700;
    const KernelWork work = work_of(row.shape, load_of(row.shape, row.tokens), test::small_peaks());
    row.power_w =
        kernel_power_w(planted, row.power_limit_w, work, row.latency_us, test::small_peaks());
    if (row.latency_us < kLeastPowerUs) row.power_w = 77;  // what no reading of a short row tells
  }
  const KernelProfile profile = fit_profile(rows, settings());
  const MeasuredKernel& kernel = profile.kernels.front();
  EXPECT_EQ(kernel.power_limit_w, 700);
  ASSERT_EQ(kernel.power_parameters.size(), 3u);
  EXPECT_TRUE(kernel.unseen_shape_power.known);
  EXPECT_LT(kernel.unseen_shape_power.p90_frac, 0.05);
  const KernelModel model(kernel, test::small_peaks());
  const KernelShape unseen{Operation::kExperts, 2880, 1536, 64, 4, 1, 1, 0};
  for (double tokens : {1024.0, 4096.0}) {
    const KernelReading reading = model.curve(unseen).at(tokens);
    const double watts =
        kernel_power_w(planted, 700, reading.work, reading.latency_us, test::small_peaks());
    EXPECT_NEAR(reading.power_w / watts, 1, 0.05) << tokens;
  }
}

// thermoe calibrate repeats a point for as long as its power takes to read.
TEST(ProfileFit, TrustsThePowerOfItsOwnShortRows) {
  std::vector<MeasuredRow> rows = test::small_rows();
  for (MeasuredRow& row : rows) {
    row.framework = "thermoe 0.1.0";
    row.kernel = "thermoe_cuda_experts_cold";
    row.power_limit_w = 700;
    row.power_w = row.latency_us < kLeastPowerUs ? 333 : 720;  // above the limit, for a while
  }
  const MeasuredKernel kernel = fit_profile(rows, settings()).kernels.front();
  EXPECT_EQ(kernel.power_limit_w, 720);
  EXPECT_EQ(kernel.stage_columns, 1024);
  const KernelModel model(kernel, test::small_peaks());
  const MeasuredRow& first = rows.front();
  ASSERT_LT(first.latency_us, kLeastPowerUs);
  EXPECT_EQ(model.curve(first.shape).at(first.tokens).power_w, 333);
}

TEST(ProfileFit, TakesTheMedianOfRepeatedPointsAndLeavesHoles) {
  std::vector<MeasuredRow> rows = test::small_rows();
  MeasuredRow again = rows[5];
  again.latency_us *= 1.02;
  rows.push_back(again);
  again.latency_us *= 50;  // one run that was disturbed
  rows.push_back(again);
  rows.erase(rows.begin() + 2);
  const KernelProfile profile = fit_profile(rows, settings());
  const std::vector<MeasuredCurve>& curves = profile.kernels.front().curves;
  const KernelShape shape = test::small_shapes().front();
  const auto curve = std::find_if(curves.begin(), curves.end(),
                                  [&](const MeasuredCurve& c) { return c.shape == shape; });
  ASSERT_NE(curve, curves.end());
  EXPECT_TRUE(std::isnan(curve->latency_us[2]));
  EXPECT_NEAR(curve->latency_us[5], 1.02 * test::small_latency_us(shape, 1024), 1e-9);
}

TEST(ProfileFit, AKernelApartForEachNameAndType) {
  std::vector<MeasuredRow> rows = test::small_rows();
  rows.resize(3 * test::small_tokens().size());
  const size_t count = rows.size();
  for (size_t i = 0; i < count; ++i) {
    MeasuredRow row = rows[i];
    row.dtype = "fp8";
    rows.push_back(row);
    row.kernel = "another";
    rows.push_back(row);
  }
  const KernelProfile profile = fit_profile(rows, settings());
  ASSERT_EQ(profile.kernels.size(), 3u);
  for (const MeasuredKernel& kernel : profile.kernels) {
    EXPECT_EQ(kernel.curves.size(), 3u);
    EXPECT_FALSE(kernel.unseen_shape.known);  // too few to hold any out
  }
}

TEST(ProfileFit, ManyLoadsOfOneShapeHoldNoShapeOut) {
  std::vector<MeasuredRow> rows;
  for (double exponent : {0.0, 0.5, 0.7, 0.9, 1.01, 1.1, 1.2, 1.3, 1.5}) {
    KernelShape shape = test::small_shapes().front();
    shape.load_exponent = exponent;
    for (double tokens : {1.0, 16.0, 256.0}) {
      MeasuredRow row = test::small_rows().front();
      row.shape = shape;
      row.tokens = tokens;
      row.latency_us = test::small_latency_us(shape, tokens);
      rows.push_back(row);
    }
  }
  const KernelProfile profile = fit_profile(rows, settings());
  EXPECT_EQ(profile.kernels.front().curves.size(), 9u);
  EXPECT_FALSE(profile.kernels.front().unseen_shape.known);
}

TEST(ProfileFit, RefusesNoRowsAndSeveralDevices) {
  EXPECT_THROW(fit_profile({}, settings()), InvalidArgument);
  std::vector<MeasuredRow> rows = test::small_rows();
  rows.back().device = "Another GPU";
  try {
    fit_profile(rows, settings());
    FAIL();
  } catch (const InvalidArgument& error) {
    const std::string what = error.what();
    EXPECT_NE(what.find("Made-up GPU"), std::string::npos) << what;
    EXPECT_NE(what.find("Another GPU"), std::string::npos) << what;
  }
  rows.back().device = rows.front().device;
  rows.back().dtype = "fp6";
  EXPECT_THROW(fit_profile(rows, settings()), InvalidArgument);
}

}  // namespace
}  // namespace thermoe::cost
