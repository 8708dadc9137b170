// The part of NVML's C interface that thermoe calls, declared here because nvml.h is not on most
// build machines. Names, values and layouts are those of the public header (CUDA 12 and 13; checked
// against NVIDIA's cuda.bindings.nvml 13): they are a stable ABI.
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
};

}  // namespace thermoe::nvml
