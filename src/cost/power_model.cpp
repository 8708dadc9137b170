#include "cost/power_model.h"

#include <fmt/format.h>

#include <cmath>

#include "thermoe/error.h"

namespace thermoe {
namespace cost {

double stretch_beside(const TwinParameters& p, const TwinEnvironment& environment,
                      double clock_bound_frac, double clock_mhz) {
  const double left = bandwidth_frac(p, clock_mhz) * (1 - environment.neighbour_bandwidth_frac);
  return clock_bound_frac * p.clock_max_mhz / clock_mhz + (1 - clock_bound_frac) / left;
}

Activity activity_beside(const TwinParameters& p, const TwinEnvironment& environment,
                         double clock_mhz, Activity own) {
  own.bytes_per_s +=
      environment.neighbour_bandwidth_frac * p.memory_bytes_per_s * bandwidth_frac(p, clock_mhz);
  if (environment.neighbour_power_w > 0)
    own.sm_active_frac += environment.neighbour_power_w / p.sm_active_w;
  return own;
}

void check_environment(const TwinEnvironment& e) {
  const double values[] = {e.power_cap_w, e.neighbour_power_w, e.temperature_noise_c,
                           e.power_noise_frac, e.neighbour_bandwidth_frac};
  for (double value : values)
    if (!std::isfinite(value) || value < 0)
      throw InvalidArgument(fmt::format(
          "TwinEnvironment: {} is negative or not finite; the cap is {} W", value, e.power_cap_w));
  if (!std::isfinite(e.inlet_c.value_or(0)))
    throw InvalidArgument("TwinEnvironment: inlet_c is not finite");
  if (e.neighbour_bandwidth_frac >= 1)
    throw InvalidArgument("TwinEnvironment: neighbour_bandwidth_frac is not below 1");
  if (!std::isfinite(e.sink_resistance_factor) || e.sink_resistance_factor <= 0)
    throw InvalidArgument("TwinEnvironment: sink_resistance_factor is not positive");
}

void check_work(const CostEstimate& work) {
  const double values[] = {work.latency_us, work.bytes, work.flops, work.clock_bound_frac,
                           work.sm_active_frac};
  for (double value : values)
    if (!std::isfinite(value) || value < 0)
      throw InvalidArgument(fmt::format("CostEstimate: {} is negative or not finite", value));
}

double enforced_cap_w(const TwinParameters& p, double power_cap_w) {
  return power_cap_w > 0 ? std::min(power_cap_w, p.power_limit_w) : p.power_limit_w;
}

}  // namespace cost

namespace {

// Everything at one clock; the temperature given, or its own equilibrium.
OperatingPoint at_clock(const TwinParameters& p, const CostEstimate& work,
                        const TwinEnvironment& environment, double clock_mhz,
                        std::optional<double> temperature_c) {
  OperatingPoint point;
  point.sm_clock_mhz = clock_mhz;
  point.busy_us =
      work.latency_us * cost::stretch_beside(p, environment, work.clock_bound_frac, clock_mhz);
  const cost::Activity activity =
      cost::activity_beside(p, environment, clock_mhz, cost::activity_of(work, point.busy_us));
  point.memory_power_w = cost::memory_power_w(p, activity);
  if (!temperature_c) {
    // T = offset + R P(T) is linear in T: leakage is.
    ThermalModel thermal(p.thermal);
    thermal.set_inlet_c(environment.inlet_c.value_or(p.thermal.inlet_c));
    thermal.set_sink_resistance_factor(environment.sink_resistance_factor);
    const auto settled_c = [&](double power_w) {
      thermal.settle(power_w, point.memory_power_w);
      return thermal.temperature_c();
    };
    const double cold_c = settled_c(cost::power_w(p, clock_mhz, 0, activity));
    const double next_c = settled_c(cost::power_w(p, clock_mhz, 1, activity));
    temperature_c = cold_c / (1 - (next_c - cold_c));
  }
  point.temperature_c = *temperature_c;
  point.power_w = cost::power_w(p, clock_mhz, *temperature_c, activity);
  return point;
}

OperatingPoint solve(const TwinParameters& p, const CostEstimate& work,
                     const TwinEnvironment& environment, std::optional<double> temperature_c) {
  cost::check_work(work);
  cost::check_environment(environment);
  if (work.latency_us <= 0) throw InvalidArgument("operating_point: the work takes no time");
  const double cap_w = cost::enforced_cap_w(p, environment.power_cap_w);
  OperatingPoint best = at_clock(p, work, environment, p.clock_max_mhz, temperature_c);
  if (best.power_w <= cap_w) return best;
  double low = p.clock_min_mhz, high = p.clock_max_mhz;
  best = at_clock(p, work, environment, low, temperature_c);
  best.above_cap = best.power_w > cap_w;
  if (best.above_cap) return best;
  while (high - low > 1e-6 * p.clock_max_mhz) {
    const double middle = (low + high) / 2;
    const OperatingPoint point = at_clock(p, work, environment, middle, temperature_c);
    if (point.power_w > cap_w) {
      high = middle;
    } else {
      low = middle;
      best = point;
    }
  }
  return best;
}

}  // namespace

OperatingPoint operating_point(const TwinParameters& parameters, const CostEstimate& work,
                               double power_cap_w, double temperature_c) {
  if (!std::isfinite(temperature_c))
    throw InvalidArgument("operating_point: the temperature is not finite");
  TwinEnvironment environment;
  environment.power_cap_w = power_cap_w;
  return solve(parameters, work, environment, temperature_c);
}

OperatingPoint steady_state(const TwinParameters& parameters, const CostEstimate& work,
                            const TwinEnvironment& environment) {
  return solve(parameters, work, environment, std::nullopt);
}

}  // namespace thermoe
