#include "thermoe/governor.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "thermoe/error.h"

namespace thermoe {
namespace {

// Below this relative violation a limit is clearly not binding.
constexpr double kSlackFrac = 0.02;
// The firmware's cap counts as the user's where it is not more than so much above it.
constexpr double kSameCapFrac = 1.02;
// No violation counts for more: a far-off reading must not outrun the loop.
constexpr double kMostViolation = 1.0;

void require_positive(std::optional<double> value, const char* name) {
  if (value && !(std::isfinite(*value) && *value > 0))
    throw InvalidArgument(fmt::format("Governor: {} is {}; give a positive number", name, *value));
}

void check(const GovernorLimits& limits) {
  require_positive(limits.power_cap_w, "power_cap_w");
  require_positive(limits.temperature_cap_c, "temperature_cap_c");
  require_positive(limits.layer_latency_target_us, "layer_latency_target_us");
  if (!std::isfinite(limits.max_open_price) || limits.max_open_price < 0)
    throw InvalidArgument(
        fmt::format("Governor: max_open_price is {}; give zero or more", limits.max_open_price));
}

bool power_is_enforced(const HardwareState& state, std::optional<double> cap_w) {
  if ((state.throttle_reasons.value_or(0) & kThrottleAnyPower) == 0) return false;
  return !cap_w || (state.power_limit_w && *state.power_limit_w <= kSameCapFrac * *cap_w);
}

void check(const GovernorSettings& s) {
  require_positive(s.integral_per_s, "integral_per_s");
  require_positive(s.thermal_integral_per_s, "thermal_integral_per_s");
  require_positive(s.temperature_scale_c, "temperature_scale_c");
  require_positive(s.release_per_s, "release_per_s");
  const double rest[] = {s.proportional, s.thermal_proportional, s.temperature_margin_c,
                         s.prediction_s, s.prediction_max_c,     s.sensor_filter_s};
  for (double value : rest)
    if (!std::isfinite(value) || value < 0)
      throw InvalidArgument(fmt::format("GovernorSettings: {} is negative or not finite", value));
}

}  // namespace

Governor::Governor(const GovernorLimits& limits, const CostSurrogate& surrogate,
                   const GovernorSettings& settings)
    : surrogate_(surrogate), settings_(settings) {
  check(settings);
  require_positive(surrogate.open_us, "the surrogate's open_us");
  require_positive(surrogate.open_mj, "the surrogate's open_mj");
  set_limits(limits);
}

void Governor::set_limits(const GovernorLimits& limits) {
  check(limits);
  limits_ = limits;
  if (!limits.layer_latency_target_us) latency_ = {};
  if (!limits.power_cap_w && !limits.layer_latency_target_us) power_ = {};
  if (!limits.temperature_cap_c) heat_ = {};
}

// How far the temperature expected shortly is above what the loop settles at. The sensor's whole
// degrees are smoothed; the slope's part is bounded, as the fast thermal pole's first rise says
// nothing of where the temperature goes.
std::optional<double> Governor::heat_violation(const HardwareState& state, double dt_s) {
  if (!state.temperature_c) return std::nullopt;
  const double before = filtered_c_.value_or(*state.temperature_c);
  const double gain = dt_s / (settings_.sensor_filter_s + dt_s);
  const double now = dt_s > 0 ? before + gain * (*state.temperature_c - before) : before;
  if (dt_s > 0) slope_c_per_s_ += gain * ((now - before) / dt_s - slope_c_per_s_);
  filtered_c_ = now;
  if (!limits_.temperature_cap_c) return std::nullopt;
  const double rise = std::clamp(slope_c_per_s_ * settings_.prediction_s,
                                 -settings_.prediction_max_c, settings_.prediction_max_c);
  const double aim = *limits_.temperature_cap_c - settings_.temperature_margin_c;
  return (now + rise - aim) / settings_.temperature_scale_c;
}

Governor::Violations Governor::violations(const HardwareState& state,
                                          std::optional<double> layer_latency_us, double dt_s) {
  Violations v;
  const bool throttled = state.present && state.throttled();
  if (layer_latency_us && limits_.layer_latency_target_us)
    v.latency = *layer_latency_us / *limits_.layer_latency_target_us - 1;
  if (!state.present) return v;
  v.heat = heat_violation(state, dt_s);
  if (limits_.power_cap_w && state.power_average_w)
    v.power = *state.power_average_w / *limits_.power_cap_w - 1;
  if (!v.latency) return v;
  if (power_is_enforced(state, limits_.power_cap_w)) {
    // The device holds the cap by itself; what is left to win is the latency that this costs.
    v.power = v.latency;
  } else if (throttled) {
    v.power = std::max(v.power.value_or(*v.latency), *v.latency);
  } else if (!limits_.power_cap_w && state.throttle_reasons) {
    // Only a throttled device made energy scarce: released as latency's slack allows.
    v.power = std::min(*v.latency, 0.0);
  }
  // Energy buys the time back that throttling takes: time's own price needn't rise for it.
  if (throttled) v.latency = std::min(*v.latency, 0.0);
  return v;
}

// Positional proportional-integral action: with the integral at zero and no violation the output is
// exactly zero, and noise below the limit can't lift it.
void Governor::step(Loop& loop, std::optional<double> violation, double integral_per_s,
                    double proportional, double dt_s) const {
  if (!violation) return;
  const double e = std::clamp(*violation, -kMostViolation, kMostViolation);
  double rate = integral_per_s * e;
  if (e < -kSlackFrac) rate = std::min(rate, -settings_.release_per_s);
  loop.integral = std::clamp(loop.integral + rate * dt_s, 0.0, 1.0);
  // Squared (mirror ascent): routers react to the first small price the most, so there the steps
  // are finest.
  const double root = std::clamp(loop.integral + proportional * e, 0.0, 1.0);
  loop.output = root * root;
}

Multipliers Governor::update(const HardwareState& state, std::optional<double> layer_latency_us,
                             double dt_s) {
  if (!std::isfinite(dt_s) || dt_s < 0)
    throw InvalidArgument(fmt::format("Governor: a tick of {} s", dt_s));
  if (layer_latency_us && !(std::isfinite(*layer_latency_us) && *layer_latency_us >= 0))
    throw InvalidArgument(fmt::format("Governor: a latency of {} us", *layer_latency_us));
  const Violations v = violations(state, layer_latency_us, dt_s);
  step(latency_, v.latency, settings_.integral_per_s, settings_.proportional, dt_s);
  step(power_, v.power, settings_.integral_per_s, settings_.proportional, dt_s);
  step(heat_, v.heat, settings_.thermal_integral_per_s, settings_.thermal_proportional, dt_s);
  return multipliers();
}

Multipliers Governor::multipliers() const {
  // Power and heat are both paid in energy: the more urgent of the two sets its price.
  const double energy = std::max(power_.output, heat_.output);
  return {latency_.output * limits_.max_open_price / surrogate_.open_us,
          energy * limits_.max_open_price / surrogate_.open_mj};
}

Governor::UnitPrices Governor::unit_prices(const CostSurrogate& surrogate) const {
  const Multipliers m = multipliers();
  const double open = m.per_us * surrogate.open_us + m.per_mj * surrogate.open_mj;
  const double slope = m.per_us * surrogate.slope_us + m.per_mj * surrogate.slope_mj;
  const double most = limits_.max_open_price;
  return {static_cast<float>(std::min(open, most)), static_cast<float>(std::min(slope, most))};
}

ExpertPrices Governor::prices(const CostSurrogate& surrogate, int experts) const {
  if (experts < 1) throw InvalidArgument(fmt::format("Governor: prices of {} experts", experts));
  const UnitPrices price = unit_prices(surrogate);
  return ExpertPrices::uniform(experts, price.open, price.slope);
}

ExpertPrices Governor::prices(const CostSurrogate& surrogate, const ExpertLayout& layout) const {
  const UnitPrices price = unit_prices(surrogate);
  return ExpertPrices::of_layout(layout, price.open, price.slope);
}

}  // namespace thermoe
