// The part of NVML's C interface that thermoe calls, declared here because nvml.h is not on most
// build machines. Names, values and layouts are those of the public header (CUDA 12 and 13; checked
// against NVIDIA's cuda.bindings.nvml 13 and nvidia-ml-py 13.615): they are a stable ABI, but for
// the field ids said below.
#pragma once

#include <cstddef>

namespace thermoe::nvml {

using Return = int;  // nvmlReturn_t
inline constexpr Return kSuccess = 0;
inline constexpr Return kErrorUninitialized = 1;
inline constexpr Return kErrorInvalidArgument = 2;
inline constexpr Return kErrorNotSupported = 3;
inline constexpr Return kErrorNoPermission = 4;
inline constexpr Return kErrorDriverNotLoaded = 9;
inline constexpr Return kErrorFunctionNotFound = 13;
inline constexpr Return kErrorGpuIsLost = 15;
inline constexpr Return kErrorResetRequired = 16;
inline constexpr Return kErrorOperatingSystem = 17;
inline constexpr Return kErrorLibRmVersionMismatch = 18;
inline constexpr Return kErrorArgumentVersionMismatch = 25;
inline constexpr Return kErrorDeprecated = 26;
inline constexpr Return kErrorGpuNotFound = 28;
inline constexpr Return kErrorUnknown = 999;

struct DeviceOpaque;
using Device = DeviceOpaque*;  // nvmlDevice_t

// nvmlClockType_t, nvmlTemperatureSensors_t, nvmlTemperatureThresholds_t
inline constexpr int kClockSm = 1;
inline constexpr int kClockMem = 2;
inline constexpr int kTemperatureGpu = 0;
inline constexpr int kThresholdSlowdown = 1;
inline constexpr int kThresholdGpuMax = 3;

// NVML_FI_DEV_*
inline constexpr unsigned kFieldMemoryTemp = 82;     // C
inline constexpr unsigned kFieldPowerAverage = 185;  // mW, over about one second
inline constexpr unsigned kFieldPowerInstant = 186;  // mW
// For how long clocks were held back, in ns since the driver was loaded.
inline constexpr unsigned kFieldThrottledPowerCap = 74;     // PERF_POLICY_POWER
inline constexpr unsigned kFieldThrottledThermalOld = 75;   // PERF_POLICY_THERMAL
inline constexpr unsigned kFieldThrottledBoardLimit = 77;   // PERF_POLICY_BOARD_LIMIT
inline constexpr unsigned kFieldThrottledReliability = 79;  // PERF_POLICY_RELIABILITY
inline constexpr unsigned kFieldThrottledThermal = 269;     // CLOCKS_EVENT_REASON_SW_THERM_SLOWDOWN
inline constexpr unsigned kFieldThrottledHwThermal = 270;   // ..._HW_THERM_SLOWDOWN
inline constexpr unsigned kFieldThrottledPowerBrake = 271;  // ..._HW_POWER_BRAKE_SLOWDOWN
// Headers 12.575 to 13.580.65 called those three 251 to 253, and 269 to 271 power smoothing, whose
// values are not 64 bits wide: a counter of another type than this is something else.
inline constexpr int kCounterType = 3;  // kTypeUnsignedLongLong

// nvmlValueType_t: which member of Value a field came in; it differs between drivers.
inline constexpr int kTypeDouble = 0;
inline constexpr int kTypeUnsignedInt = 1;
inline constexpr int kTypeUnsignedLong = 2;
inline constexpr int kTypeUnsignedLongLong = 3;
inline constexpr int kTypeSignedLongLong = 4;
inline constexpr int kTypeSignedInt = 5;
inline constexpr int kTypeUnsignedShort = 6;

union Value {  // nvmlValue_t
  double d;
  int si;
  unsigned ui;
  unsigned long ul;
  unsigned long long ull;
  long long sll;
  unsigned short us;
};

struct FieldValue {  // nvmlFieldValue_t
  unsigned field_id;
  unsigned scope_id;  // for power: 0 is the GPU board
  long long timestamp_us;
  long long latency_us;
  int value_type;
  Return result;
  Value value;
};
static_assert(sizeof(FieldValue) == 40 && offsetof(FieldValue, value_type) == 24 &&
              offsetof(FieldValue, value) == 32);

struct MarginTemperature {  // nvmlMarginTemperature_v1_t
  unsigned version;
  int margin_c;  // to the nearest slowdown threshold
};
inline constexpr unsigned kMarginTemperatureVersion1 = sizeof(MarginTemperature) | (1u << 24);
static_assert(kMarginTemperatureVersion1 == 0x1000008);

// GPM: hardware counters between two samples. Metrics come as percentages.
struct GpmSampleOpaque;
using GpmSample = GpmSampleOpaque*;  // nvmlGpmSample_t
struct GpmSupport {                  // nvmlGpmSupport_t
  unsigned version;
  unsigned is_supported;
};
inline constexpr unsigned kGpmSupportVersion = 1;
inline constexpr unsigned kGpmSmActive = 2;      // NVML_GPM_METRIC_SM_UTIL
inline constexpr unsigned kGpmTensorActive = 5;  // NVML_GPM_METRIC_ANY_TENSOR_UTIL
inline constexpr unsigned kGpmDramActive = 10;   // NVML_GPM_METRIC_DRAM_BW_UTIL
struct GpmMetric {                               // nvmlGpmMetric_t
  unsigned metric_id;
  Return result;
  double value;
  const char *short_name, *long_name, *unit;  // the driver's
};
struct GpmMetricsGet {  // nvmlGpmMetricsGet_t
  // NVML_GPM_METRIC_MAX grew from 98 (CUDA 12.0) to 477 (13.1) under the same version number.
  static constexpr int kMetricsMax = 512;
  unsigned version;
  unsigned count;
  GpmSample from, to;
  GpmMetric metrics[kMetricsMax];
};
inline constexpr unsigned kGpmMetricsGetVersion = 1;
static_assert(sizeof(GpmMetric) == 40 && offsetof(GpmMetric, value) == 8 &&
              offsetof(GpmMetricsGet, metrics) == 24);

inline constexpr unsigned kNameBytes = 96;           // NVML_DEVICE_NAME_V2_BUFFER_SIZE
inline constexpr unsigned kUuidBytes = 96;           // NVML_DEVICE_UUID_V2_BUFFER_SIZE
inline constexpr unsigned kDriverVersionBytes = 80;  // NVML_SYSTEM_DRIVER_VERSION_BUFFER_SIZE

// The functions, resolved at run time. The first five are always there; each other may be null.
struct Api {
  Return (*init)() = nullptr;
  Return (*shutdown)() = nullptr;
  Return (*device_count)(unsigned* count) = nullptr;
  Return (*device_by_index)(unsigned index, Device* device) = nullptr;
  Return (*device_temperature)(Device, int sensor, unsigned* celsius) = nullptr;

  const char* (*error_string)(Return) = nullptr;
  Return (*driver_version)(char* text, unsigned bytes) = nullptr;
  Return (*device_name)(Device, char* text, unsigned bytes) = nullptr;
  Return (*device_uuid)(Device, char* text, unsigned bytes) = nullptr;
  Return (*field_values)(Device, int count, FieldValue* values) = nullptr;
  Return (*power_usage)(Device, unsigned* milliwatt) = nullptr;
  Return (*total_energy)(Device, unsigned long long* millijoule) = nullptr;
  Return (*enforced_power_limit)(Device, unsigned* milliwatt) = nullptr;
  Return (*clock_info)(Device, int clock_type, unsigned* mhz) = nullptr;
  Return (*max_clock_info)(Device, int clock_type, unsigned* mhz) = nullptr;
  Return (*temperature_threshold)(Device, int threshold, unsigned* celsius) = nullptr;
  Return (*margin_temperature)(Device, MarginTemperature* margin) = nullptr;
  Return (*clocks_event_reasons)(Device, unsigned long long* mask) = nullptr;
  Return (*gpm_support)(Device, GpmSupport* support) = nullptr;
  Return (*gpm_sample_alloc)(GpmSample* sample) = nullptr;
  Return (*gpm_sample_free)(GpmSample sample) = nullptr;
  Return (*gpm_sample_get)(Device, GpmSample sample) = nullptr;
  Return (*gpm_metrics_get)(GpmMetricsGet* request) = nullptr;
};

}  // namespace thermoe::nvml
