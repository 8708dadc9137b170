#include "cost/robust_fit.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

namespace thermoe::cost {
namespace {

// log(a + b x) - log(y) at x = 1 to 400, with a tenth of the values far off.
class RobustFit : public testing::Test {
 protected:
  RobustFit() {
    std::mt19937 random(1);
    std::normal_distribution<double> noise(0, 0.01);
    for (int x = 1; x <= 400; ++x) {
      y_.push_back((5 + 0.7 * x) * std::exp(noise(random)));
      if (x % 10 == 0) y_.back() *= 6;
    }
  }
  std::vector<double> fit(const std::vector<double>& start,
                          const RobustFitSettings& settings = {}) const {
    return fit_robust(
        start, static_cast<Eigen::Index>(y_.size()),
        [this](const std::vector<double>& p, Eigen::VectorXd& out) {
          for (size_t i = 0; i < y_.size(); ++i)
            out(static_cast<Eigen::Index>(i)) =
                std::log((p[0] + p[1] * static_cast<double>(i + 1)) / y_[i]);
        },
        settings);
  }
  std::vector<double> y_;
};

TEST_F(RobustFit, FindsThePlantedParametersDespiteOutliers) {
  for (const std::vector<double>& start :
       {std::vector<double>{5, 0.7}, {1, 1}, {100, 0.05}, {0.5, 20}}) {
    const std::vector<double> found = fit(start, {.scale = 0.02, .prior_weight = 0.1});
    EXPECT_NEAR(found[0], 5, 0.25) << start[0];
    EXPECT_NEAR(found[1], 0.7, 0.01) << start[0];
  }
}

TEST_F(RobustFit, APlainSquareIsPulledAway) {
  // The same with a scale so wide that all residuals are squared.
  const std::vector<double> squared = fit({1, 1}, {.scale = 100, .prior_weight = 1e-6});
  EXPECT_GT(squared[1], 0.8);
}

TEST_F(RobustFit, StaysWithinItsFactorOfTheStart) {
  const std::vector<double> found = fit({5, 0.001}, {.most_factor = 10});
  EXPECT_LE(found[1], 0.01 * (1 + 1e-9));
  EXPECT_GT(found[0], 0);
}

TEST_F(RobustFit, AParameterThatNothingDependsOnStays) {
  const std::vector<double> found = fit({1, 1, 42});
  EXPECT_NEAR(found[2], 42, 1e-6);
}

}  // namespace
}  // namespace thermoe::cost
