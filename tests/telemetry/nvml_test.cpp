#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <ctime>
#include <string>
#include <thread>
#include <vector>

#include "telemetry/nvml_api.h"
#include "telemetry/nvml_fixture.h"

namespace thermoe {
namespace {

using namespace std::chrono_literals;

#define EXPECT_MENTIONS(text, part) \
  EXPECT_NE(text.find(part), std::string::npos) << text << "\n lacks " << part

TEST_F(Nvml, ReadsEveryField) {
  use_whole();
  const auto source = open_nvml_source(0);
  EXPECT_EQ(source->name(), "nvml:0");
  EXPECT_EQ(source->device().name, "NVIDIA H100 80GB HBM3");
  EXPECT_EQ(source->device().uuid, "GPU-00000000");
  EXPECT_EQ(source->device().driver_version, "580.159.04");
  EXPECT_FALSE(source->device().simulated);

  const HardwareState state = source->sample();
  EXPECT_TRUE(state.present);
  EXPECT_GT(state.time_s, 0.0);
  EXPECT_EQ(state.power_instant_w, 310.25);
  EXPECT_EQ(state.power_average_w, 305.75);
  EXPECT_EQ(state.power_limit_w, 700.0);
  EXPECT_EQ(state.energy_mj, 123456789.0);
  EXPECT_EQ(state.sm_clock_mhz, 1395.0);
  EXPECT_EQ(state.sm_clock_max_mhz, 1980.0);
  EXPECT_EQ(state.mem_clock_mhz, 2619.0);
  EXPECT_EQ(state.temperature_c, 41.0);
  EXPECT_EQ(state.memory_temperature_c, 51.0);
  EXPECT_EQ(state.temperature_limit_c, 87.0);  // the lower of the two thresholds
  EXPECT_EQ(state.throttle_reasons, kThrottleSoftwarePowerCap);
  EXPECT_GE(source->sample().time_s, state.time_s);
}

TEST_F(Nvml, LetsGoOfTheLibrary) {
  FakeNvml& fake = use_whole();
  (void)open_nvml_source(0);
  EXPECT_EQ(fake.inits, 1);
  EXPECT_EQ(fake.shutdowns, 1);
  (void)open_error(7);
  EXPECT_EQ(fake.inits, fake.shutdowns);
}

TEST_F(Nvml, TakesPowerInWhateverTypeTheDriverGivesIt) {
  FakeNvml& fake = use_whole();
  const auto source = open_nvml_source(0);
  for (const int type : {nvml::kTypeUnsignedInt, nvml::kTypeUnsignedLongLong, nvml::kTypeDouble}) {
    fake.power_value_type = type;
    EXPECT_EQ(source->sample().power_instant_w, 310.25) << type;
  }
  fake.power_value_type = 42;  // one that is not known yet
  EXPECT_FALSE(source->sample().power_instant_w);
}

TEST_F(Nvml, TakesTheMarginWhereThereAreNoThresholds) {
  FakeNvml& fake = use_whole();
  fake.threshold_result = nvml::kErrorNotSupported;
  EXPECT_EQ(open_nvml_source(0)->sample().temperature_limit_c, 41.0 + 45.0);
}

TEST_F(Nvml, LivesWithAnOldDriver) {
  use(FAKE_NVML_OLD_PATH);
  const auto source = open_nvml_source(0);
  EXPECT_EQ(source->device().uuid, "");
  EXPECT_EQ(source->device().driver_version, "");
  const HardwareState state = source->sample();
  EXPECT_TRUE(state.present);
  EXPECT_EQ(state.temperature_c, 41.0);
  EXPECT_EQ(state.power_average_w, 301.5);  // from the plain call
  EXPECT_EQ(state.throttle_reasons, 4u);    // under its older name
  EXPECT_FALSE(state.power_instant_w);
  EXPECT_FALSE(state.energy_mj);
  EXPECT_FALSE(state.sm_clock_mhz);
  EXPECT_FALSE(state.sm_clock_max_mhz);
  EXPECT_FALSE(state.temperature_limit_c);
}

TEST_F(Nvml, KeepsToTheFieldsThatCanBeRead) {
  FakeNvml& fake = use_whole();
  fake.energy_result = nvml::kErrorUnknown;
  fake.memory_temp_result = nvml::kErrorNotSupported;
  GpuSystemMonitor monitor(open_nvml_source(0));
  HardwareState state = monitor.poll();
  EXPECT_TRUE(state.present);
  EXPECT_FALSE(state.energy_mj);
  EXPECT_FALSE(state.memory_temperature_c);
  EXPECT_EQ(state.power_instant_w, 310.25);

  // A passing error is tried again, what is not supported is not.
  fake.energy_result = 0;
  state = monitor.poll();
  EXPECT_EQ(state.energy_mj, 123456789.0);
  sample_until_batched(monitor, fake, 8);  // power and the counters

  fake.energy_result = nvml::kErrorNotSupported;
  EXPECT_FALSE(monitor.poll().energy_mj);
  const int calls = fake.energy_calls;
  EXPECT_FALSE(monitor.poll().energy_mj);
  EXPECT_EQ(fake.energy_calls, calls);
}

TEST_F(Nvml, FallsBackToThePlainPowerReading) {
  FakeNvml& fake = use_whole();
  fake.power_fields_result = nvml::kErrorNotSupported;
  const HardwareState state = open_nvml_source(0)->sample();
  EXPECT_FALSE(state.power_instant_w);
  EXPECT_EQ(state.power_average_w, 301.5);
}

// Samples until the device is there, or 30 s have passed.
HardwareState sample_until_present(GpuSystemMonitor& monitor) {
  const auto begin = std::chrono::steady_clock::now();
  HardwareState state = monitor.poll();
  while (!state.present && std::chrono::steady_clock::now() - begin < 30s) {
    std::this_thread::sleep_for(5ms);
    state = monitor.poll();
  }
  return state;
}

TEST_F(Nvml, SurvivesALostDeviceAndFindsItAgain) {
  FakeNvml& fake = use_whole();
  fake.devices = 2;
  GpuSystemMonitor monitor(open_nvml_source(1));
  EXPECT_EQ(monitor.device().uuid, "GPU-00000001");
  EXPECT_TRUE(monitor.poll().present);
  for (const int loss : {nvml::kErrorGpuIsLost, nvml::kErrorUninitialized,
                         nvml::kErrorResetRequired, nvml::kErrorUnknown}) {
    fake.device_result = loss;
    const HardwareState lost = monitor.poll();
    EXPECT_FALSE(lost.present) << loss;
    EXPECT_FALSE(lost.temperature_c || lost.power_limit_w || lost.sm_clock_max_mhz) << loss;
    EXPECT_GT(lost.time_s, 0.0);
    EXPECT_FALSE(monitor.state().present);

    // It waits before it tries again.
    const int inits = fake.inits;
    EXPECT_FALSE(monitor.poll().present);
    EXPECT_EQ(fake.inits, inits);

    fake.device_result = 0;
    EXPECT_TRUE(sample_until_present(monitor).present) << loss;
    EXPECT_EQ(fake.inits, inits + 1);
  }
}

TEST_F(Nvml, DoesNotTakeAnotherBoardForTheLostOne) {
  FakeNvml& fake = use_whole();
  fake.devices = 2;
  const auto source = open_nvml_source(0);  // GPU-00000000
  fake.device_result = nvml::kErrorGpuIsLost;
  EXPECT_FALSE(source->sample().present);
  fake.device_result = 0;
  fake.first_uuid = 1;  // only boards 1 and 2 are left
  const int inits = fake.inits;
  while (fake.inits < inits + 2) {  // two attempts
    EXPECT_FALSE(source->sample().present);
    std::this_thread::sleep_for(5ms);
  }
  fake.first_uuid = 0;
  GpuSystemMonitor monitor(open_nvml_source(0));
  EXPECT_TRUE(sample_until_present(monitor).present);
}

TEST_F(Nvml, BacksOffFromSlowCalls) {
  FakeNvml& fake = use_whole();
  fake.field_call_us = 3000;  // ten of them in a sample, until that is known
  GpuSystemMonitor monitor(open_nvml_source(0), {20.0});
  const auto begin = std::chrono::steady_clock::now();
  monitor.start();
  while (monitor.stats().samples < 4 && std::chrono::steady_clock::now() - begin < 30s) {
    std::this_thread::sleep_for(1ms);
  }
  monitor.stop();
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
  EXPECT_TRUE(monitor.state().present);
  EXPECT_GE(monitor.stats().samples, 4u);
  EXPECT_GE(took.count(), 0.54);  // two samples of 30 ms before the fourth: a tenth of the time
}

// Contract: 1 % of a core at 20 Hz. Processor time, so that a loaded machine makes no difference.
TEST_F(Nvml, PollingCostsLittleProcessorTime) {
  FakeNvml& fake = use_whole();
  GpuSystemMonitor monitor(open_nvml_source(0), {20.0});
  const auto processor_s = [] {
    timespec time{};
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
    return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
  };
  // OpenBLAS's threads spin for a tenth of a second, and on some machines more, after loading.
  std::this_thread::sleep_for(500ms);
  const double before_s = processor_s();
  monitor.start();
  std::this_thread::sleep_for(2s);
  monitor.stop();
  const double used_frac = (processor_s() - before_s) / 2.0;
  RecordProperty("core_frac", std::to_string(used_frac));
  EXPECT_GE(monitor.stats().samples, 10u);
  // One call for all fields, but in the first few samples.
  EXPECT_LT(static_cast<uint64_t>(fake.field_calls), monitor.stats().samples + 50);
  EXPECT_LT(used_frac, 0.02);
}

TEST_F(Nvml, SaysWhatIsWrongAndWhatToDo) {
  FakeNvml& fake = use_whole();
  EXPECT_MENTIONS(open_error(1), "index 1");
  EXPECT_MENTIONS(open_error(-1), "index -1");
  fake.devices = 0;
  EXPECT_MENTIONS(open_error(), "no GPU");
  EXPECT_MENTIONS(open_error(), "nvidia-smi");
  fake.init_result = nvml::kErrorDriverNotLoaded;
  EXPECT_MENTIONS(open_error(), "Driver Not Loaded");
  EXPECT_MENTIONS(open_error(), "modprobe nvidia");
  fake.init_result = nvml::kErrorLibRmVersionMismatch;
  EXPECT_MENTIONS(open_error(), "reboot");
  fake = FakeNvml{};
  fake.device_result = nvml::kErrorGpuIsLost;
  EXPECT_MENTIONS(open_error(), "reset");
  setenv("THERMOE_NVML_LIBRARY", "/nonexistent/libnvidia-ml.so.1", 1);
  EXPECT_MENTIONS(open_error(), "/nonexistent/libnvidia-ml.so.1");
  EXPECT_MENTIONS(open_error(), "install the NVIDIA driver");
  setenv("THERMOE_NVML_LIBRARY", FAKE_NVML_BROKEN_PATH, 1);
  EXPECT_MENTIONS(open_error(), "nvmlDeviceGetHandleByIndex");
}

TEST_F(Nvml, CountsDevices) {
  FakeNvml& fake = use_whole();
  fake.devices = 8;
  EXPECT_EQ(count_nvml_devices(), 8);
  fake.init_result = nvml::kErrorDriverNotLoaded;
  EXPECT_EQ(count_nvml_devices(), 0);
  setenv("THERMOE_NVML_LIBRARY", "/nonexistent/libnvidia-ml.so.1", 1);
  EXPECT_EQ(count_nvml_devices(), 0);
}

TEST_F(Nvml, ProbesTheMachine) {
  FakeNvml& fake = use_whole();
  fake.devices = 2;
  fake.memory_temp_result = nvml::kErrorNotSupported;
  TelemetryProbe probe = probe_nvml();
  EXPECT_TRUE(probe.library_found);
  EXPECT_EQ(probe.library, FAKE_NVML_WHOLE_PATH);
  EXPECT_EQ(probe.driver_version, "580.159.04");
  EXPECT_EQ(probe.problem, "");
  ASSERT_EQ(probe.devices.size(), 2u);
  EXPECT_EQ(probe.devices[1].uuid, "GPU-00000001");
  EXPECT_EQ(probe.devices[0].missing_fields, std::vector<std::string>{"memory_temperature_c"});
  EXPECT_EQ(probe.devices[0].available_fields.size(), kReadings - 1);

  fake.device_result = nvml::kErrorGpuIsLost;
  probe = probe_nvml();
  EXPECT_TRUE(probe.devices.empty());
  EXPECT_MENTIONS(probe.problem, "reset");

  fake = FakeNvml{};
  fake.devices = 0;
  EXPECT_MENTIONS(probe_nvml().problem, "no GPU");

  setenv("THERMOE_NVML_LIBRARY", "/nonexistent/libnvidia-ml.so.1", 1);
  probe = probe_nvml();
  EXPECT_FALSE(probe.library_found);
  EXPECT_EQ(probe.library, "/nonexistent/libnvidia-ml.so.1");
  EXPECT_MENTIONS(probe.problem, "install the NVIDIA driver");
}

}  // namespace
}  // namespace thermoe
