// The die's temperature as a function of the board's power: the model, and the observer that finds
// its hidden state from temperatures read so far. Parameters of an H100: docs/device-model.md.
#pragma once

#include <array>
#include <optional>
#include <vector>

namespace thermoe {

struct ThermalPole {
  double resistance_c_per_w = 0, time_constant_s = 0;
};

// T = inlet + sum_i theta_i,   d theta_i / dt = (R_i u_i - theta_i) / tau_i
// with u_1 = power - memory_bypass_frac * memory power, u_i = power for the others: heat made in
// the memory's own stacks reaches the heat sink without passing the die.
struct ThermalParameters {
  std::vector<ThermalPole> poles;  // from the die's own (fastest) to the heat sink's (slowest)
  double memory_bypass_frac = 0;   // in [0, 1]
  double inlet_c = 0;              // air or coolant, as the die feels it
  // What the die warms by per watt once all is settled, with no memory power.
  double resistance_c_per_w() const;
};

// The model's state in time. Exact for power constant over each call; no allocation after
// construction. Not thread-safe.
class ThermalModel {
 public:
  static constexpr int kMaxPoles = 4;

  // In equilibrium with no power. Throws InvalidArgument naming what is wrong: no poles or more
  // than kMaxPoles, one that isn't positive, time constants that don't rise, a fraction out of
  // range.
  explicit ThermalModel(const ThermalParameters& parameters);

  // Jumps to the equilibrium at constant power.
  void settle(double power_w, double memory_power_w);
  void advance(double power_w, double memory_power_w, double dt_s);
  double temperature_c() const;
  // The inlet's temperature from now on. The die feels it through the heat sink's pole.
  void set_inlet_c(double inlet_c) { inlet_c_ = inlet_c; }
  // The heat sink's resistance to the inlet as a multiple of the identified one (a failing fan):
  // its time constant is longer by the same factor. >= some positive value.
  void set_sink_resistance_factor(double factor) { sink_factor_ = factor; }
  const ThermalParameters& parameters() const { return parameters_; }

 private:
  friend class ThermalObserver;
  double steady_c(size_t pole, double power_w, double memory_power_w) const;
  double time_constant_s(size_t pole) const;

  ThermalParameters parameters_;
  std::array<double, kMaxPoles> rise_c_{};  // theta
  double inlet_c_ = 0, felt_inlet_c_ = 0;   // and as it has come through the heat sink
  double sink_factor_ = 1;
};

struct ThermalObserverSettings {
  // Of the sensor: whole degrees read as noise of the same variance.
  double quantum_c = 1.0;
  // Readings nearer than this to each other share their rounding error, and count as one.
  double rounding_memory_s = 1.0;
  // How far the inlet (and whatever the model lacks) wanders in a second, and each pole's rise.
  double inlet_walk_c = 0.1, rise_walk_c = 0.07;
  // What is known at the start: the poles about the equilibrium of the first power, the inlet about
  // the parameters'.
  double start_rise_c = 10.0, start_inlet_c = 5.0;
};

// A Kalman filter over the poles and the inlet. Feed it every sample in order; model() is then the
// best present state, from which copies predict. Not thread-safe.
class ThermalObserver {
 public:
  // Throws InvalidArgument as ThermalModel does.
  explicit ThermalObserver(const ThermalParameters& parameters,
                           const ThermalObserverSettings& settings = {});
  // The powers were constant over the `dt_s` before this sample; a missing temperature only moves
  // the state on. The first call starts from the equilibrium at its powers.
  void update(std::optional<double> temperature_c, double power_w, double memory_power_w,
              double dt_s);
  const ThermalModel& model() const { return model_; }

 private:
  static constexpr size_t kMax = ThermalModel::kMaxPoles + 1;
  void correct(double reading_c, double dt_s);

  ThermalModel model_;
  ThermalObserverSettings settings_;
  std::array<std::array<double, kMax>, kMax> covariance_{};
  bool started_ = false;
};

}  // namespace thermoe
