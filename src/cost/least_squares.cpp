#include "cost/least_squares.h"

#include <cmath>
#include <limits>
#include <optional>

namespace thermoe::cost {
namespace {

using Vector = std::array<double, 3>;

struct Normal {
  std::array<Vector, 3> a{};
  Vector b{};
  double yy = 0;
};

Normal normal_equations(const std::vector<FitPoint>& points) {
  Normal n;
  for (const FitPoint& p : points) {
    for (size_t i = 0; i < 3; ++i) {
      for (size_t j = 0; j < 3; ++j) n.a[i][j] += p.x[i] * p.x[j];
      n.b[i] += p.x[i] * p.y;
    }
    n.yy += p.y * p.y;
  }
  return n;
}

// Gauss-Jordan over the coefficients in `subset` (bits); none where they are dependent.
std::optional<Vector> solve(const Normal& n, unsigned subset) {
  std::array<std::array<double, 4>, 3> m{};
  for (size_t i = 0; i < 3; ++i) {
    const bool in = (subset >> i & 1u) != 0;
    for (size_t j = 0; j < 3; ++j)
      m[i][j] = in && (subset >> j & 1u) != 0 ? n.a[i][j] : (i == j && !in ? 1.0 : 0.0);
    m[i][3] = in ? n.b[i] : 0.0;
  }
  for (size_t c = 0; c < 3; ++c) {
    // Positive definite or dependent: no pivoting is needed, only a test.
    const double scale = (subset >> c & 1u) != 0 ? n.a[c][c] : 1.0;
    if (!(m[c][c] > 1e-12 * scale)) return std::nullopt;
    for (size_t r = 0; r < 3; ++r) {
      if (r == c) continue;
      const double factor = m[r][c] / m[c][c];
      for (size_t k = c; k < 4; ++k) m[r][k] -= factor * m[c][k];
    }
  }
  return Vector{m[0][3] / m[0][0], m[1][3] / m[1][1], m[2][3] / m[2][2]};
}

double squared_error(const Normal& n, const Vector& c) {
  double error = n.yy;
  for (size_t i = 0; i < 3; ++i) {
    error -= 2 * c[i] * n.b[i];
    for (size_t j = 0; j < 3; ++j) error += c[i] * c[j] * n.a[i][j];
  }
  return error;
}

}  // namespace

std::array<double, 3> fit_nonnegative(const std::vector<FitPoint>& points) {
  const Normal n = normal_equations(points);
  Vector best{};
  double best_error = std::numeric_limits<double>::infinity();
  for (unsigned subset = 0; subset < 8; ++subset) {
    const std::optional<Vector> c = solve(n, subset);
    if (!c || (*c)[0] < 0 || (*c)[1] < 0 || (*c)[2] < 0) continue;
    const double error = squared_error(n, *c);
    if (error < best_error) {
      best_error = error;
      best = *c;
    }
  }
  return best;
}

}  // namespace thermoe::cost
