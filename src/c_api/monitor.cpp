#include <charconv>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>

#include "c_api/records.h"
#include "thermoe/digital_twin.h"
#include "thermoe/gpu_system_monitor.h"

struct thermoe_monitor {  // NOLINT(readability-identifier-naming): C
  std::mutex twin_mutex;  // the monitor's thread reads the twin while others advance it
  std::unique_ptr<thermoe::DigitalTwin> twin;
  std::unique_ptr<thermoe::GpuSystemMonitor> monitor;
  std::string source;
};

namespace thermoe::c_api {
namespace {

// Virtual seconds that one call may take the twin through: a mistaken unit must not hang the
// caller.
constexpr double kLongestPeriodS = 3600;

// A twin's readings, under its lock. The handle outlives the source.
class LockedTwin : public TelemetrySource {
 public:
  explicit LockedTwin(thermoe_monitor& handle) : handle_(handle), source_(handle.twin->source()) {}
  std::string name() const override { return source_->name(); }
  DeviceInfo device() const override { return source_->device(); }
  HardwareState sample() override {
    const std::lock_guard lock(handle_.twin_mutex);
    return source_->sample();
  }

 private:
  thermoe_monitor& handle_;
  std::unique_ptr<TelemetrySource> source_;
};

int nvml_index(std::string_view digits) {
  int index = -1;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), index);
  if (error != std::errc{} || end != digits.data() + digits.size() || index < 0)
    throw InvalidArgument(
        fmt::format("source 'nvml:{}': give a device's number, as in nvml:0", digits));
  return index;
}

std::unique_ptr<TelemetrySource> open_source(const thermoe_monitor_options& options,
                                             thermoe_monitor& handle) {
  const std::string_view source = options.source;
  if (source == "nvml") return open_nvml_source();
  if (source.starts_with("nvml:")) return open_nvml_source(nvml_index(source.substr(5)));
  if (source.starts_with("replay:"))
    return open_replay_source(std::string(source.substr(7)),
                              options.period_s != 0 ? options.period_s : 0.05);
  if (source.starts_with("twin:")) {
    handle.twin = std::make_unique<DigitalTwin>(read_twin_parameters(source.substr(5)));
    return std::make_unique<LockedTwin>(handle);
  }
  throw InvalidArgument(fmt::format(
      "unknown telemetry source '{}': known are nvml:INDEX, replay:FILE and twin:FILE", source));
}

std::unique_ptr<thermoe_monitor> open_monitor(const thermoe_monitor_options* given) {
  const thermoe_monitor_options options =
      read_struct(given, THERMOE_THROUGH(thermoe_monitor_options, source), "monitor options");
  require(options.source, "monitor options: source");
  auto handle = std::make_unique<thermoe_monitor>();
  MonitorSettings settings;
  if (options.rate_hz != 0) settings.rate_hz = options.rate_hz;
  handle->monitor = std::make_unique<GpuSystemMonitor>(open_source(options, *handle), settings);
  handle->source = handle->monitor->source_name();
  return handle;
}

DigitalTwin& twin_of(thermoe_monitor* handle) {
  require(handle, "monitor");
  if (handle->twin == nullptr)
    throw InvalidArgument(
        fmt::format("the monitor reads {}, which is no twin: open one with the source twin:FILE",
                    handle->source));
  return *handle->twin;
}

void check_period(double period_s, const char* name) {
  if (!(period_s <= kLongestPeriodS))
    throw InvalidArgument(fmt::format("{} is {}: advance a twin by at most {} s at once", name,
                                      period_s, kLongestPeriodS));
}

GpuSystemMonitor& monitor_of(thermoe_monitor* handle) {
  require(handle, "monitor");
  return *handle->monitor;
}

}  // namespace
}  // namespace thermoe::c_api

namespace c = thermoe::c_api;

thermoe_status thermoe_monitor_open(const thermoe_monitor_options* options, thermoe_monitor** out) {
  return c::guarded([&] {
    c::require(out, "out");
    *out = nullptr;
    *out = c::open_monitor(options).release();
  });
}

void thermoe_monitor_close(thermoe_monitor* monitor) {
  if (monitor == nullptr) return;
  monitor->monitor.reset();  // its thread reads the twin
  delete monitor;
}

thermoe_status thermoe_monitor_start(thermoe_monitor* monitor) {
  return c::guarded([&] { c::monitor_of(monitor).start(); });
}

thermoe_status thermoe_monitor_stop(thermoe_monitor* monitor) {
  return c::guarded([&] { c::monitor_of(monitor).stop(); });
}

thermoe_status thermoe_monitor_poll(thermoe_monitor* monitor, thermoe_hardware_state* out) {
  return c::guarded([&] { c::write_state(c::monitor_of(monitor).poll(), out); });
}

thermoe_status thermoe_monitor_state(thermoe_monitor* monitor, thermoe_hardware_state* out) {
  return c::guarded([&] { c::write_state(c::monitor_of(monitor).state(), out); });
}

const char* thermoe_monitor_source(const thermoe_monitor* monitor) {
  return monitor == nullptr ? nullptr : monitor->source.c_str();
}

thermoe_status thermoe_monitor_advance_twin(thermoe_monitor* monitor,
                                            const thermoe_cost_estimate* work, double period_s) {
  return c::guarded([&] {
    thermoe::DigitalTwin& twin = c::twin_of(monitor);
    const thermoe::CostEstimate estimate = c::read_estimate(work);
    c::check_period(period_s, "period_s");
    c::check_period(1e-6 * estimate.latency_us, "the work's latency in seconds");
    const std::lock_guard lock(monitor->twin_mutex);
    twin.advance(estimate, period_s);
  });
}

thermoe_status thermoe_monitor_set_twin(thermoe_monitor* monitor,
                                        const thermoe_twin_environment* environment) {
  return c::guarded([&] {
    thermoe::DigitalTwin& twin = c::twin_of(monitor);
    const thermoe_twin_environment given = c::read_struct(
        environment, THERMOE_THROUGH(thermoe_twin_environment, power_cap_w), "twin environment");
    thermoe::TwinEnvironment set;
    set.power_cap_w = given.power_cap_w;
    if (given.sink_resistance_factor != 0)
      set.sink_resistance_factor = given.sink_resistance_factor;
    if (given.inlet_given != 0) set.inlet_c = given.inlet_c;
    set.sensors_lost = given.sensors_lost != 0;
    const std::lock_guard lock(monitor->twin_mutex);
    twin.set_environment(set);
  });
}
