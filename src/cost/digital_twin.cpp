#include "thermoe/digital_twin.h"

#include <fmt/format.h>

#include <array>
#include <cmath>
#include <utility>

#include "cost/power_model.h"
#include "thermoe/error.h"

namespace thermoe {
namespace {

// Longest sub-step: a hundredth of the fast thermal pole, a fiftieth of the power filter.
constexpr double kTickS = 0.002;
// The cap controller: integral action on power low-passed over kPowerFilterS. With power about
// proportional to the square of the clock the loop is near critically damped and settles in a
// second.
constexpr double kPowerFilterS = 0.1;
constexpr double kPowerGainPerS = 1.2;
// The slowdown controller: pulls so much of the maximum clock per second and degree; recovers
// slower than it pulls. Twice as fast pulls were seen to hunt around the threshold.
constexpr double kHeatGainPerSC = 0.02;
constexpr double kHeatRecoveryPerS = 0.05;
constexpr double kHardwareSlowdownPerS = 1.0;
constexpr double kAverageS = 1.0;          // nvmlDeviceGetPowerUsage averages over a second
constexpr double kInstantS = 0.1;          // the instantaneous field refreshes ten times a second
constexpr double kThrottledBelow = 0.995;  // of the maximum clock; NVML's steps are 15 MHz of 1980

// The energy counter at regular times, for averages over windows that end now.
class EnergyHistory {
 public:
  void record(double energy_j) {
    head_ = (head_ + 1) % kEntries;
    entries_[head_] = energy_j;
    if (count_ < kEntries) ++count_;
  }
  // Mean power over the `window_s` up to now, or over what there is. `since_s`: since the last
  // entry.
  double mean_w(double window_s, double energy_j, double since_s) const {
    const double back = std::max(window_s - since_s, 0.0) / kEveryS;
    const double oldest = static_cast<double>(count_ - 1);
    const double clipped = std::min(back, oldest);
    const double span_s = clipped * kEveryS + since_s;
    if (span_s <= 0) return 0;
    const auto whole = static_cast<size_t>(clipped);
    const double part = clipped - static_cast<double>(whole);
    const double newer = entry(whole);
    const double older = part > 0 ? entry(whole + 1) : newer;
    return (energy_j - (newer + part * (older - newer))) / span_s;
  }
  static constexpr int kTicks = 5;  // between entries
  static constexpr double kEveryS = kTicks * kTickS;

 private:
  static constexpr size_t kEntries = 128;  // 1.28 s
  double entry(size_t back) const { return entries_[(head_ + kEntries - back) % kEntries]; }
  std::array<double, kEntries> entries_{};
  size_t head_ = 0, count_ = 1;
};

void require(bool holds, const char* what) {
  if (!holds) throw InvalidArgument(fmt::format("TwinParameters: {}", what));
}

void check(const TwinParameters& p) {
  require(p.clock_min_mhz > 0 && p.clock_min_mhz <= p.clock_knee_mhz &&
              p.clock_knee_mhz < p.clock_max_mhz && std::isfinite(p.clock_max_mhz),
          "clocks must be positive and rise: clock_min_mhz <= clock_knee_mhz < clock_max_mhz");
  require(p.voltage_floor_frac > 0 && p.voltage_floor_frac <= 1,
          "voltage_floor_frac is not in (0, 1]");
  require(p.idle_w > 0 && p.power_limit_w > p.idle_w,
          "power_limit_w must exceed idle_w, both positive");
  require(p.sm_active_w >= 0 && p.energy_per_byte_pj >= 0 && p.energy_per_flop_pj >= 0 &&
              p.leakage_w_per_c >= 0,
          "powers and energies must not be negative");
  require(p.fast_resistance_c_per_w > 0 && p.slow_resistance_c_per_w > 0 &&
              p.fast_time_constant_s > 0 && p.slow_time_constant_s > 0,
          "thermal resistances and time constants must be positive");
  const double loop = (p.fast_resistance_c_per_w + p.slow_resistance_c_per_w) * p.leakage_w_per_c;
  require(loop < 1, "leakage times thermal resistance reaches 1: no temperature balances the heat");
  require(
      std::isfinite(p.inlet_c) && p.slowdown_c > p.inlet_c && p.hardware_slowdown_c >= p.slowdown_c,
      "inlet_c < slowdown_c <= hardware_slowdown_c must hold");
}

}  // namespace

struct DigitalTwin::State {
  explicit State(const TwinParameters& parameters) : p(parameters) {
    check(p);
    inlet_c = sink_inlet_c = p.inlet_c;
    cap_w = p.power_limit_w;
    // Idle equilibrium: T = inlet + R (idle + leakage(T)), linear in T.
    const double r = p.fast_resistance_c_per_w + p.slow_resistance_c_per_w;
    const double at_reference = p.idle_w - p.leakage_w_per_c * p.leakage_reference_c;
    const double t = (inlet_c + r * at_reference) / (1 - r * p.leakage_w_per_c);
    const double watts = cost::power_w(p, p.clock_max_mhz, t, {});
    fast_c = p.fast_resistance_c_per_w * watts;
    slow_c = p.slow_resistance_c_per_w * watts;
    filtered_w = watts;
    fast_tick = std::exp(-kTickS / p.fast_time_constant_s);
    slow_tick = std::exp(-kTickS / p.slow_time_constant_s);
  }

  double temperature_c() const { return sink_inlet_c + fast_c + slow_c; }
  double clock_mhz() const { return p.clock_max_mhz * std::min(power_frac, heat_frac); }
  double tick_end_s() const { return static_cast<double>(ticks + 1) * kTickS; }
  void advance_constant(double watts, double dt_s);
  void control(double watts, double dt_s);
  template <typename PowerAt>
  double sub_step(double most_s, PowerAt&& power_at);
  void idle_until(double end_s, TwinStep& step);

  TwinParameters p;
  double cap_w = 0, inlet_c = 0;
  double sink_inlet_c = 0;  // the inlet as the die feels it, through the heat sink's slow pole
  double time_s = 0, energy_j = 0;
  int64_t ticks = 0;              // whole ticks behind time_s
  double fast_c = 0, slow_c = 0;  // rises of the two thermal poles over the inlet
  double filtered_w = 0;
  double power_frac = 1, heat_frac = 1;  // of the maximum clock, as the two controllers allow
  double fast_tick = 0, slow_tick = 0;   // decay over one whole tick
  EnergyHistory history;
};

// Power is constant over a sub-step, so this discretisation of the two poles is exact.
void DigitalTwin::State::advance_constant(double watts, double dt_s) {
  const bool whole = std::abs(dt_s - kTickS) < 1e-12;
  const double fast = whole ? fast_tick : std::exp(-dt_s / p.fast_time_constant_s);
  const double slow = whole ? slow_tick : std::exp(-dt_s / p.slow_time_constant_s);
  const double fast_end = p.fast_resistance_c_per_w * watts;
  const double slow_end = p.slow_resistance_c_per_w * watts;
  fast_c = fast_end + (fast_c - fast_end) * fast;
  slow_c = slow_end + (slow_c - slow_end) * slow;
  sink_inlet_c = inlet_c + (sink_inlet_c - inlet_c) * slow;
  energy_j += watts * dt_s;
}

void DigitalTwin::State::control(double watts, double dt_s) {
  const double least = p.clock_min_mhz / p.clock_max_mhz;
  filtered_w += (watts - filtered_w) * (1 - std::exp(-dt_s / kPowerFilterS));
  power_frac += kPowerGainPerS * (cap_w - filtered_w) / cap_w * dt_s;
  power_frac = std::clamp(power_frac, least, 1.0);
  const double over_c = temperature_c() - p.slowdown_c;
  double rate = -kHeatGainPerSC * over_c;
  if (over_c > p.hardware_slowdown_c - p.slowdown_c) rate = -kHardwareSlowdownPerS;
  heat_frac = std::clamp(heat_frac + std::min(rate, kHeatRecoveryPerS) * dt_s, least, 1.0);
}

// One step of at most `most_s` to the next tick at most; returns its length.
template <typename PowerAt>
double DigitalTwin::State::sub_step(double most_s, PowerAt&& power_at) {
  const double to_tick = tick_end_s() - time_s;
  const double dt = std::min(most_s, to_tick);
  const double watts = power_at();
  advance_constant(watts, dt);
  control(watts, dt);
  // Ticks are counted, so that time doesn't drift by rounding.
  if (dt < to_tick) {
    time_s += dt;
  } else {
    ++ticks;
    time_s = static_cast<double>(ticks) * kTickS;
    if (ticks % EnergyHistory::kTicks == 0) history.record(energy_j);
  }
  return dt;
}

void DigitalTwin::State::idle_until(double end_s, TwinStep& step) {
  while (end_s - time_s > 1e-12)
    step.idle_s += sub_step(end_s - time_s,
                            [&] { return cost::power_w(p, clock_mhz(), temperature_c(), {}); });
}

DigitalTwin::DigitalTwin(const TwinParameters& parameters)
    : state_(std::make_unique<State>(parameters)) {}
DigitalTwin::~DigitalTwin() = default;
DigitalTwin::DigitalTwin(DigitalTwin&&) noexcept = default;

void DigitalTwin::set_environment(const TwinEnvironment& environment) {
  State& s = *state_;
  const double inlet = environment.inlet_c.value_or(s.p.inlet_c);
  if (!std::isfinite(environment.power_cap_w) || environment.power_cap_w < 0 ||
      !std::isfinite(inlet))
    throw InvalidArgument(fmt::format("TwinEnvironment: a cap of {} W, an inlet of {} C",
                                      environment.power_cap_w, inlet));
  const double limit = s.p.power_limit_w;
  s.cap_w = environment.power_cap_w > 0 ? std::min(environment.power_cap_w, limit) : limit;
  s.inlet_c = inlet;
}

TwinStep DigitalTwin::advance(const CostEstimate& work, double period_s) {
  const double values[] = {work.latency_us,       work.bytes,          work.flops,
                           work.clock_bound_frac, work.sm_active_frac, period_s};
  for (double value : values)
    if (!std::isfinite(value) || value < 0)
      throw InvalidArgument(
          fmt::format("DigitalTwin::advance: {} is negative or not finite", value));
  State& s = *state_;
  TwinStep step;
  step.start_s = s.time_s;
  const double before_j = s.energy_j;
  double left = work.latency_us > 0 ? 1.0 : 0.0;  // of the work
  double clock_seconds = 0;
  while (left > 1e-12) {
    const double clock = s.clock_mhz();
    const double busy_us = work.latency_us * cost::stretch(s.p, work.clock_bound_frac, clock);
    const cost::Activity activity = cost::activity_of(work, busy_us);
    const double dt = s.sub_step(left * busy_us * 1e-6, [&] {
      return cost::power_w(s.p, clock, s.temperature_c(), activity);
    });
    left -= dt / (busy_us * 1e-6);
    step.busy_s += dt;
    clock_seconds += clock * dt;
    if (clock < kThrottledBelow * s.p.clock_max_mhz) step.throttled_s += dt;
  }
  s.idle_until(step.start_s + period_s, step);
  step.energy_j = s.energy_j - before_j;
  step.sm_clock_mhz = step.busy_s > 0 ? clock_seconds / step.busy_s : s.clock_mhz();
  return step;
}

TwinStep DigitalTwin::idle(double duration_s) { return advance({}, duration_s); }

HardwareState DigitalTwin::state() const {
  const State& s = *state_;
  const int64_t entries = s.ticks / EnergyHistory::kTicks;  // whole ones: the division rounds down
  const double since_s = s.time_s - static_cast<double>(entries) * EnergyHistory::kEveryS;
  HardwareState h;
  h.time_s = s.time_s;
  h.present = true;
  h.power_instant_w = s.history.mean_w(kInstantS, s.energy_j, since_s);
  h.power_average_w = s.history.mean_w(kAverageS, s.energy_j, since_s);
  if (s.time_s <= 0) h.power_instant_w = h.power_average_w = s.filtered_w;
  h.power_limit_w = s.cap_w;
  h.energy_mj = s.energy_j * 1e3;
  h.sm_clock_mhz = s.clock_mhz();
  h.sm_clock_max_mhz = s.p.clock_max_mhz;
  h.temperature_c = std::round(s.temperature_c());
  h.temperature_limit_c = s.p.slowdown_c;
  uint64_t reasons = 0;
  if (s.power_frac < kThrottledBelow) reasons |= kThrottleSoftwarePowerCap;
  if (s.heat_frac < kThrottledBelow) reasons |= kThrottleSoftwareThermal;
  if (s.temperature_c() > s.p.hardware_slowdown_c) reasons |= kThrottleHardwareThermal;
  h.throttle_reasons = reasons;
  return h;
}

double DigitalTwin::time_s() const { return state_->time_s; }
double DigitalTwin::temperature_c() const { return state_->temperature_c(); }
double DigitalTwin::energy_j() const { return state_->energy_j; }
const TwinParameters& DigitalTwin::parameters() const { return state_->p; }

std::unique_ptr<TelemetrySource> DigitalTwin::source() const {
  class TwinSource : public TelemetrySource {
   public:
    explicit TwinSource(const DigitalTwin& twin) : twin_(twin) {}
    std::string name() const override { return "twin"; }
    DeviceInfo device() const override { return {twin_.parameters().device, "", "", true}; }
    HardwareState sample() override { return twin_.state(); }

   private:
    const DigitalTwin& twin_;
  };
  return std::make_unique<TwinSource>(*this);
}

}  // namespace thermoe
