#include "cost/kernel_model.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "cost/paths.h"
#include "cost/small_profile.h"
#include "thermoe/error.h"

namespace thermoe::cost {
namespace {

KernelProfile shipped(const std::string& name) {
  return read_kernel_profile(test::source_path("data/profiles/" + name + ".json"));
}
KernelPeaks peaks_in(const KernelProfile& profile, const std::string& dtype) {
  return peaks_of(dtype, profile.memory_bytes_per_s, profile.bf16_flops_per_s);
}

// The H100's bf16 experts under balanced loads: what needs no drawn loads takes no time.
MeasuredKernel balanced_h100() {
  MeasuredKernel kernel = find_kernel(shipped("h100-sxm"), Operation::kExperts, "bf16", "");
  std::erase_if(kernel.curves, [](const MeasuredCurve& c) { return c.shape.load_exponent != 0; });
  return kernel;
}
KernelPeaks h100_peaks() { return peaks_of("bf16", 3.35e12, 9.9e14); }

KernelShape shape(int64_t hidden, int64_t inter, int experts, int top_k, int tp = 1, int ep = 1) {
  return {Operation::kExperts, hidden, inter, experts, top_k, tp, ep, 0};
}

// Every fifth curve of every kernel, every third of its points: all are read by the same code.
TEST(KernelModel, ReadsTheShippedPointsBackExactly) {
  for (const char* name :
       {"h100-sxm", "h100-sxm-thermoe", "h200-sxm", "a100-sxm", "b200-sxm", "h200-sxm-gemm"}) {
    const KernelProfile profile = shipped(name);
    for (MeasuredKernel kernel : profile.kernels) {
      kernel.power_parameters.clear();  // else power is asked of other shapes, which takes a while
      const KernelModel model(kernel, peaks_in(profile, kernel.dtype));
      for (size_t c = 0; c < kernel.curves.size(); c += 5) {
        const KernelCurve curve = model.curve(kernel.curves[c].shape);
        EXPECT_TRUE(curve.measured());
        for (size_t t = c % 3; t < kernel.tokens.size(); t += 3) {
          const double measured_us = kernel.curves[c].latency_us[t];
          if (std::isnan(measured_us)) continue;
          const KernelReading reading = curve.at(kernel.tokens[t]);
          ASSERT_EQ(reading.latency_us, measured_us) << name << " " << kernel.kernel;
          ASSERT_EQ(reading.source, CostSource::kMeasured);
          ASSERT_EQ(reading.power_w, 0);
          ASSERT_LE(reading.uncertainty_frac, 0.03);
          ASSERT_GE(reading.clock_bound_frac, 0);
          ASSERT_LE(reading.clock_bound_frac, 1);
        }
      }
    }
  }
}

TEST(KernelModel, ReadsMeasuredPowerBackWhereRowsAreLong) {
  const KernelProfile profile = shipped("h200-sxm-gemm");
  const MeasuredKernel& kernel = find_kernel(profile, Operation::kLinear, "bf16", "");
  const KernelModel model(kernel, peaks_in(profile, "bf16"));
  int exact = 0;
  for (size_t c = 0; c < kernel.curves.size(); c += 9) {
    const MeasuredCurve& measured = kernel.curves[c];
    const KernelCurve curve = model.curve(measured.shape);
    for (size_t t = 0; t < kernel.tokens.size(); t += 5) {
      const KernelReading reading = curve.at(kernel.tokens[t]);
      EXPECT_GT(reading.power_w, 50);
      EXPECT_LE(reading.power_w, kernel.power_limit_w * 1.01);
      if (measured.latency_us[t] < kLeastPowerUs || std::isnan(measured.power_w[t])) continue;
      EXPECT_EQ(reading.power_w, measured.power_w[t]);
      ++exact;
    }
  }
  EXPECT_GT(exact, 50);
}

TEST(KernelModel, SaysWhereItsReadingsComeFrom) {
  const KernelModel model(balanced_h100(), h100_peaks());
  const KernelCurve measured = model.curve(shape(2048, 768, 128, 8));
  EXPECT_EQ(measured.at(16).source, CostSource::kMeasured);
  EXPECT_EQ(measured.at(20).source, CostSource::kInterpolated);
  EXPECT_GT(measured.at(20).latency_us, measured.at(16).latency_us * 0.95);
  EXPECT_LT(measured.at(20).latency_us, measured.at(32).latency_us * 1.05);
  EXPECT_EQ(measured.at(1e6).source, CostSource::kRoofline);
  EXPECT_NEAR(measured.at(1e6).latency_us / measured.at(1e5).latency_us, 10, 0.5);

  const KernelShape split = shape(2048, 768, 128, 8, 2, 2);
  const KernelCurve transferred = model.curve(split);
  EXPECT_FALSE(transferred.measured());
  for (double tokens : {1.0, 20.0, 4096.0})
    EXPECT_EQ(transferred.at(tokens).source, CostSource::kTransferred);
  EXPECT_EQ(transferred.at(1e6).source, CostSource::kRoofline);
  EXPECT_LT(transferred.at(4096).latency_us, measured.at(4096).latency_us);

  const KernelShape absurd = shape(64, 8, 4096, 1);
  EXPECT_EQ(model.curve(absurd).at(16).source, CostSource::kRoofline);
  EXPECT_GT(model.curve(absurd).at(16).latency_us, 0);
}

TEST(KernelModel, KnowsLessFartherAway) {
  const KernelModel model(balanced_h100(), h100_peaks());
  const KernelCurve measured = model.curve(shape(2048, 768, 128, 8));
  const double exact = measured.at(16).uncertainty_frac, between = measured.at(20).uncertainty_frac;
  EXPECT_LT(exact, between);
  double last = between;
  // From a neighbour of what was measured to shapes that resemble nothing.
  for (const KernelShape& s : {shape(2048, 1024, 128, 8), shape(1024, 512, 64, 16),
                               shape(512, 256, 32, 16), shape(256, 64, 2048, 1)}) {
    const double uncertainty = model.curve(s).at(16).uncertainty_frac;
    EXPECT_GE(uncertainty, last) << text_of(s);
    last = uncertainty;
  }
  EXPECT_GT(last, 3 * between);
}

// The order of curves in a file is nobody's business.
TEST(KernelModel, TheOrderOfCurvesChangesNothing) {
  MeasuredKernel kernel = balanced_h100();
  const KernelModel model(kernel, h100_peaks());
  std::mt19937 random(2);
  for (int shuffle = 0; shuffle < 3; ++shuffle) {
    std::shuffle(kernel.curves.begin(), kernel.curves.end(), random);
    const KernelModel shuffled(kernel, h100_peaks());
    for (const KernelShape& s :
         {shape(2048, 768, 128, 8), shape(2048, 768, 128, 8, 2, 2), shape(2880, 2880, 128, 4),
          shape(4096, 1536, 128, 8, 1, 8), shape(64, 8, 4096, 1)})
      for (double tokens : {1.0, 16.0, 20.0, 777.0, 16384.0, 5e4}) {
        const KernelReading a = model.curve(s).at(tokens), b = shuffled.curve(s).at(tokens);
        EXPECT_NEAR(b.latency_us / a.latency_us, 1, 1e-9) << text_of(s) << " " << tokens;
        EXPECT_NEAR(b.uncertainty_frac / a.uncertainty_frac, 1, 1e-9);
        EXPECT_EQ(b.source, a.source);
      }
  }
}

// Where all curves follow the roofline, nothing is left to carry over: exact everywhere.
TEST(KernelModel, IsTheRooflineWhereThatIsAllThereIs) {
  const KernelProfile profile = test::small_profile();
  const KernelModel model(profile.kernels.front(), test::small_peaks());
  for (const KernelShape& s :
       {shape(2880, 2880, 128, 4), shape(2048, 768, 128, 8, 2, 2), test::small_shapes()[1]})
    for (double tokens : {1.0, 3.0, 16.0, 100.0, 16384.0, 1e5})
      EXPECT_NEAR(model.curve(s).at(tokens).latency_us / test::small_latency_us(s, tokens), 1, 1e-9)
          << text_of(s) << " " << tokens;
  EXPECT_NEAR(model.unseen_shape_error(), 0, 1e-9);
  // The hole is filled by interpolation, and said to be.
  const KernelReading hole = model.curve(test::small_shapes()[1]).at(16);
  EXPECT_EQ(hole.source, CostSource::kInterpolated);
  EXPECT_NEAR(model.latency_without(0, 3) / test::small_latency_us(test::small_shapes()[0], 64), 1,
              1e-9);
}

TEST(KernelModel, OneCurveIsEnough) {
  MeasuredKernel kernel = test::small_profile().kernels.front();
  kernel.curves.resize(1);
  kernel.curves[0].latency_us[0] *= 1.2;
  const KernelModel model(kernel, test::small_peaks());
  const KernelShape other = test::small_shapes()[2];
  EXPECT_EQ(model.curve(other).at(1).source, CostSource::kTransferred);
  EXPECT_NEAR(model.curve(other).at(1).latency_us / test::small_latency_us(other, 1), 1.2, 1e-6);
}

TEST(KernelModel, RefusesNoTokensAndMoreThanAnyBatch) {
  const KernelModel model(test::small_profile().kernels.front(), test::small_peaks());
  for (const KernelShape& s : {test::small_shapes()[0], shape(2880, 2880, 128, 4)})
    for (double tokens : {0.0, 0.5, -3.0, std::nan(""), HUGE_VAL, 1e300, 1e19})
      EXPECT_THROW(model.curve(s).at(tokens), InvalidArgument) << tokens;
  EXPECT_THROW(peaks_of("fp6", 1, 1), InvalidArgument);
}

}  // namespace
}  // namespace thermoe::cost
