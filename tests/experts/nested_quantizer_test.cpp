// Rounding to nested planes: both planes' errors, against plain rounding and in float64.
#include "experts/nested_quantizer.h"

#include <gtest/gtest.h>

#include <cmath>

#include "kernels/reference.h"
#include "thermoe/error.h"

namespace thermoe {
namespace {

using cpu::NaturalPlanes;
using test::random_floats;
using Dense = Eigen::MatrixXd;

struct Case {
  Case(int64_t rows_in, int64_t cols_in, uint32_t seed)
      : rows(rows_in), cols(cols_in), values(random_floats(rows * cols, seed)) {}
  ConstMatrix view() const { return ConstMatrix(values.data(), rows, cols); }
  float base(const NestedRounding& rounding = {}) const {
    float largest = 0;
    for (const float v : values) largest = std::max(largest, std::fabs(v));
    return nested_base(largest, rounding);
  }
  int64_t rows, cols;
  std::vector<float> values;
};

// The weight that the planes stand for, less `w`.
Dense error_of(const NaturalPlanes& planes, float base, int ratio, Planes which, ConstMatrix w) {
  Dense error(w.rows, w.cols);
  for (int64_t r = 0; r < w.rows; ++r)
    for (int64_t c = 0; c < w.cols; ++c) {
      const auto at = static_cast<size_t>(r * w.cols + c);
      const auto code = planes.scales[static_cast<size_t>(r * planes.groups() + c / 32)];
      const double scale = static_cast<double>(base) * static_cast<double>(nested_scale(code));
      const int whole = ratio * planes.hi[at] + (which == Planes::kBoth ? planes.lo[at] : 0);
      error(r, c) = scale * whole - static_cast<double>(w(r, c));
    }
  return error;
}

// Rounding to 127 steps of the largest magnitude of 32, the upper half as int4.
double plain_int4_error(const Case& c) {
  double error = 0;
  for (int64_t r = 0; r < c.rows; ++r)
    for (int64_t g = 0; g < c.cols; g += 32) {
      const int64_t end = std::min(c.cols, g + 32);
      float largest = 0;
      for (int64_t j = g; j < end; ++j) largest = std::max(largest, std::fabs(c.view()(r, j)));
      const double scale = static_cast<double>(largest) / 127;
      for (int64_t j = g; j < end; ++j) {
        const double w = static_cast<double>(c.view()(r, j));
        const double hi = std::min(7.0, std::floor((std::nearbyint(w / scale) + 8) / 16));
        error += std::pow(scale * 16 * hi - w, 2);
      }
    }
  return error;
}

// Second moments of inputs of which neighbours are alike, some rare and some large.
NestedRounder::Moments correlated_moments(int64_t cols) {
  Dense moments(cols, cols);
  for (int64_t a = 0; a < cols; ++a)
    for (int64_t b = 0; b < cols; ++b)
      moments(a, b) = std::pow(0.9, std::abs(a - b)) * (1 + 0.1 * static_cast<double>(a % 7)) *
                      (1 + 0.1 * static_cast<double>(b % 7));
  return moments.cast<float>();
}

double product_error(const Dense& error, const NestedRounder::Moments& moments) {
  return (error * moments.cast<double>() * error.transpose()).trace();
}

TEST(NestedRounder, ServesBothPlanesBetterThanPlainRounding) {
  for (const int ratio : {16, 12}) {
    const Case c(48, 128, 3);
    const NestedRounding rounding{.plane_ratio = ratio};
    const float base = c.base(rounding);
    const NaturalPlanes planes = NestedRounder(c.cols, {}, rounding).round(c.view(), base);
    const double int4 = error_of(planes, base, ratio, Planes::kHi, c.view()).squaredNorm();
    const double int8 = error_of(planes, base, ratio, Planes::kBoth, c.view()).squaredNorm();
    EXPECT_LT(int4, 0.8 * plain_int4_error(c)) << ratio;
    EXPECT_LT(int8, int4 / 100) << ratio;
  }
}

TEST(NestedRounder, LeavesInt8HalfAStep) {
  const Case c(7, 70, 5);
  for (const bool compensated : {false, true})
    for (const int ratio : {8, 12, 16}) {
      const NestedRounding rounding{.plane_ratio = ratio};
      const float base = c.base(rounding);
      const auto moments = compensated ? correlated_moments(c.cols) : NestedRounder::Moments();
      const NaturalPlanes planes = NestedRounder(c.cols, moments, rounding).round(c.view(), base);
      const Dense error = error_of(planes, base, ratio, Planes::kBoth, c.view());
      int64_t clipped = 0;
      for (int64_t r = 0; r < c.rows; ++r)
        for (int64_t col = 0; col < c.cols; ++col) {
          const size_t at = static_cast<size_t>(r * c.cols + col);
          const auto code = planes.scales[static_cast<size_t>(r * planes.groups() + col / 32)];
          const double step =
              std::fabs(static_cast<double>(base) * static_cast<double>(nested_scale(code)));
          ASSERT_GE(planes.hi[at], -8);
          ASSERT_LE(planes.hi[at], 7);
          ASSERT_GE(planes.lo[at], -8);
          ASSERT_LE(planes.lo[at], 7);
          const bool outermost = planes.hi[at] == -8 || planes.hi[at] == 7;
          if (outermost && std::fabs(error(r, col)) > 0.5001 * step)
            ++clipped;
          else
            ASSERT_LE(std::fabs(error(r, col)), 0.5001 * step) << r << " " << col << " " << ratio;
        }
      EXPECT_LT(clipped, c.rows * c.cols / 20);
    }
}

TEST(NestedRounder, PassesErrorsOnWhereInputsAreAlike) {
  const Case c(40, 96, 7);
  const auto moments = correlated_moments(c.cols);
  const float base = c.base();
  const int ratio = NestedRounding().plane_ratio;
  const auto plain = NestedRounder(c.cols, {}).round(c.view(), base);
  const auto fitted = NestedRounder(c.cols, moments, {.damping = 0.01f}).round(c.view(), base);
  const double before = product_error(error_of(plain, base, ratio, Planes::kHi, c.view()), moments);
  const double after = product_error(error_of(fitted, base, ratio, Planes::kHi, c.view()), moments);
  EXPECT_LT(after, 0.6 * before);
  EXPECT_LT(product_error(error_of(fitted, base, ratio, Planes::kBoth, c.view()), moments),
            0.03 * before);
}

TEST(NestedRounder, TreatsRowsAlike) {
  const Case c(70, 64, 9);
  const auto moments = correlated_moments(c.cols);
  const NestedRounder rounder(c.cols, moments);
  const float base = c.base();
  const NaturalPlanes all = rounder.round(c.view(), base);
  for (const int64_t row : {0, 31, 32, 69}) {
    const NaturalPlanes one = rounder.round(c.view().rows_from(row, 1), base);
    for (int64_t col = 0; col < c.cols; ++col) {
      EXPECT_EQ(one.hi[static_cast<size_t>(col)], all.hi[static_cast<size_t>(row * 64 + col)]);
      EXPECT_EQ(one.lo[static_cast<size_t>(col)], all.lo[static_cast<size_t>(row * 64 + col)]);
    }
  }
}

TEST(NestedRounder, KeepsZerosAndOutliers) {
  Case c(3, 64, 11);
  std::fill(c.values.begin(), c.values.begin() + 64, 0.0f);       // a row of zeros
  std::fill(c.values.begin() + 64, c.values.begin() + 96, 0.0f);  // a group of zeros
  c.values[128] = 1000;                                           // an outlier in the last row
  const float base = c.base();
  for (const auto& moments : {NestedRounder::Moments(), correlated_moments(64)}) {
    const NaturalPlanes planes = NestedRounder(64, moments).round(c.view(), base);
    for (size_t i = 0; i < 96; ++i) {
      EXPECT_EQ(planes.hi[i], 0);
      EXPECT_EQ(planes.lo[i], 0);
    }
    const Dense error =
        error_of(planes, base, NestedRounding().plane_ratio, Planes::kBoth, c.view());
    EXPECT_NEAR(error(2, 0), 0, 10);
    EXPECT_TRUE(error.allFinite());
  }
  EXPECT_EQ(nested_base(0, {}), 1);
}

TEST(NestedRounder, RefusesMomentsThatDoNotFit) {
  NestedRounder::Moments moments = correlated_moments(32);
  EXPECT_THROW(NestedRounder(64, moments), InvalidArgument);
  moments(3, 3) = NAN;
  EXPECT_THROW(NestedRounder(32, moments), InvalidArgument);
  const Case c(2, 64, 1);
  EXPECT_THROW(NestedRounder(32, {}).round(c.view(), 1), InvalidArgument);
}

}  // namespace
}  // namespace thermoe
