#include "thermoe/thermal_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "thermoe/error.h"

namespace thermoe {
namespace {

void require_thermal(bool holds, const char* what) {
  if (!holds) throw InvalidArgument(fmt::format("ThermalParameters: {}", what));
}

void check(const ThermalParameters& p) {
  require_thermal(!p.poles.empty() && p.poles.size() <= ThermalModel::kMaxPoles,
                  "between 1 and 4 poles are needed");
  double last_s = 0;
  for (const ThermalPole& pole : p.poles) {
    require_thermal(pole.resistance_c_per_w > 0 && std::isfinite(pole.resistance_c_per_w) &&
                        pole.time_constant_s > 0 && std::isfinite(pole.time_constant_s),
                    "thermal resistances and time constants must be positive");
    require_thermal(pole.time_constant_s > last_s, "time constants must rise from pole to pole");
    last_s = pole.time_constant_s;
  }
  require_thermal(p.memory_bypass_frac >= 0 && p.memory_bypass_frac <= 1,
                  "memory_bypass_frac is not in [0, 1]");
  require_thermal(std::isfinite(p.inlet_c), "inlet_c is not finite");
}

}  // namespace

double ThermalParameters::resistance_c_per_w() const {
  double sum = 0;
  for (const ThermalPole& pole : poles) sum += pole.resistance_c_per_w;
  return sum;
}

ThermalModel::ThermalModel(const ThermalParameters& parameters)
    : parameters_(parameters), inlet_c_(parameters.inlet_c), felt_inlet_c_(parameters.inlet_c) {
  check(parameters);
}

double ThermalModel::steady_c(size_t pole, double power_w, double memory_power_w) const {
  const size_t sink = parameters_.poles.size() - 1;
  const double heat_w =
      pole == 0 ? power_w - parameters_.memory_bypass_frac * memory_power_w : power_w;
  return parameters_.poles[pole].resistance_c_per_w * heat_w * (pole == sink ? sink_factor_ : 1.0);
}

double ThermalModel::time_constant_s(size_t pole) const {
  const size_t sink = parameters_.poles.size() - 1;
  return parameters_.poles[pole].time_constant_s * (pole == sink ? sink_factor_ : 1.0);
}

void ThermalModel::settle(double power_w, double memory_power_w) {
  for (size_t i = 0; i < parameters_.poles.size(); ++i)
    rise_c_[i] = steady_c(i, power_w, memory_power_w);
  felt_inlet_c_ = inlet_c_;
}

void ThermalModel::advance(double power_w, double memory_power_w, double dt_s) {
  const size_t sink = parameters_.poles.size() - 1;
  for (size_t i = 0; i <= sink; ++i) {
    const double decay = std::exp(-dt_s / time_constant_s(i));
    const double end = steady_c(i, power_w, memory_power_w);
    rise_c_[i] = end + (rise_c_[i] - end) * decay;
    if (i == sink) felt_inlet_c_ = inlet_c_ + (felt_inlet_c_ - inlet_c_) * decay;
  }
}

double ThermalModel::temperature_c() const {
  double sum = felt_inlet_c_;
  for (size_t i = 0; i < parameters_.poles.size(); ++i) sum += rise_c_[i];
  return sum;
}

}  // namespace thermoe
