#include "routing/lagrangian.h"

#include <algorithm>
#include <climits>
#include <cmath>
#include <limits>

namespace thermoe {
namespace {

// The nearest point of the simplex (Held, Wolfe, Crowder 1974), by bisection on the shift: a few
// devices, so nothing is sorted or allocated.
void project_to_simplex(std::vector<double>& weights) {
  double low = *std::min_element(weights.begin(), weights.end()) - 1.0;
  double high = *std::max_element(weights.begin(), weights.end());
  for (int i = 0; i < 60; ++i) {
    const double shift = 0.5 * (low + high);
    double sum = 0;
    for (const double w : weights) sum += std::max(0.0, w - shift);
    (sum > 1.0 ? low : high) = shift;
  }
  double sum = 0;
  for (double& w : weights) sum += w = std::max(0.0, w - low);
  for (double& w : weights) w /= sum;
}

}  // namespace

void Lagrangian::start(const Costs& costs, int instances, double rho) {
  now_.rho = rho;
  now_.lambda.assign(static_cast<size_t>(costs.devices), 1.0 / costs.devices);
  now_.mu.assign(static_cast<size_t>(instances), 0.0);
}

void Lagrangian::price(const Costs& costs, Program& program) {
  const size_t count = static_cast<size_t>(program.instances);
  charge_.resize(count);
  opening_.resize(count);
  for (size_t i = 0; i < count; ++i) {
    const double lambda = now_.lambda[costs.device[i]];
    charge_[i] = now_.rho * (costs.slope[i] + lambda * costs.device_slope[i]) + now_.mu[i];
    opening_[i] = now_.rho * (costs.open[i] + lambda * costs.device_open[i]);
  }
  program.reprice(charge_, opening_);
}

double Lagrangian::constant(const Costs& costs) const {
  double base = 0, room = 0;
  for (size_t g = 0; g < now_.lambda.size(); ++g) base += now_.lambda[g] * costs.base[g];
  for (size_t i = 0; i < now_.mu.size(); ++i)
    if (now_.mu[i] > 0.0) room += now_.mu[i] * costs.capacity[i];
  return room - now_.rho * base;
}

double Lagrangian::slope_norm_squared(const Costs& costs, const Program& program,
                                      const DualBound& dual) {
  dual.usage(program, loads_, uses_);
  lambda_slope_.assign(now_.lambda.size(), 0.0);
  mu_slope_.assign(now_.mu.size(), 0.0);
  double norm_squared = 0;
  for (size_t g = 0; g < lambda_slope_.size(); ++g) lambda_slope_[g] = -now_.rho * costs.base[g];
  for (size_t i = 0; i < mu_slope_.size(); ++i) {
    lambda_slope_[costs.device[i]] -=
        now_.rho * (costs.device_open[i] * uses_[i] + costs.device_slope[i] * loads_[i]);
    if (costs.capacity[i] == INT_MAX) continue;
    mu_slope_[i] = costs.capacity[i] - loads_[i];
    if (now_.mu[i] == 0.0 && mu_slope_[i] > 0.0) mu_slope_[i] = 0.0;  // the step would be cut off
    norm_squared += mu_slope_[i] * mu_slope_[i];
  }
  // Only differences between devices count: lambda's sum is fixed.
  double mean = 0;
  for (const double slope : lambda_slope_) mean += slope;
  mean /= costs.devices;
  for (double& slope : lambda_slope_) {
    slope -= mean;
    norm_squared += slope * slope;
  }
  return norm_squared;
}

void Lagrangian::step(const Costs& costs, double length) {
  for (size_t i = 0; i < now_.mu.size(); ++i)
    if (mu_slope_[i] != 0.0)
      now_.mu[i] = to_grid(std::clamp(now_.mu[i] - length * mu_slope_[i], 0.0, kLargestUtility));
  if (costs.devices == 1) return;
  for (size_t g = 0; g < now_.lambda.size(); ++g) now_.lambda[g] -= length * lambda_slope_[g];
  project_to_simplex(now_.lambda);
}

double Lagrangian::improve(const Costs& costs, Program& program, DualBound& dual, double target,
                           int iterations, double gap_frac) {
  double least = std::numeric_limits<double>::infinity();
  const bool fixed = costs.devices == 1 && !costs.limited;
  for (int i = 0;; ++i) {
    if (i == 0 || !fixed) price(costs, program);
    const double bound = dual.evaluate(program) + constant(costs);
    if (bound < least) {
      least = bound;
      best_ = now_;
      dual.keep();
    }
    if (i >= iterations || least - target <= gap_frac * std::abs(least)) break;
    const double norm_squared =
        dual.slope_norm_squared(program) + slope_norm_squared(costs, program, dual);
    if (norm_squared == 0.0) break;
    const double length = std::max(0.0, bound - target) / norm_squared;
    dual.step(length);
    step(costs, length);
  }
  now_ = best_;
  dual.restore();
  price(costs, program);
  return least;
}

}  // namespace thermoe
