// thermoe monitor: the state of the GPUs, as a table that refreshes, as JSON lines, as a recording.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <chrono>
#include <memory>
#include <thread>
#include <vector>

#include "commands.h"
#include "interrupt.h"
#include "monitor_session.h"
#include "progress.h"
#include "prometheus_export.h"
#include "table.h"
#include "thermoe/error.h"

namespace thermoe::app {
namespace {

struct MonitorOptions {
  std::string telemetry = "auto", csv, phase_file, json, prometheus;
  double rate_hz = 20, duration_s = 0;
};

using Devices = std::vector<std::unique_ptr<MonitoredDevice>>;

int gpu_index(const std::string& telemetry) {
  const std::string text = telemetry.substr(5);
  int index = -1;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), index);
  if (error != std::errc() || end != text.data() + text.size() || index < 0)
    throw InvalidArgument(fmt::format("--telemetry {}: '{}' is no GPU's index; nvml:0 is the first",
                                      telemetry, text));
  return index;
}

Devices open_devices(const MonitorOptions& options) {
  Devices devices;
  const auto add = [&](int gpu, std::unique_ptr<TelemetrySource> source) {
    devices.push_back(std::make_unique<MonitoredDevice>(gpu, std::move(source), options.rate_hz,
                                                        options.csv, options.phase_file));
  };
  const std::string& telemetry = options.telemetry;
  if (telemetry.starts_with("replay:")) {
    add(0, open_replay_source(telemetry.substr(7), 1.0 / options.rate_hz));
  } else if (telemetry.starts_with("nvml:")) {
    const int index = gpu_index(telemetry);
    add(index, open_nvml_source(index));
  } else if (telemetry == "auto" || telemetry == "nvml") {
    const int count = std::max(1, count_nvml_devices());  // one is tried, to say what is wrong
    if (count > 1 && !options.csv.empty())
      throw InvalidArgument(fmt::format(
          "--csv records one GPU and there are {}: choose one with --telemetry nvml:N", count));
    for (int gpu = 0; gpu < count; ++gpu) add(gpu, open_nvml_source(gpu));
  } else {
    throw InvalidArgument(fmt::format(
        "unknown telemetry '{}': known are auto, nvml, nvml:N and replay:FILE", telemetry));
  }
  return devices;
}

std::string cell(const std::optional<double>& value, const char* format = "{:.0f}") {
  return value ? fmt::format(fmt::runtime(format), *value) : "-";
}

std::string live_table(const Devices& devices) {
  Table table;
  table.header = {"GPU",    "power W", "limit W", "SM MHz", "memory MHz",  "°C",
                  "HBM °C", "tensor",  "DRAM",    "kJ",     "held back by"};
  for (const auto& device : devices) {
    const HardwareState& state = device->state();
    std::optional<double> energy_kj = device->energy().energy_mj;
    if (energy_kj) *energy_kj *= 1e-6;
    table.rows.push_back({fmt::format("{} {}", device->gpu(), device->monitor().device().name),
                          cell(state.power_w()), cell(state.power_limit_w),
                          cell(state.sm_clock_mhz), cell(state.mem_clock_mhz),
                          cell(state.temperature_c), cell(state.memory_temperature_c),
                          cell(state.tensor_active_frac, "{:.2f}"),
                          cell(state.dram_active_frac, "{:.2f}"), cell(energy_kj, "{:.3f}"),
                          !state.present           ? "device lost"
                          : state.throttle_reasons ? throttle_text(*state.throttle_reasons)
                                                   : "?"});
  }
  return table.text();
}

std::string summary_table(const MonitoredDevice& device) {
  const EnergyReading energy = device.energy();
  const MonitorStats stats = device.monitor().stats();
  Table table;
  table.header = {fmt::format("GPU {}: {}", device.gpu(), device.monitor().device().name), "value",
                  "unit"};
  const auto row = [&table](const char* name, const std::string& value, const char* unit) {
    table.rows.push_back({name, value, unit});
  };
  row("observed", fmt::format("{:.2f} of {:.2f}", energy.observed_s, energy.span_s), "s");
  row("samples", fmt::format("{}", stats.samples), "");
  row("power, mean", cell(device.power().mean(), "{:.1f}"), "W");
  row("SM clock, mean", cell(device.clock().mean()), "MHz");
  row("temperature, highest",
      device.temperature().count > 0 ? fmt::format("{:.0f}", device.temperature().highest) : "-",
      "°C");
  const ThrottleReading throttled = device.throttled();
  row(throttled.by_counters ? "throttled, by the counters" : "throttled, by the samples' reasons",
      fmt::format("{:.2f}", throttled.throttled_s), "s");
  if (energy.energy_mj)
    row("energy",
        fmt::format("{:.1f} ± {:.1f}", 1e-3 * *energy.energy_mj, 1e-3 * energy.uncertainty_mj),
        "J");
  if (energy.disagreement_frac)
    row("counter against integrated power", fmt::format("{:+.4f}", *energy.disagreement_frac), "");
  if (energy.counter_resets + energy.counter_stalls > 0)
    row("counter fell, stood still",
        fmt::format("{}, {}", energy.counter_resets, energy.counter_stalls), "times");
  row("time in the driver", fmt::format("{:.3f}", stats.sampling_s), "s");
  row("processor time of the thread",
      fmt::format("{:.3f} ({:.4f} of a core)", stats.thread_cpu_s, stats.thread_cpu_frac()), "s");
  return table.text();
}

// A table drawn over itself on a terminal, at most five times a second.
class LiveTable {
 public:
  ~LiveTable() { clear(); }
  void update(const Devices& devices) {
    const auto now = std::chrono::steady_clock::now();
    if (!interactive() || now - last_ < std::chrono::milliseconds(200)) return;
    last_ = now;
    clear();
    const std::string text = live_table(devices);
    lines_ = std::count(text.begin(), text.end(), '\n');
    fmt::print(stderr, "{}", text);
    std::fflush(stderr);
  }
  void clear() {
    if (lines_ > 0) fmt::print(stderr, "\r\033[{}A\033[J", lines_);
    lines_ = 0;
  }

 private:
  std::chrono::steady_clock::time_point last_{};
  std::ptrdiff_t lines_ = 0;
};

// A replay is over where its last row stays.
class EndOfTrace {
 public:
  explicit EndOfTrace(double rate_hz) : patience_(std::chrono::duration<double>(3.0 / rate_hz)) {}
  bool reached(bool fresh) {
    const auto now = std::chrono::steady_clock::now();
    if (fresh) last_ = now;
    return now - last_ > patience_ + std::chrono::seconds(1);
  }

 private:
  std::chrono::duration<double> patience_;
  std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
};

void follow(const MonitorOptions& options, Devices& devices) {
  const auto start = std::chrono::steady_clock::now();
  const bool simulated = devices.front()->monitor().device().simulated;
  EndOfTrace end(options.rate_hz);
  LiveTable table;
  // Twice as often as the samples come: none is missed.
  const auto pause = std::chrono::duration<double>(0.5 / options.rate_hz);
  while (!Interrupt::raised()) {
    bool fresh = false;
    for (const auto& device : devices) {
      if (!device->update()) continue;
      fresh = true;
      if (options.json == "-") fmt::print("{}\n", sample_json(*device).dump());
    }
    if (options.json == "-" && fresh) std::fflush(stdout);
    if (options.json.empty()) table.update(devices);
    if (simulated && end.reached(fresh)) return;
    const auto passed = std::chrono::steady_clock::now() - start;
    if (options.duration_s > 0 && passed >= std::chrono::duration<double>(options.duration_s))
      return;
    std::this_thread::sleep_for(pause);
  }
}

void run_monitor(const MonitorOptions& options) {
  if (!options.phase_file.empty() && options.csv.empty())
    throw InvalidArgument("--phase-file labels the rows of a recording: give --csv as well");
  if (!options.json.empty() && options.json != "-")
    throw InvalidArgument("--json writes lines to stdout: give it as --json -");
  Devices devices = open_devices(options);
  std::unique_ptr<PrometheusExport> served;
  if (!options.prometheus.empty()) {
    std::vector<ExportedDevice> exported;
    for (const auto& device : devices) exported.push_back({device->gpu(), &device->monitor()});
    served = std::make_unique<PrometheusExport>(options.prometheus, exported);
    if (interactive())
      fmt::print(stderr, "for Prometheus at port {}, path /metrics\n", served->port());
  }
  {
    const Interrupt interrupt;
    follow(options, devices);
  }
  for (const auto& device : devices) {
    if (options.json == "-")
      fmt::print("{}\n", summary_json(*device).dump());
    else
      fmt::print("{}", summary_table(*device));
  }
}

}  // namespace

void add_monitor_command(CLI::App& program) {
  const auto options = std::make_shared<MonitorOptions>();
  CLI::App* command = program.add_subcommand(
      "monitor",
      "The GPUs' telemetry until interrupted: a table that refreshes, then what was used");
  command->add_option("--telemetry", options->telemetry,
                      "auto or nvml: every GPU; nvml:N: one; replay:FILE: a recorded trace");
  command->add_option("--rate-hz", options->rate_hz, "samples a second")
      ->check(CLI::Range(0.1, 1000.0))
      ->capture_default_str();
  command->add_option("--duration-s", options->duration_s, "stop after so long; 0: at Ctrl-C")
      ->check(CLI::NonNegativeNumber);
  command->add_option("--csv", options->csv,
                      "record the samples to this file, as replay reads them");
  command->add_option("--phase-file", options->phase_file,
                      "whose first line, read at each sample, goes into the recording's phase");
  command->add_option("--json", options->json,
                      "-: a JSON object a line and sample to stdout, and one with the sums last");
  command->add_option(
      "--prometheus", options->prometheus,
      "[HOST]:PORT to serve /metrics at, with dcgm-exporter's names, such as :9400");
  command->callback([options] { run_monitor(*options); });
}

}  // namespace thermoe::app
