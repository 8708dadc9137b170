#include "telemetry/nvml_reader.h"

#include <algorithm>
#include <array>

#include "telemetry/readings.h"

namespace thermoe::nvml {
namespace {

constexpr double kPerMilli = 1e-3;  // NVML's mW and mJ; we keep W, and mJ as they are

// These mean that the device, or the library's tie to the driver, is gone; any other error is about
// one reading.
bool means_lost(Return result) {
  return result == kErrorUninitialized || result == kErrorDriverNotLoaded ||
         result == kErrorGpuIsLost || result == kErrorResetRequired || result == kErrorGpuNotFound;
}

bool means_unsupported(Return result) {
  return result == kErrorNotSupported || result == kErrorFunctionNotFound ||
         result == kErrorInvalidArgument || result == kErrorArgumentVersionMismatch ||
         result == kErrorDeprecated;
}

std::optional<double> number(const FieldValue& field) {
  switch (field.value_type) {
    case kTypeDouble:
      return field.value.d;
    case kTypeUnsignedInt:
      return field.value.ui;
    case kTypeUnsignedLong:
      return static_cast<double>(field.value.ul);
    case kTypeUnsignedLongLong:
      return static_cast<double>(field.value.ull);
    case kTypeSignedLongLong:
      return static_cast<double>(field.value.sll);
    case kTypeSignedInt:
      return field.value.si;
    case kTypeUnsignedShort:
      return field.value.us;
    default:
      return std::nullopt;  // a type newer than this code
  }
}

}  // namespace

Reader::Reader(const Library& library, Device device) : api_(library.api()), device_(device) {
  unsigned mhz = 0;
  if (ask(kSmClockMax, api_.max_clock_info, kClockSm, &mhz)) sm_clock_max_mhz_ = mhz;
  // Clocks are first lowered at "GPU max" (software), then at "slowdown" (hardware).
  const std::optional<double> gpu_max = threshold_c(kThresholdGpuMax);
  const std::optional<double> slowdown = threshold_c(kThresholdSlowdown);
  temperature_limit_c_ = gpu_max && slowdown ? std::min(*gpu_max, *slowdown)
                         : gpu_max           ? gpu_max
                                             : slowdown;
}

template <typename Function, typename... Arguments>
bool Reader::ask(Query query, Function* function, Arguments... arguments) {
  if (function == nullptr || lost_ || unsupported_[query]) return false;
  const Return result = function(device_, arguments...);
  note(query, result);
  return result == kSuccess;
}

void Reader::note(Query query, Return result) {
  if (means_lost(result)) lost_ = true;
  if (means_unsupported(result)) unsupported_.set(query);
}

std::optional<double> Reader::threshold_c(int which) {
  unsigned celsius = 0;
  const bool known = ask(kThresholds, api_.temperature_threshold, which, &celsius);
  unsupported_.reset(kThresholds);  // each threshold is supported or not by itself
  // Zero stands for "none" on boards without that threshold.
  return known && celsius != 0 ? std::optional<double>(celsius) : std::nullopt;
}

HardwareState Reader::read() {
  HardwareState state;
  read_fields(state);
  read_power(state);
  read_clocks(state);
  read_temperature(state);
  unsigned long long mask = 0;
  if (ask(kEventReasons, api_.clocks_event_reasons, &mask)) state.throttle_reasons = mask;
  if (lost_ || !has_any_reading(state)) return HardwareState{};
  state.sm_clock_max_mhz = sm_clock_max_mhz_;
  if (temperature_limit_c_) state.temperature_limit_c = temperature_limit_c_;
  state.present = true;
  return state;
}

// One batch: a call costs far more than a field (some 3 ms on an idle H100).
void Reader::read_fields(HardwareState& state) {
  struct Wanted {
    Query query;
    unsigned field_id;
    double unit;
    std::optional<double>* reading;
  };
  const std::array wanted = {
      Wanted{kPowerInstant, kFieldPowerInstant, kPerMilli, &state.power_instant_w},
      Wanted{kPowerAverage, kFieldPowerAverage, kPerMilli, &state.power_average_w},
      Wanted{kMemoryTemperature, kFieldMemoryTemp, 1.0, &state.memory_temperature_c}};
  std::array<FieldValue, wanted.size()> values{};
  std::array<const Wanted*, wanted.size()> asked{};
  int count = 0;
  for (const Wanted& one : wanted) {
    if (unsupported_[one.query]) continue;
    values[count].field_id = one.field_id;
    values[count].result = kErrorUnknown;  // should the driver leave it out
    asked[count++] = &one;
  }
  if (count == 0 || lost_ || api_.field_values == nullptr) return;
  const Return result = api_.field_values(device_, count, values.data());
  for (int i = 0; i < count; ++i) {
    note(asked[i]->query, result == kSuccess ? values[i].result : result);
    if (result != kSuccess || values[i].result != kSuccess) continue;
    if (const std::optional<double> raw = number(values[i]))
      *asked[i]->reading = *raw * asked[i]->unit;
  }
}

void Reader::read_power(HardwareState& state) {
  unsigned milliwatt = 0;
  // Drivers without the two power fields have only this call: an average over a second on GA10x and
  // newer, a momentary value before (and on GA100). Beside a field it would say nothing new, and on
  // GA100 something else than its name here.
  if (!state.power_instant_w && !state.power_average_w &&
      ask(kPowerUsage, api_.power_usage, &milliwatt)) {
    state.power_average_w = milliwatt * kPerMilli;
  }
  if (ask(kPowerLimit, api_.enforced_power_limit, &milliwatt)) {
    state.power_limit_w = milliwatt * kPerMilli;
  }
  unsigned long long millijoule = 0;
  if (ask(kEnergy, api_.total_energy, &millijoule)) {
    state.energy_mj = static_cast<double>(millijoule);
  }
}

void Reader::read_clocks(HardwareState& state) {
  unsigned mhz = 0;
  if (ask(kSmClock, api_.clock_info, kClockSm, &mhz)) state.sm_clock_mhz = mhz;
  if (ask(kMemClock, api_.clock_info, kClockMem, &mhz)) state.mem_clock_mhz = mhz;
}

void Reader::read_temperature(HardwareState& state) {
  unsigned celsius = 0;
  if (ask(kTemperature, api_.device_temperature, kTemperatureGpu, &celsius)) {
    state.temperature_c = celsius;
  }
  if (temperature_limit_c_ || !state.temperature_c) return;
  // Newer boards and drivers name the distance to the limit instead of the limit.
  MarginTemperature margin{kMarginTemperatureVersion1, 0};
  if (ask(kMargin, api_.margin_temperature, &margin)) {
    state.temperature_limit_c = *state.temperature_c + margin.margin_c;
  }
}

}  // namespace thermoe::nvml
