// The columns of a trace (data/telemetry/README.md), for reading and for writing.
#pragma once

#include <array>
#include <optional>
#include <string_view>

#include "thermoe/hardware_state.h"

namespace thermoe {

struct TraceColumn {
  std::string_view name;
  std::optional<double> HardwareState::*member;
};

inline constexpr std::string_view kTraceTime = "time_s";
inline constexpr std::string_view kTracePhase = "phase";
inline constexpr std::string_view kTraceReasons = "clocks_event_reasons";
inline constexpr std::array kTraceColumns = {
    TraceColumn{"temp_c", &HardwareState::temperature_c},
    TraceColumn{"mem_temp_c", &HardwareState::memory_temperature_c},
    TraceColumn{"temperature_limit_c", &HardwareState::temperature_limit_c},
    TraceColumn{"power_instant_w", &HardwareState::power_instant_w},
    TraceColumn{"power_average_w", &HardwareState::power_average_w},
    TraceColumn{"power_limit_w", &HardwareState::power_limit_w},
    TraceColumn{"sm_clock_mhz", &HardwareState::sm_clock_mhz},
    TraceColumn{"sm_clock_max_mhz", &HardwareState::sm_clock_max_mhz},
    TraceColumn{"mem_clock_mhz", &HardwareState::mem_clock_mhz},
    TraceColumn{"energy_mj", &HardwareState::energy_mj},
    TraceColumn{"throttled_power_cap_s", &HardwareState::throttled_power_cap_s},
    TraceColumn{"throttled_power_brake_s", &HardwareState::throttled_power_brake_s},
    TraceColumn{"throttled_thermal_s", &HardwareState::throttled_thermal_s},
    TraceColumn{"throttled_hardware_thermal_s", &HardwareState::throttled_hardware_thermal_s},
    TraceColumn{"throttled_board_limit_s", &HardwareState::throttled_board_limit_s},
    TraceColumn{"throttled_reliability_s", &HardwareState::throttled_reliability_s},
    TraceColumn{"sm_active_frac", &HardwareState::sm_active_frac},
    TraceColumn{"tensor_active_frac", &HardwareState::tensor_active_frac},
    TraceColumn{"dram_active_frac", &HardwareState::dram_active_frac},
};

}  // namespace thermoe
