#include "cost/convex_envelope.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

namespace thermoe::cost {
namespace {

TEST(ConvexEnvelope, IsTheChordUnderAHumpAndTheCurveElsewhere) {
  const std::vector<double> x = {0, 1, 2, 4, 5}, y = {4, 5, 2, 4, 6};
  const std::vector<double> expected = {4, 3, 2, 4, 6};
  EXPECT_EQ(lower_convex_envelope(x, y), expected);
  const EnvelopeGap gap = envelope_gap(x, y);
  EXPECT_DOUBLE_EQ(gap.largest_frac, 0.4);
  EXPECT_EQ(gap.median_frac, 0);
}

TEST(ConvexEnvelope, LeavesConvexAndShortCurvesAlone) {
  EXPECT_EQ(lower_convex_envelope(std::vector<double>{3}, std::vector<double>{7}),
            std::vector<double>{7});
  std::vector<double> x, y;
  for (int i = 0; i < 20; ++i) {
    x.push_back(std::exp2(i));
    y.push_back(std::max(100.0, 3 * x.back() - 50));
  }
  EXPECT_EQ(lower_convex_envelope(x, y), y);
}

// Against the definition: the envelope at x[i] is the least chord over all pairs of points around
// it.
TEST(ConvexEnvelope, IsTheLeastOfAllChords) {
  std::mt19937 random(3);
  std::uniform_real_distribution<double> step(0.1, 3), height(1, 9);
  for (int run = 0; run < 200; ++run) {
    std::vector<double> x, y;
    for (int i = 0; i < 12; ++i) {
      x.push_back((x.empty() ? 0 : x.back()) + step(random));
      y.push_back(height(random));
    }
    const std::vector<double> envelope = lower_convex_envelope(x, y);
    for (size_t i = 0; i < x.size(); ++i) {
      double least = y[i];
      for (size_t a = 0; a < i; ++a)
        for (size_t b = i + 1; b < x.size(); ++b)
          least = std::min(least, y[a] + (y[b] - y[a]) * (x[i] - x[a]) / (x[b] - x[a]));
      EXPECT_NEAR(envelope[i], least, 1e-12);
      EXPECT_LE(envelope[i], y[i]);
    }
  }
}

}  // namespace
}  // namespace thermoe::cost
