#include "cost/latency_surface.h"

#include <gtest/gtest.h>

#include "cost/least_squares.h"

namespace thermoe::cost {
namespace {

// 4 us overhead, 2 us an expert, 0.01 us an assignment beyond one per expert.
double truth(double distinct, double assignments) {
  return 4 + 2 * distinct + 0.01 * (assignments - distinct);
}

MeasuredShape linear_shape() {
  MeasuredShape shape{64, 32, 16, 2, {}};
  MeasuredLoad load;
  for (double tokens : {1.0, 2.0, 4.0, 8.0, 16.0, 64.0, 256.0}) {
    const double distinct = std::min(16.0, 2 * tokens);
    load.tokens.push_back(tokens);
    load.distinct_experts.push_back(distinct);
    load.latency_us.push_back(truth(distinct, 2 * tokens));
  }
  shape.loads.push_back(load);
  return shape;
}

TEST(LatencySurface, ReproducesALinearLaw) {
  const LatencySurface surface(linear_shape());
  EXPECT_NEAR(surface.overhead_us(), 4, 1e-9);
  EXPECT_NEAR(surface.open_us(), 2, 1e-9);
  for (double distinct : {1.0, 3.0, 7.5, 12.0, 16.0})
    for (double load : {1.0, 2.0, 5.0, 20.0})
      EXPECT_NEAR(surface.at(distinct, distinct * load).latency_us,
                  truth(distinct, distinct * load), 0.01 * truth(distinct, distinct * load));
  EXPECT_TRUE(surface.at(8, 8).measured);
  EXPECT_FALSE(surface.at(8, 9).measured);
  EXPECT_FALSE(surface.at(16, 512).extrapolated);
  EXPECT_TRUE(surface.at(16, 513).extrapolated);
  EXPECT_NEAR(surface.at(16, 5120).latency_us, truth(16, 5120), 1e-6);
}

TEST(LatencySurface, PoolsPointsThatFall) {
  MeasuredShape shape = linear_shape();
  shape.loads[0].latency_us[2] = 40;  // four tokens seem slower than eight
  const LatencySurface surface(shape);
  EXPECT_FALSE(surface.at(8, 8).measured);
  EXPECT_NEAR(surface.at(8, 8).latency_us, surface.at(16, 16).latency_us, 1e-9);
  EXPECT_TRUE(surface.at(4, 4).measured);
}

TEST(LeastSquares, StaysNonnegative) {
  const std::vector<FitPoint> falling = {{{1, 0, 0}, 5}, {{1, 1, 0}, 4}, {{1, 2, 1}, 9}};
  const auto c = fit_nonnegative(falling);
  EXPECT_NEAR(c[0], 4.5, 1e-9);
  EXPECT_EQ(c[1], 0);
  EXPECT_NEAR(c[2], 4.5, 1e-9);
}

}  // namespace
}  // namespace thermoe::cost
