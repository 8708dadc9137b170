#include "telemetry/nvml_reader.h"

#include <algorithm>
#include <array>
#include <bitset>

#include "telemetry/reading_history.h"
#include "telemetry/readings.h"

namespace thermoe::nvml {
namespace {

constexpr double kPerMilli = 1e-3;  // NVML's mW and mJ; we keep W, and mJ as they are
constexpr double kPerNano = 1e-9;   // NVML's ns; we keep s

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

// One field, and the reading that it is.
struct Reader::Field {
  Query query;
  Reading reading;
  std::optional<double> HardwareState::*member;
  unsigned id;
  double unit;
  bool counter;  // need not be read each time
};

// In Query's order.
constexpr std::array<Reader::Field, Reader::kFieldQueries> Reader::kFields{{
    {kPowerInstant, Reading::kPowerInstant, &HardwareState::power_instant_w, kFieldPowerInstant,
     kPerMilli, false},
    {kPowerAverage, Reading::kPowerAverage, &HardwareState::power_average_w, kFieldPowerAverage,
     kPerMilli, false},
    {kMemoryTemperature, Reading::kMemoryTemperature, &HardwareState::memory_temperature_c,
     kFieldMemoryTemp, 1.0, false},
    {kThrottledPowerCap, Reading::kThrottledPowerCap, &HardwareState::throttled_power_cap_s,
     kFieldThrottledPowerCap, kPerNano, true},
    {kThrottledPowerBrake, Reading::kThrottledPowerBrake, &HardwareState::throttled_power_brake_s,
     kFieldThrottledPowerBrake, kPerNano, true},
    {kThrottledThermal, Reading::kThrottledThermal, &HardwareState::throttled_thermal_s,
     kFieldThrottledThermal, kPerNano, true},
    {kThrottledThermalOld, Reading::kThrottledThermal, &HardwareState::throttled_thermal_s,
     kFieldThrottledThermalOld, kPerNano, true},
    {kThrottledHwThermal, Reading::kThrottledHardwareThermal,
     &HardwareState::throttled_hardware_thermal_s, kFieldThrottledHwThermal, kPerNano, true},
    {kThrottledBoardLimit, Reading::kThrottledBoardLimit, &HardwareState::throttled_board_limit_s,
     kFieldThrottledBoardLimit, kPerNano, true},
    {kThrottledReliability, Reading::kThrottledReliability, &HardwareState::throttled_reliability_s,
     kFieldThrottledReliability, kPerNano, true},
}};

Reader::Reader(const Library& library, Device device)
    : api_(library.api()), device_(device), gpm_(api_, device, monotonic_s()) {
  note(kActivity, gpm_.result());
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
  if (lost_ || outcome_[query] == Validity::kUnsupported) return false;
  const Return result =
      function == nullptr ? kErrorFunctionNotFound : function(device_, arguments...);
  note(query, result);
  return result == kSuccess;
}

void Reader::note(Query query, Return result) {
  if (means_lost(result)) lost_ = true;
  if (result == kSuccess) answered_ = true;
  outcome_[query] = result == kSuccess          ? Validity::kValid
                    : means_unsupported(result) ? Validity::kUnsupported
                                                : Validity::kError;
}

std::optional<double> Reader::threshold_c(int which) {
  unsigned celsius = 0;
  const bool known = ask(kThresholds, api_.temperature_threshold, which, &celsius);
  outcome_[kThresholds] = Validity::kUnknown;  // each is supported or not by itself
  // Zero stands for "none" on boards without that threshold.
  return known && celsius != 0 ? std::optional<double>(celsius) : std::nullopt;
}

HardwareState Reader::read() {
  HardwareState state;
  answered_ = false;
  // The slow ones first, so that time_s is that of the others.
  read_fields(state);
  read_activity(state);
  read_power(state);
  read_clocks(state);
  read_temperature(state);
  unsigned long long mask = 0;
  if (ask(kEventReasons, api_.clocks_event_reasons, &mask)) state.throttle_reasons = mask;
  // Values of an earlier time alone are no answer.
  if (lost_ || !answered_ || !has_any_reading(state)) return HardwareState{};
  state.time_s = monotonic_s();
  state.sm_clock_max_mhz = sm_clock_max_mhz_;
  if (temperature_limit_c_) state.temperature_limit_c = temperature_limit_c_;
  state.present = true;
  say_when(state);
  say_why_absent(state);
  return state;
}

void Reader::read_fields(HardwareState& state) {
  ask_fields();
  for (const Field& field : kFields)
    if (fields_[field.query].value) state.*field.member = fields_[field.query].value;
}

bool Reader::wanted(const Field& field, bool counters_due) const {
  if (outcome_[field.query] == Validity::kUnsupported || (field.counter && !counters_due))
    return false;
  // The same counter under its older name.
  return field.query != kThrottledThermalOld ||
         outcome_[kThrottledThermal] == Validity::kUnsupported;
}

// One batch: a call costs far more than a field (some 3 ms on an idle H100).
void Reader::ask_fields() {
  const double begin_s = monotonic_s();
  const bool counters_due = counter_pace_.due(begin_s);
  std::array<FieldValue, kFieldQueries> values{};
  std::array<const Field*, kFieldQueries> asked{};
  int count = 0;
  unsigned newest_id = 0;
  for (const Field& field : kFields) {
    if (!wanted(field, counters_due)) continue;
    newest_id = std::max(newest_id, field.id);
    values[count].field_id = field.id;
    values[count].result = kErrorUnknown;  // should the driver leave it out
    asked[count++] = &field;
  }
  if (count == 0 || lost_) return;
  const Return result = api_.field_values == nullptr
                            ? kErrorFunctionNotFound
                            : api_.field_values(device_, count, values.data());
  const double end_s = monotonic_s();
  driver_clock_.now(wall_clock_us(), end_s);
  // A driver that does not know a field may refuse the whole batch: next time without the newest.
  const bool refused = result == kErrorInvalidArgument && count > 1;
  double counters_us = 0;
  for (int i = 0; i < count; ++i) {
    const bool spared = refused && asked[i]->id < newest_id;
    note(asked[i]->query, spared ? kErrorUnknown : result == kSuccess ? values[i].result : result);
    if (asked[i]->counter) counters_us += static_cast<double>(values[i].latency_us);
    keep(*asked[i], values[i], end_s);
  }
  if (counters_due && !refused) {
    // The driver's word for what they took, but no more than the whole.
    const double cost_s = std::clamp(1e-6 * counters_us, 0.0, end_s - begin_s);
    counter_pace_.done(begin_s, cost_s);
  }
}

void Reader::keep(const Field& field, const FieldValue& value, double now_s) {
  Held<double>& held = fields_[field.query];
  held.value.reset();
  if (outcome_[field.query] != Validity::kValid) return;
  const bool something_else =
      field.id >= kFieldThrottledThermal && value.value_type != kCounterType;
  const std::optional<double> raw = something_else ? std::nullopt : number(value);
  if (!raw) {
    outcome_[field.query] = something_else ? Validity::kUnsupported : Validity::kError;
    return;
  }
  held.value = *raw * field.unit;
  held.taken_s = now_s - driver_clock_.age_s(value.timestamp_us).value_or(0.0);
}

void Reader::read_activity(HardwareState& state) {
  const double begin_s = monotonic_s();
  if (!lost_ && outcome_[kActivity] != Validity::kUnsupported && activity_pace_.due(begin_s) &&
      gpm_.ready(begin_s)) {
    activity_ = {gpm_.read(begin_s), begin_s};
    note(kActivity, gpm_.result());
    activity_pace_.done(begin_s, monotonic_s() - begin_s);
  }
  if (!activity_.value) return;
  state.sm_active_frac = activity_.value->sm_frac;
  state.tensor_active_frac = activity_.value->tensor_frac;
  state.dram_active_frac = activity_.value->dram_frac;
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

void Reader::say_when(HardwareState& state) const {
  for (const Field& field : kFields) {
    if (!fields_[field.query].value) continue;
    const double age_s = state.time_s - fields_[field.query].taken_s;
    ReadingStatus& status = state.status_of(field.reading);
    status.age_ms = status_ms(age_s);
    status.validity = age_s > kStaleS && !field.counter ? Validity::kStale : Validity::kValid;
  }
  if (!activity_.value) return;
  for (const Reading reading : {Reading::kSmActive, Reading::kTensorActive, Reading::kDramActive})
    state.status_of(reading).age_ms = status_ms(state.time_s - activity_.taken_s);
}

void Reader::say_why_absent(HardwareState& state) const {
  struct Asked {
    Query query;
    Reading reading;
  };
  static constexpr std::array kOthers{
      Asked{kEnergy, Reading::kEnergy},           Asked{kPowerLimit, Reading::kPowerLimit},
      Asked{kSmClock, Reading::kSmClock},         Asked{kMemClock, Reading::kMemClock},
      Asked{kSmClockMax, Reading::kSmClockMax},   Asked{kTemperature, Reading::kTemperature},
      Asked{kMargin, Reading::kTemperatureLimit}, Asked{kEventReasons, Reading::kThrottleReasons},
      Asked{kActivity, Reading::kSmActive},       Asked{kActivity, Reading::kTensorActive},
      Asked{kActivity, Reading::kDramActive}};
  std::bitset<kReadings> there;
  size_t n = 0;
  for_each_reading(state, [&](const char*, const auto& reading) { there[n++] = bool(reading); });
  // What could be read and is absent all the same is not known yet.
  const auto say = [&](Query query, Reading reading) {
    if (!there[static_cast<size_t>(reading)] && outcome_[query] != Validity::kValid)
      state.status_of(reading).validity = outcome_[query];
  };
  for (const Field& field : kFields) say(field.query, field.reading);
  for (const Asked& one : kOthers) say(one.query, one.reading);
}

}  // namespace thermoe::nvml
