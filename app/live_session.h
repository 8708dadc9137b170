// Decoding under real (or replayed) telemetry: the governor follows an actual GPU's caps and heat.
#pragma once

#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>

#include "decoder.h"
#include "engine.h"
#include "thermoe/governor.h"
#include "thermoe/gpu_system_monitor.h"

namespace thermoe::app {

struct LiveSettings {
  double duration_s = 10;
  std::optional<double> power_cap_w;  // absent: the device's enforced limit, where it says one
  std::optional<double> temperature_cap_c;  // absent: below the device's own limit by a margin
  double max_open_price = 0.25;
  // Replayed telemetry runs in virtual time: each decode step lasts so long. Absent: wall time.
  std::optional<double> virtual_step_s;
};

struct LiveOutcome {
  std::string source, device;
  bool on_gpu = false;  // the model, not only the telemetry
  double duration_s = 0;
  int64_t tokens = 0;
  std::optional<double> power_mean_w, power_peak_w, temperature_peak_c;  // absent: never read
  double throttled_frac = 0;                                             // of the samples
  double open_price_mean = 0, open_price_peak = 0;
  double distinct_experts_mean = 0;
  std::array<double, kPrecisions> opened_frac{};  // instances in each precision, of all opened
};

// Decodes for the duration; never fails for telemetry that goes missing.
LiveOutcome run_live(Engine& engine, Decoder& decoder, std::unique_ptr<TelemetrySource> source,
                     const LiveSettings& settings);
std::string to_table(const LiveOutcome& outcome);
nlohmann::ordered_json to_json(const LiveOutcome& outcome);

}  // namespace thermoe::app
