// Power and time of work as functions of the SM clock (docs/device-model.md, sections 1 and 2).
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

// The memory's part of the board's power.
inline double memory_power_w(const TwinParameters& p, const Activity& activity) {
  return p.energy_per_byte_pj * 1e-12 * activity.bytes_per_s;
}

// Board power. `activity` holds the rates at this clock.
inline double power_w(const TwinParameters& p, double clock_mhz, double temperature_c,
                      const Activity& activity) {
  const double v = voltage_frac(p, clock_mhz);
  const double sm = p.sm_active_w * activity.sm_active_frac * (clock_mhz / p.clock_max_mhz) * v * v;
  const double tensor = p.energy_per_flop_pj * 1e-12 * activity.flops_per_s * v * v;
  const double leakage = p.leakage_w_per_c * (temperature_c - p.leakage_reference_c);
  return p.idle_w + leakage + sm + memory_power_w(p, activity) + tensor;
}

// How much bandwidth is left of the peak at this clock: in proportion to it below the knee.
inline double bandwidth_frac(const TwinParameters& p, double clock_mhz) {
  return std::min(1.0, clock_mhz / p.clock_knee_mhz);
}

// How much longer work takes at this clock than at the maximum: its clock-bound part as 1 / clock,
// the rest not at all down to the knee and as 1 / clock below it.
inline double stretch(const TwinParameters& p, double clock_bound_frac, double clock_mhz) {
  return clock_bound_frac * p.clock_max_mhz / clock_mhz +
         (1 - clock_bound_frac) / bandwidth_frac(p, clock_mhz);
}

// The rates of work that takes `busy_us` at this clock.
inline Activity activity_of(const CostEstimate& work, double busy_us) {
  return {work.sm_active_frac, work.bytes / (busy_us * 1e-6), work.flops / (busy_us * 1e-6)};
}

// The same with another tenant on the board: the memory-bound part shares the bandwidth with it.
double stretch_beside(const TwinParameters& p, const TwinEnvironment& environment,
                      double clock_bound_frac, double clock_mhz);
// The board's whole activity: the work's (or none) and the tenant's.
Activity activity_beside(const TwinParameters& p, const TwinEnvironment& environment,
                         double clock_mhz, Activity own);
// Throws InvalidArgument naming what is negative, not finite or out of range.
void check_environment(const TwinEnvironment& environment);
void check_work(const CostEstimate& work);
// The lower of the environment's cap and the board's.
double enforced_cap_w(const TwinParameters& p, double power_cap_w);

}  // namespace thermoe::cost
