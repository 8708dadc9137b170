#include "thermoe/digital_twin.h"

#include <fmt/format.h>

#include <array>
#include <cmath>
#include <numbers>

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
constexpr double kAverageRefreshS = 0.05;  // and the averaged one twenty times
constexpr uint64_t kTemperatureSensor = 0, kInstantPowerSensor = 1, kAveragePowerSensor = 2;
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

void require_twin(bool holds, const char* what) {
  if (!holds) throw InvalidArgument(fmt::format("TwinParameters: {}", what));
}

void check(const TwinParameters& p) {
  require_twin(p.clock_min_mhz > 0 && p.clock_min_mhz <= p.clock_knee_mhz &&
                   p.clock_knee_mhz < p.clock_max_mhz && std::isfinite(p.clock_max_mhz),
               "clocks must be positive and rise: clock_min_mhz <= clock_knee_mhz < clock_max_mhz");
  require_twin(p.voltage_floor_frac > 0 && p.voltage_floor_frac <= 1,
               "voltage_floor_frac is not in (0, 1]");
  require_twin(p.idle_w > 0 && p.power_limit_w > p.idle_w,
               "power_limit_w must exceed idle_w, both positive");
  require_twin(p.sm_active_w >= 0 && p.energy_per_byte_pj >= 0 && p.energy_per_flop_pj >= 0 &&
                   p.leakage_w_per_c >= 0,
               "powers and energies must not be negative");
  const double loop = p.thermal.resistance_c_per_w() * p.leakage_w_per_c;
  require_twin(loop < 1,
               "leakage times thermal resistance reaches 1: no temperature balances the heat");
  require_twin(p.slowdown_c > p.thermal.inlet_c && p.hardware_slowdown_c >= p.slowdown_c,
               "inlet_c < slowdown_c <= hardware_slowdown_c must hold");
}

}  // namespace

struct DigitalTwin::State {
  explicit State(const TwinParameters& parameters) : p(parameters), thermal(parameters.thermal) {
    check(p);
    cap_w = p.power_limit_w;
    CostEstimate nothing;
    nothing.latency_us = 1;
    nothing.sm_active_frac = 0;
    const OperatingPoint idle = steady_state(p, nothing);
    thermal.settle(idle.power_w, idle.memory_power_w);
    filtered_w = idle.power_w;
  }

  double temperature_c() const { return thermal.temperature_c(); }
  double clock_mhz() const { return p.clock_max_mhz * std::min(power_frac, heat_frac); }
  double tick_end_s() const { return static_cast<double>(ticks + 1) * kTickS; }
  void control(double watts, double dt_s);
  double sub_step(double most_s, const cost::Activity& own);
  double noise(double every_s, uint64_t sensor) const;
  void idle_until(double end_s, TwinStep& step);
  void read_sensors(HardwareState& state) const;

  TwinParameters p;
  TwinEnvironment environment;
  ThermalModel thermal;
  double cap_w = 0;
  double time_s = 0, energy_j = 0;
  int64_t ticks = 0;  // whole ticks behind time_s
  double filtered_w = 0;
  double power_frac = 1, heat_frac = 1;  // of the maximum clock, as the two controllers allow
  EnergyHistory history;
};

// Standard normal, a function of the seed, the sensor and how often it has refreshed (Box-Muller on
// two hashes by splitmix64), so that reading changes nothing.
double DigitalTwin::State::noise(double every_s, uint64_t sensor) const {
  const auto refreshes = static_cast<uint64_t>(time_s / every_s + 1e-9);
  uint64_t state = environment.noise_seed * 0x9e3779b97f4a7c15U + refreshes * 8 + sensor;
  const auto uniform = [&state] {
    state += 0x9e3779b97f4a7c15U;
    uint64_t z = state;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9U;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebU;
    return (static_cast<double>((z ^ (z >> 31)) >> 11) + 0.5) * 0x1p-53;
  };
  const double radius = std::sqrt(-2 * std::log(uniform()));
  return radius * std::cos(2 * std::numbers::pi * uniform());
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

// One step of at most `most_s` to the next tick at most; returns its length. Power is constant over
// it, so the thermal model's discretisation is exact and the energy is the integral.
double DigitalTwin::State::sub_step(double most_s, const cost::Activity& own) {
  const double to_tick = tick_end_s() - time_s;
  const double dt = std::min(most_s, to_tick);
  const double clock = clock_mhz();
  const cost::Activity all = cost::activity_beside(p, environment, clock, own);
  const double watts = cost::power_w(p, clock, temperature_c(), all);
  thermal.advance(watts, cost::memory_power_w(p, all), dt);
  energy_j += watts * dt;
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
  while (end_s - time_s > 1e-12) step.idle_s += sub_step(end_s - time_s, {});
}

DigitalTwin::DigitalTwin(const TwinParameters& parameters)
    : state_(std::make_unique<State>(parameters)) {}
DigitalTwin::~DigitalTwin() = default;
DigitalTwin::DigitalTwin(DigitalTwin&&) noexcept = default;

void DigitalTwin::set_environment(const TwinEnvironment& environment) {
  cost::check_environment(environment);
  State& s = *state_;
  if (environment.neighbour_power_w > 0 && s.p.sm_active_w <= 0)
    throw InvalidArgument("TwinEnvironment: neighbour_power_w needs a device with sm_active_w > 0");
  if (environment.sink_resistance_factor * s.p.thermal.resistance_c_per_w() * s.p.leakage_w_per_c >=
      1)
    throw InvalidArgument("TwinEnvironment: no temperature balances the heat at that resistance");
  s.environment = environment;
  s.cap_w = cost::enforced_cap_w(s.p, environment.power_cap_w);
  s.thermal.set_inlet_c(environment.inlet_c.value_or(s.p.thermal.inlet_c));
  s.thermal.set_sink_resistance_factor(environment.sink_resistance_factor);
}

TwinStep DigitalTwin::advance(const CostEstimate& work, double period_s) {
  cost::check_work(work);
  if (!std::isfinite(period_s) || period_s < 0)
    throw InvalidArgument(
        fmt::format("DigitalTwin::advance: {} is negative or not finite", period_s));
  State& s = *state_;
  TwinStep step;
  step.start_s = s.time_s;
  const double before_j = s.energy_j;
  double left = work.latency_us > 0 ? 1.0 : 0.0;  // of the work
  double clock_seconds = 0;
  while (left > 1e-12) {
    const double clock = s.clock_mhz();
    const double busy_us =
        work.latency_us * cost::stretch_beside(s.p, s.environment, work.clock_bound_frac, clock);
    const double dt = s.sub_step(left * busy_us * 1e-6, cost::activity_of(work, busy_us));
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
  HardwareState h;
  h.time_s = state_->time_s;
  h.present = true;
  if (!state_->environment.sensors_lost) state_->read_sensors(h);
  return h;
}

void DigitalTwin::State::read_sensors(HardwareState& h) const {
  const int64_t entries = ticks / EnergyHistory::kTicks;  // whole ones: the division rounds down
  const double since_s = time_s - static_cast<double>(entries) * EnergyHistory::kEveryS;
  const bool begun = time_s > 0;
  const auto noisy = [&](double watts, double every_s, uint64_t sensor) {
    return watts * (1 + environment.power_noise_frac * noise(every_s, sensor));
  };
  h.power_instant_w = noisy(begun ? history.mean_w(kInstantS, energy_j, since_s) : filtered_w,
                            kInstantS, kInstantPowerSensor);
  h.power_average_w = noisy(begun ? history.mean_w(kAverageS, energy_j, since_s) : filtered_w,
                            kAverageRefreshS, kAveragePowerSensor);
  h.power_limit_w = cap_w;
  h.energy_mj = energy_j * 1e3;
  h.sm_clock_mhz = clock_mhz();
  h.sm_clock_max_mhz = p.clock_max_mhz;
  h.temperature_c = std::round(temperature_c() + environment.temperature_noise_c *
                                                     noise(kInstantS, kTemperatureSensor));
  // A margin is read in whole degrees too, and the limit is what both say together.
  h.temperature_limit_c = p.margin_zero_c
                              ? *h.temperature_c + std::round(p.slowdown_c - *h.temperature_c)
                              : p.slowdown_c;
  uint64_t reasons = 0;
  if (power_frac < kThrottledBelow) reasons |= kThrottleSoftwarePowerCap;
  if (heat_frac < kThrottledBelow) reasons |= kThrottleSoftwareThermal;
  if (temperature_c() > p.hardware_slowdown_c) reasons |= kThrottleHardwareThermal;
  h.throttle_reasons = reasons;
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
