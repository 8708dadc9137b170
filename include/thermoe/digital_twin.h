// The digital twin: a simulated GPU in virtual time whose power, clock and temperature follow the
// work it is given. Deterministic. Parameters identified from a recorded H100
// (docs/device-model.md).
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "thermoe/gpu_system_monitor.h"
#include "thermoe/kernel_cost_model.h"
#include "thermoe/thermal_model.h"

namespace thermoe {

// Power, clock and thermal parameters of a device (data/profiles/<device>-power.json).
//   power = idle + leakage(T) + sm_active * (f/fmax) * (V/Vmax)^2 + energy_per_byte * bytes/s
//         + energy_per_flop * flops/s * (V/Vmax)^2
// and of the heat that it makes: thermal_model.h.
struct TwinParameters {
  std::string device;
  double clock_max_mhz = 0, clock_min_mhz = 0;
  double clock_knee_mhz = 0;      // below it memory bandwidth falls in proportion to the clock
  double idle_w = 0;              // at leakage_reference_c, without leakage above it
  double power_limit_w = 0;       // the board's own cap
  double sm_active_w = 0;         // at clock_max_mhz, while any kernel runs
  double energy_per_byte_pj = 0;  // HBM traffic
  double energy_per_flop_pj = 0;  // tensor arithmetic at the maximum clock's voltage
  double voltage_floor_frac = 0;  // V(f)/V(max) at and below clock_knee; linear above
  double leakage_w_per_c = 0, leakage_reference_c = 0;
  ThermalParameters thermal;
  double slowdown_c = 0;           // throttle threshold (software thermal slowdown)
  double memory_bytes_per_s = 0;   // peak HBM bandwidth, for rooflines
  double tensor_flops_per_s = 0;   // sustained tensor rate at clock_max_mhz, for rooflines
  double hardware_slowdown_c = 0;  // above it the hardware slows down at once
  // Where the driver tells thresholds as margins (H100) and not as temperatures (A100): the
  // temperature at which the margin is 0.
  std::optional<double> margin_zero_c;
  // The memory's share of the power above idle, read from the two sensors once they have settled:
  //   share = offset + slope (T_memory - T_die) / (power - idle).   A slope of 0: not identified.
  double share_sensor_offset = 0, share_sensor_w_per_c = 0;
  // Seconds of the recorded trace (by its file name) that the thermal parameters were fitted to.
  std::string fitted_trace;
  std::vector<std::pair<double, double>> fitted_rows_s;
};
// Throws IoError naming the file and the field for one that is no such profile.
TwinParameters read_twin_parameters(const std::filesystem::path& file);

// What the outside does to the device.
struct TwinEnvironment {
  double power_cap_w = 0;  // enforced by the device's firmware; 0: the board's own limit
  // Air (or coolant) inlet temperature; absent: as recorded.
  std::optional<double> inlet_c = std::nullopt;
  // A failing fan: the heat sink's thermal resistance, as a multiple of the identified one. > 0.
  double sink_resistance_factor = 1;
  // Another tenant of the board: the part of the memory's bandwidth that it takes, in [0, 1), and
  // what its arithmetic draws at the maximum clock.
  double neighbour_bandwidth_frac = 0, neighbour_power_w = 0;
  // Sensors: no reading at all, or seeded normal noise on what they read (standard deviations;
  // drawn anew as often as NVML refreshes, so a state read twice at one time is the same).
  bool sensors_lost = false;
  double temperature_noise_c = 0, power_noise_frac = 0;
  uint64_t noise_seed = 1;
};

// Where power, clock and temperature come to rest under unchanging work.
struct OperatingPoint {
  double sm_clock_mhz = 0;
  double power_w = 0, memory_power_w = 0;  // of the board, and the memory's part
  double temperature_c = 0;
  double busy_us = 0;      // of the work, at that clock
  bool above_cap = false;  // not even the lowest clock meets the cap
};
// The work back to back: the highest clock at which the power meets the cap (power is nondecreasing
// in the clock), at a given die temperature. A cap of 0: the board's own limit. Throws
// InvalidArgument on values that are negative or not finite, or work without duration.
OperatingPoint operating_point(const TwinParameters& parameters, const CostEstimate& work,
                               double power_cap_w, double temperature_c);
// The same with the temperature at its own equilibrium, which is unique (R dP/dT < 1). Leaves
// thermal throttling out.
OperatingPoint steady_state(const TwinParameters& parameters, const CostEstimate& work,
                            const TwinEnvironment& environment = {});

// What one step did.
struct TwinStep {
  double start_s = 0, busy_s = 0, idle_s = 0;  // virtual time; the step spans busy_s + idle_s
  double energy_j = 0;
  double sm_clock_mhz = 0;  // mean over the busy part
  double throttled_s = 0;   // of busy_s, time below the maximum clock because of a cap or heat
};

// The device enforces its power cap (the lower of the environment's and the board's) by its SM
// clock: the clock falls until the average power meets the cap, and recovers. Above slowdown_c the
// clock is pulled down until the temperature meets it. Time advances in sub-steps of a few
// milliseconds at most, so results hardly depend on how a caller cuts it; every sub-step's energy
// is power times time, so the counter is the exact integral of the power. Not thread-safe.
class DigitalTwin {
 public:
  // Starts idle, in thermal equilibrium, at time 0. Throws InvalidArgument naming a parameter that
  // is out of range or a leakage that no temperature balances.
  explicit DigitalTwin(const TwinParameters& parameters);
  ~DigitalTwin();
  DigitalTwin(DigitalTwin&&) noexcept;

  void set_environment(const TwinEnvironment& environment);
  // Runs `work` (estimated at the maximum clock) and then idles until `period_s` after its start
  // (not at all where the work takes longer). Microseconds of CPU time, no allocation. Throws
  // InvalidArgument on negative or not finite values.
  TwinStep advance(const CostEstimate& work, double period_s);
  // Idles for `duration_s`.
  TwinStep idle(double duration_s);
  // As telemetry reads it: temperature in whole degrees, power averaged over one second; with the
  // environment's noise, or without any reading where its sensors are lost. The bit
  // kThrottleSoftwarePowerCap is also set where even the lowest clock can't meet the cap.
  HardwareState state() const;
  double time_s() const;
  double temperature_c() const;  // without the sensor's rounding
  double energy_j() const;       // since time 0
  const TwinParameters& parameters() const;
  // A telemetry source that reads this twin, which must outlive it and not move.
  std::unique_ptr<TelemetrySource> source() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace thermoe
