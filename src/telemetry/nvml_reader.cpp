#include "telemetry/nvml_reader.h"

#include <algorithm>
#include <array>
#include <bitset>

#include "telemetry/reading_history.h"
#include "telemetry/readings.h"

namespace thermoe::nvml {
namespace {

// Of a field asked alone, three times in all: at each sample.
constexpr double kLearningShare = 1.0;

// A call's time, into the pace of what was asked.
class CallTimer {
 public:
  void charge(Pace& pace) const {
    const auto cpu_s = 1e-9 * static_cast<double>(thread_cpu_ns() - cpu_ns_);
    pace.done(begin_s_, monotonic_s() - begin_s_, cpu_s);
  }
  double begin_s() const { return begin_s_; }

 private:
  double begin_s_ = monotonic_s();
  int64_t cpu_ns_ = thread_cpu_ns();
};

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
  bool counter;  // misses nothing where it is read less often
};

// Fields asked for in one call.
struct Reader::Batch {
  std::array<const Field*, kFieldQueries> fields{};
  int count = 0;
  void add(const Field& field) { fields[count++] = &field; }
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

// The readings that are no fields.
struct Reader::Asked {
  Query query;
  Reading reading;
};
constexpr std::array<Reader::Asked, 12> Reader::kOthers{{
    {kEnergy, Reading::kEnergy},
    {kPowerUsage, Reading::kPowerAverage},
    {kPowerLimit, Reading::kPowerLimit},
    {kSmClock, Reading::kSmClock},
    {kMemClock, Reading::kMemClock},
    {kSmClockMax, Reading::kSmClockMax},
    {kTemperature, Reading::kTemperature},
    {kMargin, Reading::kTemperatureLimit},
    {kEventReasons, Reading::kThrottleReasons},
    {kActivity, Reading::kSmActive},
    {kActivity, Reading::kTensorActive},
    {kActivity, Reading::kDramActive},
}};

Reader::Reader(const Library& library, Device device)
    : api_(library.api()),
      device_(device),
      paces_(kQueries, Pace(kOtherShare)),
      gpm_(api_, device, monotonic_s()) {
  for (const Field& field : kFields) paces_[field.query] = Pace(kLearningShare);
  paces_[kEnergy] = Pace(kEnergyShare);
  paces_[kActivity] = Pace(kActivityShare, kActivityIntervalS);
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
  asked_ = true;
  if (means_lost(result)) lost_ = true;
  if (result == kSuccess) answered_ = true;
  outcome_[query] = result == kSuccess          ? Validity::kValid
                    : means_unsupported(result) ? Validity::kUnsupported
                                                : Validity::kError;
}

template <typename Value, typename Call>
std::optional<Value> Reader::newest(Query query, Held<Value>& held, Call call) {
  const CallTimer timer;
  if (!lost_ && outcome_[query] != Validity::kUnsupported && paces_[query].due(timer.begin_s())) {
    held = {call(), monotonic_s()};
    timer.charge(paces_[query]);
  }
  return held.value;
}

template <typename Number, typename Function, typename... Arguments>
std::optional<double> Reader::newest_number(Query query, Function* function,
                                            Arguments... arguments) {
  return newest(query, numbers_[query], [&]() -> std::optional<double> {
    Number number = 0;
    if (!ask(query, function, arguments..., &number)) return std::nullopt;
    return static_cast<double>(number);
  });
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
  asked_ = answered_ = false;
  // The slow ones first, so that time_s is that of the others.
  state.energy_mj = newest_number<unsigned long long>(kEnergy, api_.total_energy);
  read_activity(state);
  read_fields(state);
  read_power(state);
  state.sm_clock_mhz = newest_number<unsigned>(kSmClock, api_.clock_info, kClockSm);
  state.mem_clock_mhz = newest_number<unsigned>(kMemClock, api_.clock_info, kClockMem);
  read_temperature(state);
  state.throttle_reasons = newest(kEventReasons, reasons_, [&] {
    unsigned long long mask = 0;
    const bool known = ask(kEventReasons, api_.clocks_event_reasons, &mask);
    return known ? std::optional(mask) : std::nullopt;
  });
  // Values of an earlier time alone are no answer.
  if (lost_ || (asked_ && !answered_) || !has_any_reading(state)) return HardwareState{};
  state.time_s = monotonic_s();
  state.sm_clock_max_mhz = sm_clock_max_mhz_;
  if (temperature_limit_c_) state.temperature_limit_c = temperature_limit_c_;
  state.present = true;
  say_when(state);
  say_why_absent(state);
  return state;
}

bool Reader::wanted(const Field& field) const {
  if (outcome_[field.query] == Validity::kUnsupported) return false;
  // The same counter under its older name.
  return field.query != kThrottledThermalOld ||
         outcome_[kThrottledThermal] == Validity::kUnsupported;
}

// The quick fields in one call, the slow ones in another: one slow field makes a call slow. A
// field is asked alone until it is known which it is.
void Reader::read_fields(HardwareState& state) {
  Batch quick, slow;
  for (const Field& field : kFields) {
    if (!wanted(field)) continue;
    Pace& own = paces_[field.query];
    if (own.known()) {
      (own.slow() ? slow : quick).add(field);
    } else {
      Batch alone;
      alone.add(field);
      ask_batch(alone, own);
    }
  }
  ask_batch(slow, slow_fields_);
  ask_batch(quick, quick_fields_);
  // What they were is no longer so.
  if (slow_fields_.known() && slow_fields_.quick()) forget(slow, slow_fields_);
  if (quick_fields_.slow() && quick_fields_.cost_s() > 2.0 * alone_s(quick))
    forget(quick, quick_fields_);
  for (const Field& field : kFields)
    if (numbers_[field.query].value) state.*field.member = numbers_[field.query].value;
}

void Reader::ask_batch(const Batch& batch, Pace& pace) {
  const CallTimer timer;
  if (batch.count == 0 || lost_ || !pace.due(timer.begin_s())) return;
  std::array<FieldValue, kFieldQueries> values{};
  for (int i = 0; i < batch.count; ++i) {
    values[i].field_id = batch.fields[i]->id;
    values[i].result = kErrorUnknown;  // should the driver leave it out
  }
  const Return result = api_.field_values == nullptr
                            ? kErrorFunctionNotFound
                            : api_.field_values(device_, batch.count, values.data());
  timer.charge(pace);
  const double end_s = monotonic_s();
  driver_clock_.now(wall_clock_us(), end_s);
  // A driver that does not know one field may refuse all.
  const bool refused = result == kErrorInvalidArgument && batch.count > 1;
  for (int i = 0; i < batch.count; ++i) {
    const Field& field = *batch.fields[i];
    note(field.query, refused ? kErrorUnknown : result == kSuccess ? values[i].result : result);
    keep(field, values[i], end_s);
    if (refused) paces_[field.query] = Pace(kLearningShare);
  }
}

// What the batch's fields took alone.
double Reader::alone_s(const Batch& batch) const {
  double sum_s = 0;
  for (int i = 0; i < batch.count; ++i) sum_s += paces_[batch.fields[i]->query].cost_s();
  return sum_s;
}

// Each of the batch is to show again, alone, how slow it is.
void Reader::forget(const Batch& batch, Pace& pace) {
  for (int i = 0; i < batch.count; ++i) paces_[batch.fields[i]->query] = Pace(kLearningShare);
  pace = Pace(pace.share());
}

void Reader::keep(const Field& field, const FieldValue& value, double now_s) {
  Held<double>& held = numbers_[field.query];
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
  if (gpm_.ready(monotonic_s()))
    newest(kActivity, activity_, [&] {
      const std::optional<Gpm::Activity> activity = gpm_.read(monotonic_s());
      note(kActivity, gpm_.result());
      return activity;
    });
  if (!activity_.value) return;
  state.sm_active_frac = activity_.value->sm_frac;
  state.tensor_active_frac = activity_.value->tensor_frac;
  state.dram_active_frac = activity_.value->dram_frac;
}

void Reader::read_power(HardwareState& state) {
  // Drivers without the two power fields have only this call: an average over a second on GA10x and
  // newer, a momentary value before (and on GA100). Beside a field it would say nothing new, and on
  // GA100 something else than its name here.
  if (!state.power_instant_w && !state.power_average_w) {
    state.power_average_w = newest_number<unsigned>(kPowerUsage, api_.power_usage);
    if (state.power_average_w) *state.power_average_w *= kPerMilli;
  }
  state.power_limit_w = newest_number<unsigned>(kPowerLimit, api_.enforced_power_limit);
  if (state.power_limit_w) *state.power_limit_w *= kPerMilli;
}

void Reader::read_temperature(HardwareState& state) {
  state.temperature_c =
      newest_number<unsigned>(kTemperature, api_.device_temperature, kTemperatureGpu);
  if (temperature_limit_c_ || !state.temperature_c) return;
  // Newer boards and drivers name the distance to the limit instead of the limit.
  const std::optional<double> margin_c =
      newest(kMargin, numbers_[kMargin], [&]() -> std::optional<double> {
        MarginTemperature margin{kMarginTemperatureVersion1, 0};
        if (!ask(kMargin, api_.margin_temperature, &margin)) return std::nullopt;
        return margin.margin_c;
      });
  if (margin_c) state.temperature_limit_c = *state.temperature_c + *margin_c;
}

void Reader::say_when(HardwareState& state) const {
  const auto say = [&state](Reading reading, double taken_s) {
    state.status_of(reading).age_ms = status_ms(state.time_s - taken_s);
  };
  for (const Field& field : kFields) {
    const Held<double>& held = numbers_[field.query];
    if (!held.value) continue;
    say(field.reading, held.taken_s);
    const bool stale = state.time_s - held.taken_s > kStaleS && !field.counter;
    state.status_of(field.reading).validity = stale ? Validity::kStale : Validity::kValid;
  }
  for (const Asked& one : kOthers)
    if (numbers_[one.query].value) say(one.reading, numbers_[one.query].taken_s);
  if (reasons_.value) say(Reading::kThrottleReasons, reasons_.taken_s);
  if (!activity_.value) return;
  for (const Reading reading : {Reading::kSmActive, Reading::kTensorActive, Reading::kDramActive})
    say(reading, activity_.taken_s);
}

void Reader::say_why_absent(HardwareState& state) const {
  std::bitset<kReadings> there;
  size_t n = 0;
  for_each_reading(state, [&](const char*, const auto& reading) { there[n++] = bool(reading); });
  // What could be read and is absent all the same is not known yet.
  const auto say = [&](Query query, Reading reading) {
    if (!there[static_cast<size_t>(reading)] && outcome_[query] != Validity::kValid &&
        outcome_[query] != Validity::kUnknown)
      state.status_of(reading).validity = outcome_[query];
  };
  for (const Field& field : kFields) say(field.query, field.reading);
  for (const Asked& one : kOthers) say(one.query, one.reading);
}

}  // namespace thermoe::nvml
