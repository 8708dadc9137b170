#include "gpu_sweep.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "sweep_sample.h"
#include "thermoe/energy_meter.h"
#include "thermoe/throttle_meter.h"

namespace thermoe::app {
namespace {

using Steady = std::chrono::steady_clock;

constexpr double kTelemetryHz = 50;
constexpr double kSettleS = 0.15;  // a board's power is up to a tenth of a second old
// Replays that follow each other without a pause, so that those between stretches don't count.
constexpr double kStretchS = 0.01, kMostReplays = 256;
constexpr int kLeastStretches = 7;

double seconds_from(Steady::time_point start) {
  return std::chrono::duration<double>(Steady::now() - start).count();
}

// What telemetry says while a point is repeated.
class Watch {
 public:
  explicit Watch(const std::optional<GpuSystemMonitor>& monitor) : monitor_(monitor) {
    if (monitor_) before_ = monitor_->state();
  }

  void look(double since_start_s) {
    if (!monitor_) return;
    last_ = monitor_->state();
    reasons_ |= last_.throttle_reasons.value_or(0);
    if (since_start_s >= kSettleS) energy_.add(last_);
  }

  void tell(SweepSample& sample, bool with_power) const {
    if (!monitor_) return;
    sample.clock_mhz = last_.sm_clock_mhz;
    const ThrottleTimes held = throttled_between(before_, last_);
    const auto any = [](const std::optional<double>& time_s) { return time_s.value_or(0) > 0; };
    sample.throttled = (reasons_ & kThrottleAnyThermal) != 0 || any(held.thermal_s) ||
                       any(held.hardware_thermal_s);
    sample.power_capped =
        (reasons_ & kThrottleAnyPower) != 0 || any(held.power_cap_s) || any(held.power_brake_s);
    const EnergyReading energy = energy_.reading();
    if (!with_power || !energy.integrated_mj || energy.observed_s <= 0) return;
    sample.power_w = *energy.integrated_mj * 1e-3 / energy.observed_s;
    sample.power_limit_w = last_.power_limit_w;
  }

 private:
  const std::optional<GpuSystemMonitor>& monitor_;
  HardwareState before_, last_;
  uint64_t reasons_ = 0;
  EnergyMeter energy_;
};

}  // namespace

GpuSweep::GpuSweep(std::unique_ptr<GpuWork> work, std::unique_ptr<TelemetrySource> telemetry)
    : work_(std::move(work)),
      device_(without_commas(work_->facts().name)),
      driver_("CUDA " + work_->facts().cuda_version) {
  if (telemetry == nullptr) return;
  monitor_.emplace(std::move(telemetry), MonitorSettings{.rate_hz = kTelemetryHz});
  const std::string version = monitor_->device().driver_version;
  if (!version.empty()) driver_ = without_commas("NVIDIA " + version + " " + driver_);
  monitor_->start();
}

void GpuSweep::check(const std::vector<SweepPoint>& points) const {
  for (const SweepPoint& point : points) work_->check(point);
}

SweepSample GpuSweep::run(const SweepPoint& point, double seconds) {
  const auto begin = Steady::now();
  work_->prepare(point);
  work_->run_us(1);  // the first one's code may have to be loaded
  const auto before = Steady::now();
  work_->run_us(1);
  const double replay_s = seconds_from(before);
  const bool with_power = point.least_s > 0;
  const int replays =
      with_power ? static_cast<int>(std::clamp(kStretchS / replay_s, 1.0, kMostReplays)) : 1;
  Watch watch(monitor_);
  std::vector<double> times_us;
  const auto start = Steady::now();
  while (times_us.size() < kLeastStretches || seconds_from(start) < seconds) {
    times_us.push_back(work_->run_us(replays));
    watch.look(seconds_from(start));
  }
  SweepSample sample;
  watch.tell(sample, with_power);
  std::sort(times_us.begin(), times_us.end());
  sample.latency_us = quantile_of(times_us, 0.5);
  sample.spread_frac =
      (quantile_of(times_us, 0.75) - quantile_of(times_us, 0.25)) / sample.latency_us;
  sample.wall_s = seconds_from(begin);
  return sample;
}

std::unique_ptr<TelemetrySource> open_telemetry_of(const std::string& uuid) {
  const TelemetryProbe probe = probe_nvml();
  for (size_t i = 0; i < probe.devices.size(); ++i)
    if (probe.devices[i].uuid == uuid) return open_nvml_source(static_cast<int>(i));
  return nullptr;
}

std::unique_ptr<GpuSweep> make_gpu_sweep() {
  std::unique_ptr<GpuWork> work = make_gpu_work();
  auto telemetry = open_telemetry_of(work->facts().uuid);
  return std::make_unique<GpuSweep>(std::move(work), std::move(telemetry));
}

}  // namespace thermoe::app
