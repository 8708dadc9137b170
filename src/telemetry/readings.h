// The names of HardwareState's readings, for listings: those of its members.
#pragma once

#include "thermoe/hardware_state.h"

namespace thermoe {

// Calls visit(name, reading) for each reading of `state`; a reading is a std::optional.
template <typename Visit>
void for_each_reading(const HardwareState& state, Visit&& visit) {
  visit("power_instant_w", state.power_instant_w);
  visit("power_average_w", state.power_average_w);
  visit("power_limit_w", state.power_limit_w);
  visit("energy_mj", state.energy_mj);
  visit("sm_clock_mhz", state.sm_clock_mhz);
  visit("sm_clock_max_mhz", state.sm_clock_max_mhz);
  visit("mem_clock_mhz", state.mem_clock_mhz);
  visit("temperature_c", state.temperature_c);
  visit("memory_temperature_c", state.memory_temperature_c);
  visit("temperature_limit_c", state.temperature_limit_c);
  visit("throttle_reasons", state.throttle_reasons);
}

inline bool has_any_reading(const HardwareState& state) {
  bool any = false;
  for_each_reading(state, [&any](const char*, const auto& reading) { any |= reading.has_value(); });
  return any;
}

}  // namespace thermoe
