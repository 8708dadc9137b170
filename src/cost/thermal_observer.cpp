#include <algorithm>
#include <cmath>

#include "thermoe/thermal_model.h"

namespace thermoe {

ThermalObserver::ThermalObserver(const ThermalParameters& parameters,
                                 const ThermalObserverSettings& settings)
    : model_(parameters), settings_(settings) {}

// State: the rises of the poles, then the inlet (felt at once: it stands for any slow offset).
void ThermalObserver::update(std::optional<double> temperature_c, double power_w,
                             double memory_power_w, double dt_s) {
  const size_t poles = model_.parameters_.poles.size();
  if (!started_) {
    started_ = true;
    model_.settle(power_w, memory_power_w);
    for (size_t i = 0; i < poles; ++i)
      covariance_[i][i] = settings_.start_rise_c * settings_.start_rise_c;
    covariance_[poles][poles] = settings_.start_inlet_c * settings_.start_inlet_c;
  } else if (dt_s > 0) {
    model_.advance(power_w, memory_power_w, dt_s);
    std::array<double, kMax> decay;
    decay.fill(1);
    for (size_t i = 0; i < poles; ++i) decay[i] = std::exp(-dt_s / model_.time_constant_s(i));
    for (size_t i = 0; i <= poles; ++i) {
      for (size_t j = 0; j <= poles; ++j) covariance_[i][j] *= decay[i] * decay[j];
      const double walk = i < poles ? settings_.rise_walk_c : settings_.inlet_walk_c;
      covariance_[i][i] += walk * walk * dt_s;
    }
  }
  if (temperature_c) correct(*temperature_c, dt_s);
}

void ThermalObserver::correct(double reading_c, double dt_s) {
  const size_t states = model_.parameters_.poles.size() + 1;
  // Every state adds one to one to the temperature.
  std::array<double, kMax> column{};
  double total = 0;
  for (size_t i = 0; i < states; ++i) {
    for (size_t j = 0; j < states; ++j) column[i] += covariance_[i][j];
    total += column[i];
  }
  const double sharing = dt_s > 0 ? std::max(1.0, settings_.rounding_memory_s / dt_s)
                                  : settings_.rounding_memory_s / 0.025;
  const double noise = settings_.quantum_c * settings_.quantum_c / 12 * sharing;
  const double innovation = reading_c - model_.temperature_c();
  for (size_t i = 0; i < states; ++i) {
    const double step = column[i] / (total + noise) * innovation;
    if (i + 1 < states) {
      model_.rise_c_[i] += step;
    } else {
      model_.inlet_c_ += step;
      model_.felt_inlet_c_ = model_.inlet_c_;
    }
    for (size_t j = 0; j < states; ++j)
      covariance_[i][j] -= column[i] * column[j] / (total + noise);
  }
}

}  // namespace thermoe
