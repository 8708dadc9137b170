#include "routing/dual_bound.h"

#include <algorithm>
#include <cmath>

namespace thermoe {

double DualBound::run(const FixedProgram& program, const DropRule& primal, double objective,
                      int iterations, double gap_frac) {
  start(program, primal);
  double current = evaluate(program), best = current;
  for (int i = 0; i < iterations; ++i) {
    if (best - objective <= gap_frac * std::max(std::abs(best), 1e-12)) break;
    const double norm_squared = slope_norm_squared(program);
    if (norm_squared == 0.0) break;  // theta is optimal: no step improves the bound
    const double length = (current - objective) / norm_squared;
    for (size_t t = 0; t < theta_.size(); ++t) theta_[t] -= length * slope_[t];
    current = evaluate(program);
    best = std::min(best, current);
  }
  return std::max(best, objective);
}

// Between the value a token would move to and the least it holds: at a tight optimum theta is
// there.
void DualBound::start(const FixedProgram& program, const DropRule& primal) {
  const size_t tokens = static_cast<size_t>(program.tokens);
  const size_t experts = static_cast<size_t>(program.experts);
  value_.resize(tokens * experts);
  std::transform(program.value.begin(), program.value.end(), value_.begin(), from_fixed);
  open_.resize(experts);
  std::transform(program.open.begin(), program.open.end(), open_.begin(), from_fixed);
  theta_.resize(tokens);
  slope_.resize(tokens);
  surplus_.resize(experts);
  for (int t = 0; t < program.tokens; ++t) {
    int64_t least = INT64_MAX;
    for (const int32_t e : primal.experts_of(t)) least = std::min(least, program.value_row(t)[e]);
    const int64_t next = primal.next_value(program, t).value_or(least);
    theta_[static_cast<size_t>(t)] = 0.5 * (from_fixed(least) + from_fixed(next));
  }
}

double DualBound::evaluate(const FixedProgram& program) {
  const size_t experts = static_cast<size_t>(program.experts);
  for (size_t e = 0; e < experts; ++e) surplus_[e] = -open_[e];
  double bound = 0;
  for (size_t t = 0; t < theta_.size(); ++t) {
    const double* value = value_.data() + t * experts;
    const double theta = theta_[t];
    bound += program.k * theta;
    for (size_t e = 0; e < experts; ++e) surplus_[e] += std::max(0.0, value[e] - theta);
  }
  for (const double surplus : surplus_) bound += std::max(0.0, surplus);
  return bound;
}

// d bound / d theta[t] = k - (number of paying experts that token t would take at theta).
double DualBound::slope_norm_squared(const FixedProgram& program) {
  const size_t experts = static_cast<size_t>(program.experts);
  const double* surplus = surplus_.data();
  double norm_squared = 0;
  for (size_t t = 0; t < theta_.size(); ++t) {
    const double* value = value_.data() + t * experts;
    const double theta = theta_[t];
    int taken = 0;
    for (size_t e = 0; e < experts; ++e) taken += surplus[e] > 0.0 && value[e] > theta;
    slope_[t] = program.k - taken;
    norm_squared += slope_[t] * slope_[t];
  }
  return norm_squared;
}

}  // namespace thermoe
