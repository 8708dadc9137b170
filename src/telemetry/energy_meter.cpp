#include "thermoe/energy_meter.h"

#include <algorithm>

namespace thermoe {
namespace {

constexpr double kMjPerJ = 1e3;
// Below this a counter may stand still in truth: no board with memory draws less.
constexpr double kLeastPowerW = 1.0;

}  // namespace

void EnergyMeter::add(const HardwareState& state) {
  if (!state.present || (any_ && state.time_s <= last_s_)) return;
  if (!any_) {
    any_ = true;
    first_s_ = state.time_s;
    pending_.since_s = state.time_s;
  } else {
    add_power(state, state.time_s - last_s_);
  }
  add_counter(state);
  power_w_ = state.power_w();
  last_s_ = state.time_s;
}

void EnergyMeter::add_power(const HardwareState& state, double step_s) {
  if (step_s > kLongestGapS) return;
  observed_s_ += step_s;
  const std::optional<double> now_w = state.power_w();
  if (!now_w || !power_w_) return;
  const double step_mj = 0.5 * (*now_w + *power_w_) * step_s * kMjPerJ;
  integrated_mj_ += step_mj;
  pending_.integral_mj += step_mj;
  highest_power_w_ = std::max({highest_power_w_, *now_w, *power_w_});
  has_integral_ = true;
}

void EnergyMeter::add_counter(const HardwareState& state) {
  if (!state.energy_mj) return;
  const double counter_mj = *state.energy_mj;
  if (!counter_mj_ || counter_mj < *counter_mj_) {  // what came before is filled in
    if (counter_mj_) ++resets_;
    filled_mj_ += pending_.integral_mj;
    pending_ = {state.time_s, 0, false};
  } else if (counter_mj > *counter_mj_) {
    // What a stalled counter makes up for counts as any delta.
    if (!pending_.stalled) refresh_s_ = std::max(refresh_s_, state.time_s - pending_.since_s);
    counted_mj_ += counter_mj - *counter_mj_;
    counted_integral_mj_ += pending_.integral_mj;
    pending_ = {state.time_s, 0, false};
  } else if (!pending_.stalled && state.time_s - pending_.since_s >= kStallS &&
             state.power_w().value_or(0.0) > kLeastPowerW) {
    pending_.stalled = true;
    ++stalls_;
  }
  counter_mj_ = counter_mj;
}

EnergyReading EnergyMeter::reading() const {
  EnergyReading reading;
  if (!any_) return reading;
  reading.span_s = last_s_ - first_s_;
  reading.observed_s = observed_s_;
  reading.counter_resets = resets_;
  reading.counter_stalls = stalls_;
  if (has_integral_) reading.integrated_mj = integrated_mj_;
  const double open_mj = pending_.stalled || !counter_mj_ ? pending_.integral_mj : 0.0;
  const double filled_mj = filled_mj_ + open_mj;
  if (counter_mj_ || has_integral_) reading.energy_mj = counted_mj_ + filled_mj;
  // The counter's value is up to one refresh old, at the beginning and at the end.
  reading.uncertainty_mj =
      0.5 * filled_mj + (counter_mj_ ? refresh_s_ * highest_power_w_ * kMjPerJ : 0.0);
  if (counted_integral_mj_ > 0.0)
    reading.disagreement_frac = (counted_mj_ - counted_integral_mj_) / counted_integral_mj_;
  return reading;
}

}  // namespace thermoe
