// HardwareState's readings one by one: their names, which are those of its members, and scopes.
#pragma once

#include <array>

#include "thermoe/hardware_state.h"

namespace thermoe {

// Calls visit(name, reading) for each reading of `state`, in Reading's order; a reading is a
// std::optional.
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
  visit("throttled_power_cap_s", state.throttled_power_cap_s);
  visit("throttled_power_brake_s", state.throttled_power_brake_s);
  visit("throttled_thermal_s", state.throttled_thermal_s);
  visit("throttled_hardware_thermal_s", state.throttled_hardware_thermal_s);
  visit("throttled_board_limit_s", state.throttled_board_limit_s);
  visit("throttled_reliability_s", state.throttled_reliability_s);
  visit("sm_active_frac", state.sm_active_frac);
  visit("tensor_active_frac", state.tensor_active_frac);
  visit("dram_active_frac", state.dram_active_frac);
}

inline bool has_any_reading(const HardwareState& state) {
  bool any = false;
  for_each_reading(state, [&any](const char*, const auto& reading) { any |= reading.has_value(); });
  return any;
}

// What a reading is of where the source says nothing else.
constexpr Scope usual_scope(Reading reading) {
  switch (reading) {
    case Reading::kPowerInstant:
    case Reading::kPowerAverage:
    case Reading::kPowerLimit:
    case Reading::kEnergy:
    case Reading::kThrottledPowerCap:
    case Reading::kThrottledPowerBrake:
    case Reading::kThrottledBoardLimit:
      return Scope::kBoard;
    case Reading::kMemClock:
    case Reading::kMemoryTemperature:
    case Reading::kDramActive:
      return Scope::kMemory;
    default:
      return Scope::kDie;
  }
}

constexpr std::array<const char*, 5> kValidityNames{"unknown", "unsupported", "error", "valid",
                                                    "stale"};
constexpr std::array<const char*, 5> kScopeNames{"unknown", "die", "memory", "board", "module"};
constexpr const char* name_of(Validity validity) {
  return kValidityNames[static_cast<size_t>(validity)];
}
constexpr const char* name_of(Scope scope) { return kScopeNames[static_cast<size_t>(scope)]; }

}  // namespace thermoe
