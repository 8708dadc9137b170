#include "cost/residual_field.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

namespace thermoe::cost {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

// 30 shapes on a line, their residuals smooth along the shape and along tokens.
class Field : public testing::Test {
 protected:
  Field() {
    residuals_.resize(30, static_cast<Eigen::Index>(grid_.size()));
    std::mt19937 random(3);
    std::uniform_real_distribution<double> place(0, 6);
    for (Eigen::Index r = 0; r < residuals_.rows(); ++r) {
      const double x = place(random);
      points_.push_back({{x}, -1});
      for (Eigen::Index c = 0; c < residuals_.cols(); ++c)
        residuals_(r, c) = truth(x, std::log2(grid_[static_cast<size_t>(c)]));
    }
    covariance_.length = {1.5};
    covariance_.noise = 0.01;
  }
  static double truth(double x, double log_tokens) {
    return 0.2 * std::sin(x) + 0.1 * std::cos(log_tokens * 0.8) + 0.02 * x;
  }
  ResidualField field() const { return {grid_, points_, residuals_, covariance_}; }

  std::vector<double> grid_ = {1, 2, 4, 8, 16, 32, 64, 128, 256};
  std::vector<KrigingPoint> points_;
  Eigen::MatrixXd residuals_;
  Covariance covariance_;
};

TEST_F(Field, IsExactWhereMeasured) {
  residuals_(4, 3) = kNan;
  const ResidualField field = this->field();
  EXPECT_EQ(field.grid(), grid_);
  for (size_t p = 0; p < points_.size(); ++p)
    for (size_t c = 0; c < grid_.size(); ++c) {
      const ResidualField::Reading reading = field.along(p, grid_[c]);
      if (p == 4 && c == 3) {
        EXPECT_FALSE(reading.exact);
        EXPECT_NEAR(reading.value, truth(points_[p].features[0], 3), 0.02);
        continue;
      }
      EXPECT_TRUE(reading.exact);
      EXPECT_FALSE(reading.beyond);
      EXPECT_EQ(reading.value,
                residuals_(static_cast<Eigen::Index>(p), static_cast<Eigen::Index>(c)));
    }
}

TEST_F(Field, InterpolatesBetweenTokens) {
  const ResidualField field = this->field();
  for (size_t p = 0; p < points_.size(); ++p)
    for (double tokens : {1.5, 3.0, 6.0, 12.0, 100.0, 200.0}) {
      const ResidualField::Reading reading = field.along(p, tokens);
      EXPECT_FALSE(reading.exact);
      EXPECT_FALSE(reading.beyond);
      EXPECT_NEAR(reading.value, truth(points_[p].features[0], std::log2(tokens)), 0.02) << tokens;
    }
  // Continuous at a measured point, from both sides.
  EXPECT_NEAR(field.along(2, 16 * (1 - 1e-9)).value, field.along(2, 16).value, 1e-7);
  EXPECT_NEAR(field.along(2, 16 * (1 + 1e-9)).value, field.along(2, 16).value, 1e-7);
}

TEST_F(Field, BeyondTheEndsIsTheEndsValue) {
  residuals_(7, 8) = residuals_(7, 7) = kNan;  // this curve ends at 64
  const ResidualField field = this->field();
  EXPECT_TRUE(field.along(7, 100).beyond);
  EXPECT_EQ(field.along(7, 1e6).value, residuals_(7, 6));
  EXPECT_FALSE(field.along(8, 100).beyond);
  EXPECT_TRUE(field.along(8, 257).beyond);
  EXPECT_TRUE(field.along(8, 0.5).beyond);
  EXPECT_EQ(field.along(8, 0.5).value, residuals_(8, 0));
  const Kriging::Prediction new_shape = field.predict({{2.5}, -1});
  EXPECT_TRUE(field.read(new_shape, 300).beyond);
  EXPECT_EQ(field.read(new_shape, 300).value, field.read(new_shape, 256).value);
  EXPECT_FALSE(field.read(new_shape, 256).beyond);
}

TEST_F(Field, AlongWithoutIsAFieldWithoutThatValue) {
  const ResidualField whole = field();
  for (const auto& [point, hidden] : {std::pair<int, int>{2, 4}, {11, 1}, {29, 6}}) {
    const double kept = residuals_(point, hidden);
    residuals_(point, hidden) = kNan;
    const ResidualField without = field();
    const double tokens = grid_[static_cast<size_t>(hidden)];
    const auto reading =
        whole.along_without(static_cast<size_t>(point), static_cast<size_t>(hidden));
    EXPECT_FALSE(reading.exact);
    EXPECT_NE(reading.value, kept);
    // What the others say knows the value only through the median over shapes.
    EXPECT_NEAR(reading.value, without.along(static_cast<size_t>(point), tokens).value, 2e-3);
    residuals_(point, hidden) = kept;
  }
}

TEST_F(Field, CarriesOverToNewShapes) {
  const ResidualField field = this->field();
  const Kriging::Prediction near = field.predict({{3.3}, -1});
  for (double tokens : {1.0, 16.0, 24.0, 256.0}) {
    const ResidualField::Reading reading = field.read(near, tokens);
    EXPECT_NEAR(reading.value, truth(3.3, std::log2(tokens)), 0.03);
    EXPECT_GT(reading.nearest, 0.5);
  }
  const Kriging::Prediction far = field.predict({{20}, -1});
  EXPECT_GT(field.read(far, 16).deviation, 3 * field.read(near, 16).deviation);
  EXPECT_LT(field.read(far, 16).nearest, 0.01);
  // Each point held out alone, and in one group of all that stand near it: less is known then.
  std::vector<std::vector<size_t>> alone, neighbours(3);
  for (size_t p = 0; p < points_.size(); ++p) {
    alone.push_back({p});
    neighbours[static_cast<size_t>(points_[p].features[0] / 2)].push_back(p);
  }
  EXPECT_LT(field.held_out_error(alone), 0.02);
  EXPECT_GT(field.held_out_error(neighbours), 2 * field.held_out_error(alone));
}

TEST(ResidualFieldSizes, OnePointOneTokenCount) {
  Eigen::MatrixXd one(1, 1);
  one << 0.3;
  Covariance covariance;
  covariance.length = {1};
  const ResidualField field({8}, {{{0.0}, -1}}, one, covariance);
  EXPECT_EQ(field.along(0, 8).value, 0.3);
  EXPECT_TRUE(field.along(0, 9).beyond);
  EXPECT_NEAR(field.read(field.predict({{0.5}, -1}), 8).value, 0.3, 1e-12);
}

}  // namespace
}  // namespace thermoe::cost
