#include "cost/convex_envelope.h"

#include <algorithm>

namespace thermoe::cost {

std::vector<double> lower_convex_envelope(std::span<const double> x, std::span<const double> y) {
  // Monotone chain: a point at or above the chord of its neighbours is no corner of the hull.
  std::vector<size_t> hull;
  const auto above_chord = [&](size_t a, size_t b, size_t c) {
    return (y[b] - y[a]) * (x[c] - x[a]) >= (y[c] - y[a]) * (x[b] - x[a]);
  };
  for (size_t i = 0; i < x.size(); ++i) {
    while (hull.size() > 1 && above_chord(hull[hull.size() - 2], hull.back(), i)) hull.pop_back();
    hull.push_back(i);
  }
  std::vector<double> envelope(y.begin(), y.end());
  for (size_t h = 0; h + 1 < hull.size(); ++h) {
    const size_t a = hull[h], b = hull[h + 1];
    for (size_t i = a + 1; i < b; ++i) {
      const double chord = y[a] + (y[b] - y[a]) * ((x[i] - x[a]) / (x[b] - x[a]));
      envelope[i] = std::min(y[i], chord);  // rounding must not lift it above the curve
    }
  }
  return envelope;
}

EnvelopeGap envelope_gap(std::span<const double> x, std::span<const double> y) {
  const std::vector<double> envelope = lower_convex_envelope(x, y);
  std::vector<double> gaps(y.size());
  for (size_t i = 0; i < y.size(); ++i) gaps[i] = (y[i] - envelope[i]) / y[i];
  std::sort(gaps.begin(), gaps.end());
  return {gaps[gaps.size() / 2], gaps.back()};
}

}  // namespace thermoe::cost
