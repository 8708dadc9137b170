#include "c_api/records.h"

#include <cmath>
#include <limits>
#include <optional>

namespace thermoe::c_api {
namespace {

constexpr double kMissing = std::numeric_limits<double>::quiet_NaN();
constexpr size_t kLeastState = THERMOE_THROUGH(thermoe_hardware_state, temperature_limit_c);
constexpr size_t kLeastEstimate = THERMOE_THROUGH(thermoe_cost_estimate, flops);
constexpr size_t kLeastSurrogate = THERMOE_THROUGH(thermoe_cost_surrogate, slope_mj);

// The readings that both structs have: body(optional, double).
template <typename State, typename Record, typename Body>
void for_readings(State& state, Record& record, Body&& body) {
  body(state.power_instant_w, record.power_instant_w);
  body(state.power_average_w, record.power_average_w);
  body(state.power_limit_w, record.power_limit_w);
  body(state.energy_mj, record.energy_mj);
  body(state.sm_clock_mhz, record.sm_clock_mhz);
  body(state.sm_clock_max_mhz, record.sm_clock_max_mhz);
  body(state.mem_clock_mhz, record.mem_clock_mhz);
  body(state.temperature_c, record.temperature_c);
  body(state.memory_temperature_c, record.memory_temperature_c);
  body(state.temperature_limit_c, record.temperature_limit_c);
  body(state.sm_active_frac, record.sm_active_frac);
  body(state.tensor_active_frac, record.tensor_active_frac);
  body(state.dram_active_frac, record.dram_active_frac);
}

void require_finite(double value, const char* name) {
  if (!std::isfinite(value))
    throw InvalidArgument(fmt::format("{} is {}: it must be finite", name, value));
}

}  // namespace

thermoe_hardware_state missing_state() {
  thermoe_hardware_state record{};
  record.struct_size = sizeof(record);
  const HardwareState none;
  for_readings(none, record, [](const auto&, double& value) { value = kMissing; });
  return record;
}

HardwareState read_state(const thermoe_hardware_state* given) {
  const thermoe_hardware_state record =
      read_struct(given, kLeastState, "hardware state", missing_state());
  require_finite(record.time_s, "hardware state: time_s");
  HardwareState state;
  state.time_s = record.time_s;
  state.present = record.present != 0;
  if (record.throttle_reasons_known != 0) state.throttle_reasons = record.throttle_reasons;
  for_readings(state, record, [](std::optional<double>& to, double value) {
    if (std::isnan(value)) return;
    require_finite(value, "a reading of the hardware state");
    to = value;
  });
  return state;
}

void write_state(const HardwareState& state, thermoe_hardware_state* out) {
  thermoe_hardware_state record = missing_state();
  record.time_s = state.time_s;
  record.present = state.present ? 1 : 0;
  record.throttle_reasons_known = state.throttle_reasons ? 1 : 0;
  record.throttle_reasons = state.throttle_reasons.value_or(0);
  for_readings(state, record, [](const std::optional<double>& from, double& value) {
    value = from.value_or(kMissing);
  });
  write_struct(record, out, kLeastState, "hardware state");
}

CostEstimate read_estimate(const thermoe_cost_estimate* given) {
  thermoe_cost_estimate defaults{};
  defaults.cost_source = static_cast<int32_t>(CostSource::kInterpolated);
  const thermoe_cost_estimate r = read_struct(given, kLeastEstimate, "cost estimate", defaults);
  CostEstimate estimate;
  estimate.latency_us = r.latency_us;
  estimate.energy_mj = r.energy_mj;
  estimate.clock_bound_frac = r.clock_bound_frac;
  estimate.sm_active_frac = r.sm_active_frac;
  estimate.bytes = r.bytes;
  estimate.flops = r.flops;
  estimate.uncertainty_frac = r.uncertainty_frac;
  check_code(r.bound_by, 2, "cost estimate: bound_by");
  check_code(r.cost_source, 3, "cost estimate: cost_source");
  estimate.bound_by = static_cast<BoundBy>(r.bound_by);
  estimate.source = static_cast<CostSource>(r.cost_source);
  return estimate;
}

void write_estimate(const CostEstimate& e, thermoe_cost_estimate* out) {
  const thermoe_cost_estimate record = {.struct_size = sizeof(record),
                                        .latency_us = e.latency_us,
                                        .energy_mj = e.energy_mj,
                                        .clock_bound_frac = e.clock_bound_frac,
                                        .sm_active_frac = e.sm_active_frac,
                                        .bytes = e.bytes,
                                        .flops = e.flops,
                                        .uncertainty_frac = e.uncertainty_frac,
                                        .bound_by = static_cast<int32_t>(e.bound_by),
                                        .cost_source = static_cast<int32_t>(e.source)};
  write_struct(record, out, kLeastEstimate, "cost estimate");
}

CostSurrogate read_surrogate(const thermoe_cost_surrogate* given) {
  const thermoe_cost_surrogate r = read_struct(given, kLeastSurrogate, "cost surrogate");
  const double values[] = {r.c0_us, r.open_us, r.slope_us, r.c0_mj, r.open_mj, r.slope_mj};
  for (const double value : values)
    if (!(value >= 0.0) || !std::isfinite(value))
      throw InvalidArgument(fmt::format(
          "cost surrogate: a coefficient is {}: give finite ones, not negative", value));
  return {.c0_us = r.c0_us,
          .open_us = r.open_us,
          .slope_us = r.slope_us,
          .c0_mj = r.c0_mj,
          .open_mj = r.open_mj,
          .slope_mj = r.slope_mj,
          .fit_error_frac = r.fit_error_frac,
          .envelope_gap_frac = r.envelope_gap_frac};
}

void write_surrogate(const CostSurrogate& s, thermoe_cost_surrogate* out) {
  const thermoe_cost_surrogate record = {.struct_size = sizeof(record),
                                         .c0_us = s.c0_us,
                                         .open_us = s.open_us,
                                         .slope_us = s.slope_us,
                                         .c0_mj = s.c0_mj,
                                         .open_mj = s.open_mj,
                                         .slope_mj = s.slope_mj,
                                         .fit_error_frac = s.fit_error_frac,
                                         .envelope_gap_frac = s.envelope_gap_frac};
  write_struct(record, out, kLeastSurrogate, "cost surrogate");
}

}  // namespace thermoe::c_api

thermoe_status thermoe_hardware_state_missing(thermoe_hardware_state* out) {
  return thermoe::c_api::guarded([&] {
    thermoe_hardware_state record = thermoe::c_api::missing_state();
    record.present = 1;
    thermoe::c_api::write_struct(record, out, THERMOE_THROUGH(thermoe_hardware_state, present),
                                 "hardware state");
  });
}
