#include "prometheus_export.h"

#include <fmt/format.h>
#include <httplib.h>
#include <prometheus/metric_family.h>
#include <prometheus/text_serializer.h>
#include <sys/socket.h>

#include <array>
#include <atomic>
#include <charconv>
#include <chrono>
#include <optional>
#include <thread>
#include <utility>

#include "thermoe/error.h"

namespace thermoe::app {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;

struct Exported {
  const char* name;
  const char* help;
  MetricType type;
  std::optional<double> (*value)(const HardwareState& state);
};

std::optional<double> scaled(const std::optional<double>& value, double factor) {
  return value ? std::optional<double>(*value * factor) : std::nullopt;
}

constexpr double kHzPerMhz = 1e6;
constexpr double kNsPerS = 1e9;

// dcgm-exporter's names and units, then ours.
constexpr std::array kReadings{
    Exported{"DCGM_FI_DEV_SM_CLOCK", "SM clock frequency (in MHz).", MetricType::Gauge,
             [](const HardwareState& s) { return s.sm_clock_mhz; }},
    Exported{"DCGM_FI_DEV_MEM_CLOCK", "Memory clock frequency (in MHz).", MetricType::Gauge,
             [](const HardwareState& s) { return s.mem_clock_mhz; }},
    Exported{"DCGM_FI_DEV_GPU_TEMP", "GPU temperature (in C).", MetricType::Gauge,
             [](const HardwareState& s) { return s.temperature_c; }},
    Exported{"DCGM_FI_DEV_MEMORY_TEMP", "Memory temperature (in C).", MetricType::Gauge,
             [](const HardwareState& s) { return s.memory_temperature_c; }},
    Exported{"DCGM_FI_DEV_POWER_USAGE", "Power draw (in W).", MetricType::Gauge,
             [](const HardwareState& s) { return s.power_w(); }},
    Exported{"DCGM_FI_DEV_ENFORCED_POWER_LIMIT", "Enforced power limit (in W).", MetricType::Gauge,
             [](const HardwareState& s) { return s.power_limit_w; }},
    Exported{"DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION",
             "Total energy consumption since the driver was loaded (in mJ).", MetricType::Counter,
             [](const HardwareState& s) { return s.energy_mj; }},
    Exported{"DCGM_FI_DEV_CLOCK_THROTTLE_REASONS", "Why clocks are held back (bit mask).",
             MetricType::Gauge,
             [](const HardwareState& s) {
               return s.throttle_reasons
                          ? std::optional<double>(static_cast<double>(*s.throttle_reasons))
                          : std::nullopt;
             }},
    Exported{"DCGM_FI_DEV_POWER_VIOLATION", "Throttling duration due to power constraints (in ns).",
             MetricType::Counter,
             [](const HardwareState& s) { return scaled(s.throttled_power_cap_s, kNsPerS); }},
    Exported{"DCGM_FI_DEV_THERMAL_VIOLATION",
             "Throttling duration due to thermal constraints (in ns).", MetricType::Counter,
             [](const HardwareState& s) { return scaled(s.throttled_thermal_s, kNsPerS); }},
    Exported{"DCGM_FI_DEV_BOARD_LIMIT_VIOLATION",
             "Throttling duration due to board limit constraints (in ns).", MetricType::Counter,
             [](const HardwareState& s) { return scaled(s.throttled_board_limit_s, kNsPerS); }},
    Exported{"DCGM_FI_DEV_RELIABILITY_VIOLATION",
             "Throttling duration due to reliability constraints (in ns).", MetricType::Counter,
             [](const HardwareState& s) { return scaled(s.throttled_reliability_s, kNsPerS); }},
    Exported{
        "DCGM_FI_DEV_CLOCKS_EVENT_REASON_HW_THERM_SLOWDOWN_NS",
        "Throttling duration by the hardware, due to heat (in ns).", MetricType::Counter,
        [](const HardwareState& s) { return scaled(s.throttled_hardware_thermal_s, kNsPerS); }},
    Exported{"DCGM_FI_DEV_CLOCKS_EVENT_REASON_HW_POWER_BRAKE_SLOWDOWN_NS",
             "Throttling duration due to the external power brake (in ns).", MetricType::Counter,
             [](const HardwareState& s) { return scaled(s.throttled_power_brake_s, kNsPerS); }},
    Exported{"DCGM_FI_PROF_SM_ACTIVE", "The ratio of SMs with at least one warp (0 to 1).",
             MetricType::Gauge, [](const HardwareState& s) { return s.sm_active_frac; }},
    Exported{"DCGM_FI_PROF_PIPE_TENSOR_ACTIVE",
             "The ratio of cycles the tensor pipes are active (0 to 1).", MetricType::Gauge,
             [](const HardwareState& s) { return s.tensor_active_frac; }},
    Exported{"DCGM_FI_PROF_DRAM_ACTIVE",
             "The ratio of the device memory's bandwidth in use (0 to 1).", MetricType::Gauge,
             [](const HardwareState& s) { return s.dram_active_frac; }},
    Exported{"thermoe_gpu_power_average_watts", "Board power over about one second.",
             MetricType::Gauge, [](const HardwareState& s) { return s.power_average_w; }},
    Exported{"thermoe_gpu_sm_clock_max_hertz", "Highest SM clock of the board.", MetricType::Gauge,
             [](const HardwareState& s) { return scaled(s.sm_clock_max_mhz, kHzPerMhz); }},
    Exported{"thermoe_gpu_temperature_limit_celsius", "Above it the board lowers its clocks.",
             MetricType::Gauge, [](const HardwareState& s) { return s.temperature_limit_c; }},
    Exported{"thermoe_gpu_present", "1, or 0 where the device is lost.", MetricType::Gauge,
             [](const HardwareState& s) { return std::optional<double>(s.present ? 1.0 : 0.0); }},
};

struct ExportedStat {
  const char* name;
  const char* help;
  double (*value)(const MonitorStats& stats);
};

constexpr std::array kStats{
    ExportedStat{"thermoe_monitor_samples_total", "Samples taken.",
                 [](const MonitorStats& s) { return static_cast<double>(s.samples); }},
    ExportedStat{"thermoe_monitor_skipped_ticks_total", "Samples left out to bound the load.",
                 [](const MonitorStats& s) { return static_cast<double>(s.skipped_ticks); }},
    ExportedStat{"thermoe_monitor_sampling_seconds_total", "Time spent in the driver.",
                 [](const MonitorStats& s) { return s.sampling_s; }},
    ExportedStat{"thermoe_monitor_thread_cpu_seconds_total",
                 "Processor time of the polling thread.",
                 [](const MonitorStats& s) { return s.thread_cpu_s; }},
};

// Asked from the server's threads; what it reads of a monitor may be read from any.
class Collector {
 public:
  explicit Collector(std::vector<ExportedDevice> devices) : devices_(std::move(devices)) {}

  std::vector<MetricFamily> collect() const {
    std::vector<MetricFamily> families;
    for (const Exported& reading : kReadings)
      add(families, reading.name, reading.help, reading.type,
          [&reading](const GpuSystemMonitor& monitor) { return reading.value(monitor.state()); });
    for (const ExportedStat& stat : kStats)
      add(families, stat.name, stat.help, MetricType::Counter,
          [&stat](const GpuSystemMonitor& monitor) {
            return std::optional<double>(stat.value(monitor.stats()));
          });
    return families;
  }

 private:
  template <typename Value>
  void add(std::vector<MetricFamily>& families, const char* name, const char* help, MetricType type,
           const Value& value_of) const {
    MetricFamily family{name, help, type, {}};
    for (const ExportedDevice& device : devices_) {
      const std::optional<double> value = value_of(*device.monitor);
      if (!value) continue;
      const DeviceInfo info = device.monitor->device();
      ClientMetric metric;
      metric.label = {{"gpu", std::to_string(device.gpu)},
                      {"UUID", info.uuid},
                      {"device", fmt::format("nvidia{}", device.gpu)},
                      {"modelName", info.name}};
      (type == MetricType::Counter ? metric.counter.value : metric.gauge.value) = *value;
      family.metric.push_back(std::move(metric));
    }
    if (!family.metric.empty()) families.push_back(std::move(family));
  }

  std::vector<ExportedDevice> devices_;
};

struct Endpoint {
  std::string host;
  int port = 0;
};

Endpoint endpoint_of(const std::string& address) {
  const size_t colon = address.rfind(':');
  int port = -1;
  if (colon != std::string::npos) {
    const char* end = address.data() + address.size();
    const auto [stop, error] = std::from_chars(address.data() + colon + 1, end, port);
    if (error != std::errc() || stop != end) port = -1;
  }
  if (port < 0 || port > 65535)
    throw InvalidArgument(
        fmt::format("--prometheus {}: give it as :PORT or HOST:PORT, such as :9400", address));
  return {colon == 0 ? "0.0.0.0" : address.substr(0, colon), port};
}

// The library's own options let two servers share a port.
void reuse_address(int socket) {
  const int yes = 1;
  ::setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
}

}  // namespace

// cpp-httplib's threads have stacks of the usual size. prometheus-cpp's own server gives its 100
// KiB, of which OpenBLAS and the CUDA runtime take 70 for their thread-local variables: a crash.
struct PrometheusExport::Impl {
  explicit Impl(std::vector<ExportedDevice> devices) : collector(std::move(devices)) {}

  Collector collector;
  httplib::Server server;
  int port = 0;
  std::atomic<bool> ended = false;
  std::thread listener;
};

PrometheusExport::PrometheusExport(const std::string& address, std::vector<ExportedDevice> devices)
    : impl_(std::make_unique<Impl>(std::move(devices))) {
  const Endpoint where = endpoint_of(address);
  httplib::Server& server = impl_->server;
  server.set_socket_options(reuse_address);
  server.new_task_queue = [] { return new httplib::ThreadPool(2); };  // the server deletes it
  server.Get("/metrics", [this](const httplib::Request&, httplib::Response& response) {
    response.set_content(prometheus::TextSerializer().Serialize(impl_->collector.collect()),
                         "text/plain; version=0.0.4; charset=utf-8");
  });
  if (where.port == 0)
    impl_->port = server.bind_to_any_port(where.host);
  else if (server.bind_to_port(where.host, where.port))
    impl_->port = where.port;
  if (impl_->port <= 0)
    throw InvalidArgument(
        fmt::format("--prometheus {}: can't listen there; is the port taken?", address));
  impl_->listener = std::thread([this] {
    impl_->server.listen_after_bind();
    impl_->ended = true;
  });
}

PrometheusExport::~PrometheusExport() {
  // stop() before the listener runs does nothing, and a listener not told to stop never ends.
  while (!impl_->server.is_running() && !impl_->ended) std::this_thread::yield();
  impl_->server.stop();
  impl_->listener.join();
}

int PrometheusExport::port() const { return impl_->port; }
bool PrometheusExport::available() { return true; }

}  // namespace thermoe::app
