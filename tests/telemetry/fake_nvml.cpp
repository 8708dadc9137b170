// A stand-in for libnvidia-ml.so.1, loaded through THERMOE_NVML_LIBRARY. Its answers are those of
// an H100's driver 580 unless the knobs say otherwise. Compiled three times: whole; with
// FAKE_NVML_OLD as a driver of 2018 (few functions, the older names); with FAKE_NVML_BROKEN lacking
// what can't be done without.
#include "telemetry/fake_nvml.h"

#include <chrono>
#include <cstdio>
#include <thread>

#include "telemetry/nvml_api.h"

using namespace thermoe::nvml;

namespace {

[[maybe_unused]] void take(unsigned microseconds) {
  if (microseconds > 0) std::this_thread::sleep_for(std::chrono::microseconds(microseconds));
}

FakeNvml g_fake;
int g_references = 0;

// Handles are indices + 1, valid only while the library is initialised.
unsigned index_of(Device device) {
  return static_cast<unsigned>(reinterpret_cast<uintptr_t>(device)) - 1;
}

Return check(Device device) {
  if (g_references == 0) return kErrorUninitialized;
  if (g_fake.device_result != kSuccess) return g_fake.device_result;
  return index_of(device) < g_fake.devices ? kSuccess : kErrorInvalidArgument;
}

template <typename T, typename V>
Return answer(Device device, T* out, V value) {
  const Return result = check(device);
  if (result == kSuccess) *out = static_cast<T>(value);
  return result;
}

}  // namespace

extern "C" {

FakeNvml* fake_nvml() { return &g_fake; }

Return nvmlShutdown() {
  ++g_fake.shutdowns;
  if (g_references == 0) return kErrorUninitialized;
  --g_references;
  return kSuccess;
}

#if !defined(FAKE_NVML_OLD)
#define FAKE_INIT nvmlInit_v2
#define FAKE_COUNT nvmlDeviceGetCount_v2
#define FAKE_BY_INDEX nvmlDeviceGetHandleByIndex_v2
#define FAKE_REASONS nvmlDeviceGetCurrentClocksEventReasons
#else
#define FAKE_INIT nvmlInit
#define FAKE_COUNT nvmlDeviceGetCount
#define FAKE_BY_INDEX nvmlDeviceGetHandleByIndex
#define FAKE_REASONS nvmlDeviceGetCurrentClocksThrottleReasons
#endif

Return FAKE_INIT() {
  ++g_fake.inits;
  if (g_fake.init_result == kSuccess) ++g_references;
  return g_fake.init_result;
}

Return FAKE_COUNT(unsigned* count) {
  if (g_references == 0) return kErrorUninitialized;
  *count = g_fake.devices;
  return kSuccess;
}

#if !defined(FAKE_NVML_BROKEN)
Return FAKE_BY_INDEX(unsigned index, Device* device) {
  if (g_references == 0) return kErrorUninitialized;
  if (index >= g_fake.devices) return kErrorInvalidArgument;
  if (g_fake.device_result != kSuccess) return g_fake.device_result;
  *device = reinterpret_cast<Device>(static_cast<uintptr_t>(index + 1));
  return kSuccess;
}
#endif

Return nvmlDeviceGetTemperature(Device device, int sensor, unsigned* celsius) {
  if (sensor != kTemperatureGpu) return kErrorInvalidArgument;
  return answer(device, celsius, g_fake.temperature_c);
}

Return nvmlDeviceGetPowerUsage(Device device, unsigned* milliwatt) {
  return answer(device, milliwatt, 301500);
}

Return FAKE_REASONS(Device device, unsigned long long* mask) { return answer(device, mask, 4); }

Return nvmlDeviceGetName(Device device, char* text, unsigned bytes) {
  const Return result = check(device);
  if (result == kSuccess) std::snprintf(text, bytes, "NVIDIA H100 80GB HBM3");
  return result;
}

#if !defined(FAKE_NVML_OLD)

Return nvmlSystemGetDriverVersion(char* text, unsigned bytes) {
  std::snprintf(text, bytes, "580.159.04");
  return kSuccess;
}

const char* nvmlErrorString(Return result) {
  return result == kErrorDriverNotLoaded ? "Driver Not Loaded" : "Some Error";
}

Return nvmlDeviceGetUUID(Device device, char* text, unsigned bytes) {
  const Return result = check(device);
  if (result == kSuccess) {
    std::snprintf(text, bytes, "GPU-%08u", g_fake.first_uuid + index_of(device));
  }
  return result;
}

static void fill_field(FieldValue& field) {
  const unsigned id = field.field_id;
  const unsigned milliwatt = id == kFieldPowerInstant ? 310250 : 305750;
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  field.timestamp_us = g_fake.stamp_us != 0
                           ? g_fake.stamp_us
                           : std::chrono::duration_cast<std::chrono::microseconds>(now).count() +
                                 g_fake.stamp_offset_us;
  const bool new_counter = id >= kFieldThrottledThermal && id <= kFieldThrottledPowerBrake;
  const bool counter = new_counter || id == kFieldThrottledPowerCap ||
                       id == kFieldThrottledThermalOld || id == kFieldThrottledBoardLimit ||
                       id == kFieldThrottledReliability;
  if (id == kFieldMemoryTemp) {
    field.result = g_fake.memory_temp_result;
    field.value_type = kTypeUnsignedInt;
    field.value.ui = 51;
  } else if (id == kFieldPowerInstant || id == kFieldPowerAverage) {
    field.result = g_fake.power_fields_result;
    field.value_type = g_fake.power_value_type;
    field.value.ull = 0;
    if (field.value_type == kTypeUnsignedLongLong) field.value.ull = milliwatt;
    if (field.value_type == kTypeUnsignedInt) field.value.ui = milliwatt;
    if (field.value_type == kTypeDouble) field.value.d = milliwatt;
  } else if (counter) {
    const bool refused = new_counter && g_fake.new_counters_result != kSuccess;
    field.result = refused ? g_fake.new_counters_result : g_fake.counters_result;
    field.value_type = new_counter ? g_fake.new_counters_type : kTypeUnsignedLongLong;
    field.value.ull = g_fake.throttled_ns + id;
  } else {
    field.result = kErrorNotSupported;
  }
}

Return nvmlDeviceGetFieldValues(Device device, int count, FieldValue* values) {
  ++g_fake.field_calls;
  g_fake.last_field_count = count;
  take(g_fake.field_call_us);
  const Return result = check(device);
  for (int i = 0; result == kSuccess && i < count; ++i) {
    if (values[i].field_id >= g_fake.refused_field) return kErrorInvalidArgument;
    fill_field(values[i]);
    const unsigned id = values[i].field_id;
    if (id == kFieldThrottledThermalOld || id == kFieldThrottledHwThermal ||
        id == kFieldThrottledPowerBrake) {
      ++g_fake.slow_fields;
      take(g_fake.slow_fields_us);
    }
  }
  return result;
}

Return nvmlDeviceGetTotalEnergyConsumption(Device device, unsigned long long* millijoule) {
  ++g_fake.energy_calls;
  take(g_fake.energy_call_us);
  if (g_fake.energy_result != kSuccess) return g_fake.energy_result;
  return answer(device, millijoule, g_fake.energy_mj);
}

Return nvmlDeviceGetEnforcedPowerLimit(Device device, unsigned* milliwatt) {
  return answer(device, milliwatt, 700000);
}

Return nvmlDeviceGetClockInfo(Device device, int clock_type, unsigned* mhz) {
  return answer(device, mhz, clock_type == kClockSm ? 1395 : 2619);
}

Return nvmlDeviceGetMaxClockInfo(Device device, int, unsigned* mhz) {
  return answer(device, mhz, 1980);
}

Return nvmlDeviceGetTemperatureThreshold(Device device, int threshold, unsigned* celsius) {
  if (g_fake.threshold_result != kSuccess) return g_fake.threshold_result;
  return answer(device, celsius, threshold == kThresholdGpuMax ? 87 : 89);
}

Return nvmlDeviceGetMarginTemperature(Device device, MarginTemperature* margin) {
  if (margin->version != kMarginTemperatureVersion1) return kErrorArgumentVersionMismatch;
  return answer(device, &margin->margin_c, 45);
}

Return nvmlGpmQueryDeviceSupport(Device device, GpmSupport* support) {
  if (support->version != kGpmSupportVersion) return kErrorArgumentVersionMismatch;
  return answer(device, &support->is_supported, g_fake.gpm_supported);
}

Return nvmlGpmSampleAlloc(GpmSample* sample) {
  ++g_fake.gpm_allocated;
  *sample = reinterpret_cast<GpmSample>(new int(0));
  return kSuccess;
}

Return nvmlGpmSampleFree(GpmSample sample) {
  --g_fake.gpm_allocated;
  delete reinterpret_cast<int*>(sample);
  return g_references == 0 ? kErrorUninitialized : kSuccess;
}

// A sample is its number: the first is 1.
Return nvmlGpmSampleGet(Device device, GpmSample sample) {
  if (g_fake.gpm_result != kSuccess) return g_fake.gpm_result;
  return answer(device, reinterpret_cast<int*>(sample), ++g_fake.gpm_samples);
}

Return nvmlGpmMetricsGet(GpmMetricsGet* request) {
  if (request->version != kGpmMetricsGetVersion) return kErrorArgumentVersionMismatch;
  const int from = *reinterpret_cast<int*>(request->from);
  const int to = *reinterpret_cast<int*>(request->to);
  if (from < 1 || to != from + 1) return kErrorInvalidArgument;  // one after the other
  if (g_fake.gpm_metrics_result != kSuccess) return g_fake.gpm_metrics_result;
  for (unsigned i = 0; i < request->count; ++i) {
    GpmMetric& metric = request->metrics[i];
    metric.result = metric.metric_id == kGpmDramActive ? g_fake.gpm_dram_result : kSuccess;
    metric.value = metric.metric_id == kGpmSmActive       ? g_fake.sm_percent
                   : metric.metric_id == kGpmTensorActive ? g_fake.tensor_percent
                                                          : g_fake.dram_percent;
  }
  return kSuccess;
}

#endif  // !FAKE_NVML_OLD

}  // extern "C"
