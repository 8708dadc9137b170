// Convex envelopes of measured curves: what a convex program can use where a curve is not convex.
#pragma once

#include <span>
#include <vector>

namespace thermoe::cost {

// The greatest convex function that is nowhere above the piecewise linear curve through (x, y), at
// the points x: their lower convex hull. x rises strictly; x and y have one length, at least 1.
std::vector<double> lower_convex_envelope(std::span<const double> x, std::span<const double> y);

// By how much a curve lies above its envelope, relative to the curve (y > 0).
struct EnvelopeGap {
  double median_frac = 0, largest_frac = 0;  // over the points
};
EnvelopeGap envelope_gap(std::span<const double> x, std::span<const double> y);

}  // namespace thermoe::cost
