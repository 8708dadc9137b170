#include "monitor_session.h"

#include <algorithm>
#include <array>
#include <fstream>
#include <utility>

#include "telemetry/readings.h"

namespace thermoe::app {

namespace {

// Empty where the file is not there (yet).
std::string first_line(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

nlohmann::ordered_json number(const std::optional<double>& value) {
  return value ? nlohmann::ordered_json(*value) : nlohmann::ordered_json();
}

nlohmann::ordered_json highest(const ReadingSummary& reading) {
  return number(reading.count > 0 ? std::optional<double>(reading.highest) : std::nullopt);
}

// What is known of each reading of the last sample.
nlohmann::ordered_json readings_json(const HardwareState& state) {
  nlohmann::ordered_json json;
  size_t n = 0;
  for_each_reading(state, [&](const char* name, const auto& reading) {
    const ReadingStatus& status = state.status[n++];
    json[name] = {{"validity", name_of(status.validity)}, {"scope", name_of(status.scope)}};
    if (!reading) return;
    json[name]["age_s"] = 1e-3 * status.age_ms;
    json[name]["unchanged_s"] = 1e-3 * status.unchanged_ms;
  });
  return json;
}

nlohmann::ordered_json throttled_json(const ThrottleReading& throttled) {
  const ThrottleTimes& counted = throttled.counted;
  return {{"by", throttled.by_counters ? "counters" : "event_reasons"},
          {"event_reasons_s", throttled.reasons_s},
          {"power_cap_s", number(counted.power_cap_s)},
          {"power_brake_s", number(counted.power_brake_s)},
          {"thermal_s", number(counted.thermal_s)},
          {"hardware_thermal_s", number(counted.hardware_thermal_s)},
          {"board_limit_s", number(counted.board_limit_s)},
          {"reliability_s", number(counted.reliability_s)},
          {"counter_resets", throttled.counter_resets}};
}

}  // namespace

void ReadingSummary::add(const std::optional<double>& value) {
  if (!value) return;
  highest = count == 0 ? *value : std::max(highest, *value);
  sum += *value;
  ++count;
}

std::optional<double> ReadingSummary::mean() const {
  return count > 0 ? std::optional<double>(sum / static_cast<double>(count)) : std::nullopt;
}

MonitoredDevice::MonitoredDevice(int gpu, std::unique_ptr<TelemetrySource> source, double rate_hz,
                                 const std::string& recording, std::string phase_file)
    : gpu_(gpu),
      monitor_(std::move(source), {.rate_hz = rate_hz}),
      phase_file_(std::move(phase_file)) {
  if (!recording.empty()) recorder_.emplace(recording);
  monitor_.start();
}

bool MonitoredDevice::update() {
  const HardwareState newest = monitor_.state();
  if (monitor_.stats().samples == 0 || (any_ && newest.time_s <= state_.time_s)) return false;
  any_ = true;
  state_ = newest;
  meter_.add(newest);
  throttle_.add(newest);
  power_.add(newest.power_w());
  temperature_.add(newest.temperature_c);
  clock_.add(newest.sm_clock_mhz);
  if (recorder_) recorder_->add(newest, phase_file_.empty() ? "" : first_line(phase_file_));
  return true;
}

std::string throttle_text(uint64_t reasons) {
  static constexpr std::array<std::pair<uint64_t, const char*>, 5> kNames{
      {{kThrottleSoftwarePowerCap, "power cap"},
       {kThrottlePowerBrake, "power brake"},
       {kThrottleSoftwareThermal, "thermal"},
       {kThrottleHardwareThermal, "hardware thermal"},
       {kThrottleHardwareSlowdown, "hardware slowdown"}}};
  std::string text;
  for (const auto& [bit, name] : kNames)
    if ((reasons & bit) != 0) text += (text.empty() ? "" : ", ") + std::string(name);
  return text.empty() ? "-" : text;
}

nlohmann::ordered_json sample_json(const MonitoredDevice& device) {
  const HardwareState& state = device.state();
  nlohmann::ordered_json json{
      {"gpu", device.gpu()}, {"time_s", state.time_s}, {"present", state.present}};
  for_each_reading(state, [&json](const char* name, const auto& reading) {
    json[name] = nullptr;
    if (reading) json[name] = *reading;
  });
  return json;
}

nlohmann::ordered_json summary_json(const MonitoredDevice& device) {
  const EnergyReading energy = device.energy();
  const MonitorStats stats = device.monitor().stats();
  const ThrottleReading throttled = device.throttled();
  return {{"gpu", device.gpu()},
          {"summary", true},
          {"source", device.monitor().source_name()},
          {"device", device.monitor().device().name},
          {"uuid", device.monitor().device().uuid},
          {"driver", device.monitor().device().driver_version},
          {"samples", stats.samples},
          {"skipped_ticks", stats.skipped_ticks},
          {"sampling_s", stats.sampling_s},
          {"thread_s", stats.thread_s},
          {"thread_cpu_s", stats.thread_cpu_s},
          {"thread_cpu_frac", stats.thread_cpu_frac()},
          {"span_s", energy.span_s},
          {"observed_s", energy.observed_s},
          {"power_mean_w", number(device.power().mean())},
          {"power_max_w", highest(device.power())},
          {"temperature_max_c", highest(device.temperature())},
          {"sm_clock_mean_mhz", number(device.clock().mean())},
          {"throttled_s", throttled.throttled_s},
          {"throttled", throttled_json(throttled)},
          {"energy_mj", number(energy.energy_mj)},
          {"energy_uncertainty_mj", energy.uncertainty_mj},
          {"energy_integrated_mj", number(energy.integrated_mj)},
          {"energy_disagreement_frac", number(energy.disagreement_frac)},
          {"counter_resets", energy.counter_resets},
          {"counter_stalls", energy.counter_stalls},
          {"readings", readings_json(device.state())}};
}

}  // namespace thermoe::app
