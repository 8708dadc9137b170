#include "thermoe/energy_meter.h"

#include <algorithm>

#include "telemetry/reading_history.h"

namespace thermoe {
namespace {

constexpr double kMjPerJ = 1e3;

}  // namespace

void EnergyMeter::Span::add(double power_w, double energy_mj) {
  highest_w = any ? std::max(highest_w, power_w) : power_w;
  lowest_w = any ? std::min(lowest_w, power_w) : power_w;
  integral_mj += energy_mj;
  any = true;
}

// The counter's value at its inner end is up to one refresh old: half of it either way. Power is up
// to one refresh old as well, which matters where it changed.
double EnergyMeter::Span::uncertainty_mj() const {
  return kRefreshS * (0.5 * highest_w + (highest_w - lowest_w)) * kMjPerJ +
         kPowerErrorFrac * integral_mj;
}

void EnergyMeter::add(const HardwareState& state) {
  if (!state.present || (any_ && state.time_s <= last_s_)) return;
  if (!any_) {
    any_ = true;
    first_s_ = state.time_s;
    begin_pending(state, 0.0);
  } else {
    add_power(state, state.time_s - last_s_);
  }
  add_counter(state);
  power_w_ = state.power_w();
  last_s_ = state.time_s;
}

void EnergyMeter::begin_pending(const HardwareState& state, double late_s) {
  pending_ = Span{state.time_s - late_s};
  if (const std::optional<double> power_w = state.power_w())
    pending_.add(*power_w, *power_w * late_s * kMjPerJ);
}

void EnergyMeter::add_power(const HardwareState& state, double step_s) {
  const std::optional<double> now_w = state.power_w();
  if (step_s <= kLongestGapS) observed_s_ += step_s;
  if (step_s > kLongestGapS || !now_w || !power_w_) {
    pending_.complete = false;
    return;
  }
  const double step_mj = 0.5 * (*now_w + *power_w_) * step_s * kMjPerJ;
  integrated_mj_ += step_mj;
  pending_.add(*now_w, step_mj);
  has_integral_ = true;
}

void EnergyMeter::add_counter(const HardwareState& state) {
  if (!state.energy_mj) return;
  const double counter_mj = *state.energy_mj;
  // When it was read: a counter may be read less often than the rest.
  const double late_s = std::clamp(1e-3 * state.status_of(Reading::kEnergy).age_ms, 0.0,
                                   state.time_s - pending_.since_s);
  if (!counter_mj_ || counter_mj < *counter_mj_) {  // what came before is filled in
    if (counter_mj_) ++resets_;
    filled_mj_ += pending_.integral_mj;
    begin_pending(state, 0.0);
  } else if (counter_mj > *counter_mj_) {
    count(state, counter_mj - *counter_mj_, late_s);
  } else if (!pending_.stalled && state.time_s - late_s - pending_.since_s >= kStallS &&
             state.power_w().value_or(0.0) > ReadingHistory::kLeastPowerW) {
    pending_.stalled = true;
    ++stalls_;
  }
  counter_mj_ = counter_mj;
}

// What a stalled counter makes up for counts as any delta.
void EnergyMeter::count(const HardwareState& state, double delta_mj, double late_s) {
  const double late_mj = state.power_w().value_or(0.0) * late_s * kMjPerJ;
  pending_.integral_mj = std::max(0.0, pending_.integral_mj - late_mj);
  // Its first value was refreshed nobody knows how long before.
  const bool bridged = !moved_ && pending_.any && pending_.complete && !pending_.stalled;
  if (bridged) {
    head_ = pending_;
  } else {
    counted_mj_ += delta_mj;
    if (pending_.complete) {
      compared_mj_ += delta_mj;
      compared_integral_mj_ += pending_.integral_mj;
    }
  }
  moved_ = true;
  begin_pending(state, late_s);
}

EnergyReading EnergyMeter::reading() const {
  EnergyReading reading;
  if (!any_) return reading;
  reading.span_s = last_s_ - first_s_;
  reading.observed_s = observed_s_;
  reading.counter_resets = resets_;
  reading.counter_stalls = stalls_;
  if (has_integral_) reading.integrated_mj = integrated_mj_;
  const bool live = counter_mj_ && !pending_.stalled;
  const double bridged_mj = head_.integral_mj + (live ? pending_.integral_mj : 0.0);
  const double filled_mj = filled_mj_ + (live ? 0.0 : pending_.integral_mj);
  if (counter_mj_ || has_integral_) reading.energy_mj = counted_mj_ + bridged_mj + filled_mj;
  reading.uncertainty_mj = 0.5 * filled_mj + head_.uncertainty_mj();
  if (live) reading.uncertainty_mj += pending_.uncertainty_mj();
  if (compared_integral_mj_ > 0.0)
    reading.disagreement_frac = (compared_mj_ - compared_integral_mj_) / compared_integral_mj_;
  return reading;
}

}  // namespace thermoe
