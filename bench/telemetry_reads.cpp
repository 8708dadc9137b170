// Google Benchmark of telemetry: reading the published snapshot (contract: 50 ns), and what each of
// the driver's calls costs on this machine: "Time" waits, "CPU" is the thread's processor time. A
// field's label says what came of it, its type, the driver's own latency and the age by its stamp.
#include <benchmark/benchmark.h>
#include <fmt/format.h>

#include <array>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "telemetry/clocks.h"
#include "telemetry/nvml_gpm.h"
#include "telemetry/nvml_library.h"
#include "telemetry/nvml_reader.h"
#include "thermoe/error.h"
#include "thermoe/gpu_system_monitor.h"

namespace {

using namespace thermoe;

// Gives a state with every second reading, at once.
class ReadySource final : public TelemetrySource {
 public:
  std::string name() const override { return "ready"; }
  DeviceInfo device() const override { return {}; }
  HardwareState sample() override {
    HardwareState state;
    state.time_s = ++count_;
    state.present = true;
    state.power_instant_w = 300.0 + count_;
    state.energy_mj = 3e5 * count_;
    state.sm_clock_mhz = 1980.0;
    state.temperature_c = 60.0;
    state.throttle_reasons = 4;
    return state;
  }

 private:
  int count_ = 0;
};

// Argument: how often a thread publishes meanwhile, in Hz; 0: never.
void BM_SnapshotRead(benchmark::State& state) {
  const auto rate_hz = static_cast<double>(state.range(0));
  GpuSystemMonitor monitor(std::make_unique<ReadySource>(), {rate_hz > 0 ? rate_hz : 20.0});
  monitor.poll();
  if (rate_hz > 0) monitor.start();
  for (auto _ : state) {
    HardwareState snapshot = monitor.state();
    benchmark::DoNotOptimize(snapshot);
  }
  state.counters["snapshot_bytes"] = sizeof(HardwareState);
}
BENCHMARK(BM_SnapshotRead)->Arg(0)->Arg(20)->Arg(1000);

// The driver and the first GPU, open while the benchmarks run.
struct Driver {
  Driver() {
    library.require_init();
    if (library.require_device_count() == 0) throw NvmlError("no GPU");
    library.api().device_by_index(0, &device);
  }
  nvml::Library library;
  nvml::Device device = nullptr;
};

void fields(benchmark::State& state, const Driver& driver, const std::vector<unsigned>& ids) {
  std::vector<nvml::FieldValue> values(ids.size());
  for (auto _ : state) {
    for (size_t i = 0; i < ids.size(); ++i) values[i] = {ids[i], 0, 0, 0, 0, 0, {}};
    benchmark::DoNotOptimize(driver.library.api().field_values(
        driver.device, static_cast<int>(ids.size()), values.data()));
  }
  const int64_t now_us = wall_clock_us();
  std::string label;
  for (const nvml::FieldValue& value : values)
    label += fmt::format("{}:result={},type={},latency_us={},stamp_age_us={} ", value.field_id,
                         value.result, value.value_type, value.latency_us,
                         value.timestamp_us > 0 ? now_us - value.timestamp_us : -1);
  state.SetLabel(label);
}

void add_calls(const std::shared_ptr<Driver>& driver) {
  const nvml::Api& api = driver->library.api();
  const auto add = [](const std::string& name, auto body) {
    benchmark::RegisterBenchmark(name.c_str(), body);
  };
  const std::vector<unsigned> quick{nvml::kFieldPowerInstant, nvml::kFieldPowerAverage,
                                    nvml::kFieldMemoryTemp};
  const std::vector<unsigned> counters{
      nvml::kFieldThrottledPowerCap,   nvml::kFieldThrottledThermalOld,
      nvml::kFieldThrottledBoardLimit, nvml::kFieldThrottledReliability,
      nvml::kFieldThrottledThermal,    nvml::kFieldThrottledHwThermal,
      nvml::kFieldThrottledPowerBrake};
  if (api.field_values != nullptr) {
    std::vector<unsigned> all = quick;
    all.insert(all.end(), counters.begin(), counters.end());
    for (const unsigned id : all)
      add(fmt::format("NvmlField/{}", id),
          [driver, id](benchmark::State& state) { fields(state, *driver, {id}); });
    add("NvmlFields/power_and_memory_temperature",
        [driver, quick](benchmark::State& state) { fields(state, *driver, quick); });
    add("NvmlFields/counters",
        [driver, counters](benchmark::State& state) { fields(state, *driver, counters); });
    add("NvmlFields/all", [driver, all](benchmark::State& state) { fields(state, *driver, all); });
  }
  if (api.total_energy != nullptr)
    add("NvmlEnergy", [driver](benchmark::State& state) {
      unsigned long long millijoule = 0;
      for (auto _ : state) driver->library.api().total_energy(driver->device, &millijoule);
    });
  add("NvmlTemperature", [driver](benchmark::State& state) {
    unsigned celsius = 0;
    for (auto _ : state)
      driver->library.api().device_temperature(driver->device, nvml::kTemperatureGpu, &celsius);
  });
  add("NvmlActivity", [driver](benchmark::State& state) {
    nvml::Gpm gpm(driver->library.api(), driver->device, 0.0);
    double now_s = 0.0;
    for (auto _ : state) benchmark::DoNotOptimize(gpm.read(now_s += 1.0));
    state.SetLabel(fmt::format("result={}", gpm.result()));
  });
  add("NvmlReader/one_sample", [driver](benchmark::State& state) {
    nvml::Reader reader(driver->library, driver->device);
    for (auto _ : state) benchmark::DoNotOptimize(reader.read());
  });
}

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  try {
    const auto driver = std::make_shared<Driver>();
    benchmark::AddCustomContext("device", driver->library.device_name(driver->device));
    benchmark::AddCustomContext("driver", driver->library.driver_version());
    add_calls(driver);
  } catch (const Error& error) {
    fmt::print(stderr, "only the snapshot: {}\n", error.what());
  }
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
}
