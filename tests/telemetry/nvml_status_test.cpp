// Throttle counters, activity, and what is said of each reading, from a fake driver.
#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <thread>

#include "telemetry/nvml_api.h"
#include "telemetry/nvml_fixture.h"
#include "telemetry/nvml_gpm.h"
#include "telemetry/nvml_library.h"
#include "telemetry/nvml_reader.h"
#include "thermoe/energy_meter.h"
#include "thermoe/throttle_meter.h"

namespace thermoe {
namespace {

using namespace std::chrono_literals;

Validity validity_of(const HardwareState& state, Reading reading) {
  return state.status_of(reading).validity;
}

// Samples until there is activity, or 10 s have passed.
HardwareState sample_until_active(GpuSystemMonitor& monitor) {
  HardwareState state = monitor.poll();
  for (int n = 0; n < 2000 && !state.tensor_active_frac; ++n) {
    std::this_thread::sleep_for(5ms);
    state = monitor.poll();
  }
  return state;
}

TEST_F(Nvml, ReadsTheThrottleCountersInSeconds) {
  FakeNvml& fake = use_whole();
  fake.throttled_ns = 2'500'000'000;
  GpuSystemMonitor monitor(open_nvml_source(0));
  const HardwareState before = monitor.poll();
  EXPECT_DOUBLE_EQ(*before.throttled_power_cap_s, 2.500000074);
  EXPECT_DOUBLE_EQ(*before.throttled_board_limit_s, 2.500000077);
  EXPECT_DOUBLE_EQ(*before.throttled_reliability_s, 2.500000079);
  EXPECT_DOUBLE_EQ(*before.throttled_thermal_s, 2.500000269);
  EXPECT_DOUBLE_EQ(*before.throttled_hardware_thermal_s, 2.500000270);
  EXPECT_DOUBLE_EQ(*before.throttled_power_brake_s, 2.500000271);
  sample_until_batched(monitor, fake, 9);  // with power and memory temperature
  fake.throttled_ns += 30'000'000;
  const ThrottleTimes step = throttled_between(before, monitor.poll());
  EXPECT_NEAR(*step.power_cap_s, 0.03, 1e-9);
  EXPECT_NEAR(*step.longest_s(), 0.03, 1e-9);
}

TEST_F(Nvml, TakesHeatsCounterByItsOlderName) {
  FakeNvml& fake = use_whole();
  fake.new_counters_result = nvml::kErrorNotSupported;
  GpuSystemMonitor monitor(open_nvml_source(0));
  monitor.poll();
  const HardwareState state = monitor.poll();
  EXPECT_DOUBLE_EQ(*state.throttled_thermal_s, 5.000000075);
  EXPECT_EQ(validity_of(state, Reading::kThrottledThermal), Validity::kValid);
  EXPECT_FALSE(state.throttled_hardware_thermal_s);
  EXPECT_EQ(validity_of(state, Reading::kThrottledPowerBrake), Validity::kUnsupported);
}

// For some drivers those ids are settings of power smoothing.
TEST_F(Nvml, TakesNoSettingForACounter) {
  FakeNvml& fake = use_whole();
  fake.new_counters_type = nvml::kTypeUnsignedInt;
  GpuSystemMonitor monitor(open_nvml_source(0));
  monitor.poll();
  const HardwareState state = monitor.poll();
  EXPECT_FALSE(state.throttled_power_brake_s);
  EXPECT_EQ(validity_of(state, Reading::kThrottledPowerBrake), Validity::kUnsupported);
  EXPECT_DOUBLE_EQ(*state.throttled_thermal_s, 5.000000075);
  EXPECT_DOUBLE_EQ(*state.throttled_power_cap_s, 5.000000074);
}

TEST_F(Nvml, AFieldThatTheDriverRefusesDoesNotHideTheOthers) {
  FakeNvml& fake = use_whole();
  fake.refused_field = 200;
  GpuSystemMonitor monitor(open_nvml_source(0));
  HardwareState state = monitor.poll();
  EXPECT_EQ(state.power_instant_w, 310.25);
  EXPECT_EQ(state.memory_temperature_c, 51.0);
  EXPECT_DOUBLE_EQ(*state.throttled_power_cap_s, 5.000000074);
  EXPECT_DOUBLE_EQ(*state.throttled_thermal_s, 5.000000075);  // by its older name
  EXPECT_EQ(validity_of(state, Reading::kThrottledPowerBrake), Validity::kUnsupported);
  sample_until_batched(monitor, fake, 7);

  fake.refused_field = 186;  // one of those asked for together
  state = monitor.poll();
  EXPECT_TRUE(state.present);
  EXPECT_EQ(validity_of(state, Reading::kPowerInstant), Validity::kError);
  state = monitor.poll();  // each alone
  EXPECT_EQ(state.power_average_w, 305.75);
  EXPECT_EQ(validity_of(state, Reading::kPowerInstant), Validity::kUnsupported);
}

double steady_s() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// What an H100 takes for energy and two of the counters, without its other readings waiting for
// them. Bounds on calls by the time that passed: they hold on a busy machine as well.
TEST_F(Nvml, AsksWhatIsSlowLessOftenAndSaysHowOldItIs) {
  FakeNvml& fake = use_whole();
  fake.energy_call_us = 4000;
  fake.slow_fields_us = 600;
  GpuSystemMonitor monitor(open_nvml_source(0));
  const double begin_s = steady_s();
  HardwareState state;
  for (int n = 0; n < 200; ++n) {
    fake.energy_mj = 1'000'000 + static_cast<uint64_t>(n);
    fake.throttled_ns = 1'000'000ull * static_cast<uint64_t>(n);
    fake.temperature_c = static_cast<unsigned>(n);
    state = monitor.poll();
    if (n < 3) {
      EXPECT_EQ(fake.slow_fields, 2 * (n + 1));
    }
    EXPECT_EQ(state.temperature_c, n);
    EXPECT_DOUBLE_EQ(*state.throttled_power_cap_s, 1e-3 * n + 74e-9);
    EXPECT_DOUBLE_EQ(*state.throttled_thermal_s, 1e-3 * n + 269e-9);
    EXPECT_TRUE(state.energy_mj && state.throttled_power_brake_s);
    EXPECT_EQ(validity_of(state, Reading::kEnergy), Validity::kValid);
    std::this_thread::sleep_for(5ms);
  }
  const double passed_s = steady_s() - begin_s;
  EXPECT_LE(fake.energy_calls, 4 + passed_s * nvml::Reader::kEnergyShare / 4e-3);
  EXPECT_GE(fake.energy_calls, 3);  // to know that it is slow
  // Two at a time, after three times one by one.
  EXPECT_LE(fake.slow_fields, 12 + 2 * passed_s * nvml::Reader::kSlowFieldsShare / 1.2e-3);
  EXPECT_GE(fake.slow_fields, 6);
  // In between they are what they were, and older.
  EXPECT_EQ(fake.last_field_count, 7);
  const int calls = fake.energy_calls;
  std::this_thread::sleep_for(60ms);
  const HardwareState later = monitor.poll();
  if (fake.energy_calls == calls) {
    EXPECT_EQ(later.energy_mj, state.energy_mj);
    EXPECT_GE(later.status_of(Reading::kEnergy).age_ms,
              state.status_of(Reading::kEnergy).age_ms + 60);
  }
  std::this_thread::sleep_for(1500ms);
  state = monitor.poll();
  EXPECT_EQ(state.energy_mj, static_cast<double>(fake.energy_mj));
  EXPECT_DOUBLE_EQ(*state.throttled_power_brake_s,
                   1e-9 * static_cast<double>(fake.throttled_ns + 271));
  EXPECT_LT(state.status_of(Reading::kEnergy).age_ms, 1000);
}

// A driver that becomes slow, and quick again.
TEST_F(Nvml, LearnsAnewWhichFieldsAreSlow) {
  FakeNvml& fake = use_whole();
  GpuSystemMonitor monitor(open_nvml_source(0));
  sample_until_batched(monitor, fake, 9);
  fake.slow_fields_us = 1000;
  sample_until_batched(monitor, fake, 7);
  fake.slow_fields_us = 0;
  const double begin_s = steady_s();
  while (fake.last_field_count != 9 && steady_s() - begin_s < 30.0) {
    std::this_thread::sleep_for(5ms);
    monitor.poll();
  }
  EXPECT_EQ(fake.last_field_count, 9);
}

TEST_F(Nvml, ReadsActivityAsFractions) {
  FakeNvml& fake = use_whole();
  GpuSystemMonitor monitor(open_nvml_source(0));
  HardwareState state = monitor.poll();
  EXPECT_FALSE(state.tensor_active_frac);  // one sample says nothing
  EXPECT_EQ(validity_of(state, Reading::kTensorActive), Validity::kUnknown);
  state = sample_until_active(monitor);
  EXPECT_EQ(state.sm_active_frac, 0.9);
  EXPECT_EQ(state.tensor_active_frac, 0.625);
  EXPECT_EQ(state.dram_active_frac, 0.25);
  EXPECT_EQ(validity_of(state, Reading::kDramActive), Validity::kValid);
  // At most twice a second: in between it stays and ages.
  const int samples = fake.gpm_samples;
  fake.tensor_percent = 100.3;  // counters are not read at one moment
  std::this_thread::sleep_for(30ms);
  state = monitor.poll();
  EXPECT_EQ(fake.gpm_samples, samples);
  EXPECT_EQ(state.tensor_active_frac, 0.625);
  EXPECT_GE(state.status_of(Reading::kTensorActive).age_ms, 30);
  std::this_thread::sleep_for(500ms);
  state = monitor.poll();
  EXPECT_EQ(fake.gpm_samples, samples + 1);
  EXPECT_EQ(state.tensor_active_frac, 1.0);
  EXPECT_LT(state.status_of(Reading::kTensorActive).age_ms, 400);
}

TEST_F(Nvml, DoesWithoutActivityAndFreesItsSamples) {
  FakeNvml& fake = use_whole();
  fake.gpm_supported = 0;
  {
    const auto source = open_nvml_source(0);
    std::this_thread::sleep_for(120ms);
    const HardwareState state = source->sample();
    EXPECT_FALSE(state.sm_active_frac || state.tensor_active_frac || state.dram_active_frac);
    EXPECT_EQ(validity_of(state, Reading::kTensorActive), Validity::kUnsupported);
    EXPECT_EQ(fake.gpm_samples, 0);
  }
  fake.gpm_supported = 1;
  fake.gpm_dram_result = nvml::kErrorNotSupported;
  {
    GpuSystemMonitor monitor(open_nvml_source(0));
    EXPECT_EQ(fake.gpm_allocated, 2);
    const HardwareState state = sample_until_active(monitor);
    EXPECT_EQ(state.tensor_active_frac, 0.625);
    EXPECT_FALSE(state.dram_active_frac);
  }
  EXPECT_EQ(fake.gpm_allocated, 0);
}

TEST_F(Nvml, ActivityComesBackAfterAFailure) {
  FakeNvml& fake = use_whole();
  nvml::Library library;
  library.require_init();
  nvml::Device device = nullptr;
  ASSERT_EQ(library.api().device_by_index(0, &device), nvml::kSuccess);
  nvml::Gpm gpm(library.api(), device, 10.0);
  EXPECT_FALSE(gpm.ready(10.05));
  ASSERT_TRUE(gpm.ready(10.2));
  EXPECT_EQ(gpm.read(10.2)->tensor_frac, 0.625);
  fake.gpm_result = nvml::kErrorUnknown;
  EXPECT_FALSE(gpm.read(10.4));
  EXPECT_EQ(gpm.result(), nvml::kErrorUnknown);
  fake.gpm_result = 0;
  EXPECT_FALSE(gpm.read(10.6));  // a first sample again
  EXPECT_EQ(gpm.result(), nvml::kSuccess);
  EXPECT_EQ(gpm.read(10.8)->tensor_frac, 0.625);
  fake.gpm_metrics_result = nvml::kErrorUnknown;
  EXPECT_FALSE(gpm.read(11.0));
  fake.gpm_metrics_result = 0;
  EXPECT_EQ(gpm.read(11.2)->tensor_frac, 0.625);  // that sample was good
}

TEST_F(Nvml, SaysWhyAReadingIsAbsent) {
  FakeNvml& fake = use_whole();
  fake.energy_result = nvml::kErrorUnknown;
  fake.memory_temp_result = nvml::kErrorNotSupported;
  HardwareState state = open_nvml_source(0)->sample();
  EXPECT_EQ(validity_of(state, Reading::kEnergy), Validity::kError);
  EXPECT_EQ(validity_of(state, Reading::kMemoryTemperature), Validity::kUnsupported);

  use(FAKE_NVML_OLD_PATH);
  GpuSystemMonitor monitor(open_nvml_source(0));
  state = monitor.poll();
  for (const Reading reading : {Reading::kPowerInstant, Reading::kEnergy, Reading::kSmClock,
                                Reading::kThrottledPowerCap, Reading::kTensorActive})
    EXPECT_EQ(validity_of(state, reading), Validity::kUnsupported) << static_cast<int>(reading);
  EXPECT_EQ(validity_of(state, Reading::kTemperature), Validity::kValid);
  EXPECT_EQ(validity_of(state, Reading::kPowerAverage), Validity::kValid);
}

int64_t wall_clock_now_us() {
  return std::chrono::duration_cast<std::chrono::microseconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

TEST_F(Nvml, TellsAgesByTheDriversStamps) {
  FakeNvml& fake = use_whole();
  const auto source = open_nvml_source(0);
  fake.stamp_us = wall_clock_now_us() - 300'000;
  HardwareState state = source->sample();
  EXPECT_GE(state.status_of(Reading::kPowerInstant).age_ms, 300);
  EXPECT_LT(state.status_of(Reading::kPowerInstant).age_ms, 900);
  EXPECT_EQ(validity_of(state, Reading::kPowerInstant), Validity::kValid);
  EXPECT_LT(state.status_of(Reading::kEnergy).age_ms, 300);  // has no stamp
  fake.stamp_us = wall_clock_now_us() - 2'000'000;
  state = source->sample();
  EXPECT_EQ(state.power_instant_w, 310.25);
  EXPECT_EQ(validity_of(state, Reading::kPowerInstant), Validity::kStale);
}

// The driver's time of day is set, forwards and back: neither ages nor energy follow it.
TEST_F(Nvml, AClockThatJumpsMakesNothingAbsurd) {
  FakeNvml& fake = use_whole();
  GpuSystemMonitor monitor(open_nvml_source(0));
  EnergyMeter meter;
  double last_s = 0.0;
  for (const long long jump_s : {0ll, 3600ll, -86400ll, 400ll * 86400, 0ll}) {
    fake.stamp_offset_us = 1'000'000 * jump_s;
    for (int n = 0; n < 3; ++n) {
      fake.energy_mj += 3000;  // 300 W
      const HardwareState state = monitor.poll();
      meter.add(state);
      EXPECT_GT(state.time_s, last_s);
      last_s = state.time_s;
      for (const ReadingStatus& status : state.status) EXPECT_LT(status.age_ms, 1000) << jump_s;
      EXPECT_EQ(validity_of(state, Reading::kPowerInstant), Validity::kValid) << jump_s;
      std::this_thread::sleep_for(10ms);
    }
  }
  EXPECT_NEAR(*meter.reading().energy_mj, 14 * 3000.0,
              310.25e3 * meter.reading().span_s);  // the first and last step go by power
  EXPECT_GE(*meter.reading().energy_mj, 13 * 3000.0);
  EXPECT_LT(meter.reading().span_s, 5.0);
  EXPECT_EQ(meter.reading().counter_resets, 0);
}

TEST_F(Nvml, ACounterThatStallsOrIsResetIsSaidSo) {
  FakeNvml& fake = use_whole();
  GpuSystemMonitor monitor(open_nvml_source(0));
  EnergyMeter meter;
  HardwareState state = monitor.poll();
  meter.add(state);
  std::this_thread::sleep_for(1050ms);
  state = monitor.poll();
  meter.add(state);
  EXPECT_EQ(validity_of(state, Reading::kEnergy), Validity::kStale);
  EXPECT_GE(state.status_of(Reading::kEnergy).unchanged_ms, 1050);
  EXPECT_EQ(meter.reading().counter_stalls, 1);
  fake.energy_mj = 12;  // the driver was loaded anew
  fake.throttled_ns = 0;
  const HardwareState before = state;
  state = monitor.poll();
  meter.add(state);
  EXPECT_EQ(validity_of(state, Reading::kEnergy), Validity::kValid);
  EXPECT_EQ(state.status_of(Reading::kEnergy).unchanged_ms, 0);
  EXPECT_EQ(meter.reading().counter_resets, 1);
  EXPECT_NEAR(*meter.reading().energy_mj, 310.25e3 * meter.reading().span_s, 1e3);
  EXPECT_LT(*throttled_between(before, state).power_cap_s, 1e-6);
}

// Lost and found again: what was held of before is not handed out.
TEST_F(Nvml, ALostDeviceHasNoOldValuesLeft) {
  FakeNvml& fake = use_whole();
  GpuSystemMonitor monitor(open_nvml_source(0));
  EXPECT_TRUE(sample_until_active(monitor).throttled_power_cap_s);
  for (const int loss : {nvml::kErrorGpuIsLost, nvml::kErrorUnknown}) {
    fake.device_result = loss;
    const HardwareState lost = monitor.poll();
    EXPECT_FALSE(lost.present || lost.throttled_power_cap_s || lost.tensor_active_frac) << loss;
    EXPECT_EQ(fake.gpm_allocated, 0) << loss;
    fake.device_result = 0;
    HardwareState back;
    for (int n = 0; n < 4000 && !back.present; ++n) {
      std::this_thread::sleep_for(5ms);
      back = monitor.poll();
    }
    EXPECT_TRUE(back.present) << loss;
    EXPECT_TRUE(back.throttled_power_cap_s) << loss;
    EXPECT_EQ(fake.gpm_allocated, 2) << loss;
  }
}

}  // namespace
}  // namespace thermoe
