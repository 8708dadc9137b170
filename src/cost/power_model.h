// Power and time of work as functions of the SM clock (docs/cost-model.md, sections 3 and 4).
#pragma once

#include <algorithm>

#include "thermoe/digital_twin.h"

namespace thermoe::cost {

// What a kernel mix asks of the device, per second.
struct Activity {
  double sm_active_frac = 0;
  double bytes_per_s = 0;
  double flops_per_s = 0;
};

// V(f) / V(max): the floor at and below the knee, linear above.
inline double voltage_frac(const TwinParameters& p, double clock_mhz) {
  const double above = (clock_mhz - p.clock_knee_mhz) / (p.clock_max_mhz - p.clock_knee_mhz);
  return p.voltage_floor_frac + (1 - p.voltage_floor_frac) * std::clamp(above, 0.0, 1.0);
}

// Board power. `activity` holds the rates at this clock.
inline double power_w(const TwinParameters& p, double clock_mhz, double temperature_c,
                      const Activity& activity) {
  const double v = voltage_frac(p, clock_mhz);
  const double sm = p.sm_active_w * activity.sm_active_frac * (clock_mhz / p.clock_max_mhz) * v * v;
  const double memory = p.energy_per_byte_pj * 1e-12 * activity.bytes_per_s;
  const double tensor = p.energy_per_flop_pj * 1e-12 * activity.flops_per_s * v * v;
  const double leakage = p.leakage_w_per_c * (temperature_c - p.leakage_reference_c);
  return p.idle_w + leakage + sm + memory + tensor;
}

// How much longer work takes at this clock than at the maximum: its clock-bound part as 1 / clock,
// the rest not at all down to the knee and as 1 / clock below it.
inline double stretch(const TwinParameters& p, double clock_bound_frac, double clock_mhz) {
  return clock_bound_frac * p.clock_max_mhz / clock_mhz +
         (1 - clock_bound_frac) * std::max(1.0, p.clock_knee_mhz / clock_mhz);
}

// The rates of work that takes `busy_us` at this clock.
inline Activity activity_of(const CostEstimate& work, double busy_us) {
  return {work.sm_active_frac, work.bytes / (busy_us * 1e-6), work.flops / (busy_us * 1e-6)};
}

}  // namespace thermoe::cost
