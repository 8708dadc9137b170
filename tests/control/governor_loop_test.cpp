// The loop closed: twin, cost model and a synthetic router whose distinct experts fall with the
// price. Judged by settling, ripple, overshoot and release.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <vector>

#include "thermoe/digital_twin.h"
#include "thermoe/governor.h"

namespace thermoe {
namespace {

std::filesystem::path profile(const char* name) {
  return std::filesystem::path(THERMOE_SOURCE_DIR) / "data/profiles" / name;
}

// One tick of the slow loop.
struct Tick {
  double time_s, layer_us, power_w, temperature_c, distinct, price_frac;
  bool throttled;
};

// A decoding server of 16 sequences in virtual time.
class Server {
 public:
  Server(const GovernorLimits& limits, double period_s)
      : model_(profile("h100-sxm.json"), cost_shape("qwen3-30b-a3b")),
        surrogate_(model_.surrogate(16)),
        dense_(model_.dense_step(16)),
        twin_(read_twin_parameters(profile("h100-sxm-power.json"))),
        governor_(limits, surrogate_),
        limits_(limits),
        period_s_(period_s) {}

  // Runs until `until_s`; `steep`: how fast experts close as the price rises.
  std::vector<Tick> run(double until_s, double steep = 3) {
    std::vector<Tick> ticks;
    double last_s = twin_.time_s(), busy_s = 0;
    int steps = 0;
    while (twin_.time_s() < until_s) {
      // At the highest price 60 % of the experts that top-k reads are closed.
      const double closed = 0.6 * (1 - std::exp(-steep * price_frac_)) / (1 - std::exp(-steep));
      const double distinct = 96 * (1 - closed);
      busy_s += twin_.advance(step(distinct), period_s_).busy_s;
      ++steps;
      if (twin_.time_s() - last_s < 0.1) continue;
      const double layer_us = (busy_s / steps * 1e6 - dense_.latency_us) / model_.shape().layers;
      const HardwareState state = twin_.state();
      governor_.update(state, layer_us, twin_.time_s() - last_s);
      price_frac_ = governor_.prices(surrogate_, 128).open[0] / limits_.max_open_price;
      ticks.push_back({twin_.time_s(), layer_us, *state.power_average_w, twin_.temperature_c(),
                       distinct, price_frac_, state.throttled()});
      last_s = twin_.time_s();
      busy_s = 0;
      steps = 0;
    }
    return ticks;
  }
  void environment(const TwinEnvironment& environment) { twin_.set_environment(environment); }
  double dense_us() const { return dense_.latency_us; }

 private:
  CostEstimate step(double distinct) const {
    const CostEstimate layer = model_.moe_layer({16, distinct, 128});
    const int layers = model_.shape().layers;
    CostEstimate all = dense_;
    all.latency_us += layers * layer.latency_us;
    all.clock_bound_frac = (dense_.latency_us * dense_.clock_bound_frac +
                            layers * layer.latency_us * layer.clock_bound_frac) /
                           all.latency_us;
    all.bytes += layers * layer.bytes;
    all.flops += layers * layer.flops;
    return all;
  }

  KernelCostModel model_;
  CostSurrogate surrogate_;
  CostEstimate dense_;
  DigitalTwin twin_;
  Governor governor_;
  GovernorLimits limits_;
  double period_s_;
  double price_frac_ = 0;
};

struct Spread {
  double mean = 0, ripple = 0;  // half of the range, relative to the mean
};
template <typename Field>
Spread spread(const std::vector<Tick>& ticks, double from_s, double to_s, Field field) {
  double least = 1e300, most = -1e300, sum = 0, count = 0;
  for (const Tick& tick : ticks) {
    if (tick.time_s < from_s || tick.time_s >= to_s) continue;
    least = std::min(least, tick.*field);
    most = std::max(most, tick.*field);
    sum += tick.*field;
    ++count;
  }
  return {sum / count, (most - least) / 2 / (sum / count)};
}

constexpr double kTarget = 350;  // us a layer; top-k takes 325 at full clock

TEST(GovernorLoop, FirmwareCapIsAnsweredWithinSecondsWithoutHunting) {
  for (double steep : {1.0, 3.0, 8.0, 16.0}) {
    for (bool users_cap : {false, true}) {
      GovernorLimits limits{{}, 83, kTarget, 0.25};
      if (users_cap) limits.power_cap_w = 450;
      Server server(limits, 0.0185);
      if (!users_cap) {
        for (const Tick& t : server.run(10, steep)) ASSERT_EQ(t.price_frac, 0) << t.time_s;
      }
      TwinEnvironment capped;
      capped.power_cap_w = 450;
      server.environment(capped);
      const std::vector<Tick> ticks = server.run(40, steep);
      const double settled = (users_cap ? 0 : 10) + 12;
      const Spread latency = spread(ticks, settled, 40, &Tick::layer_us);
      EXPECT_NEAR(latency.mean / kTarget, 1, 0.02) << steep;
      EXPECT_LT(latency.ripple, 0.03) << steep;
      EXPECT_LT(spread(ticks, settled, 40, &Tick::distinct).ripple, 0.05) << steep;
      EXPECT_LE(spread(ticks, settled, 40, &Tick::power_w).mean, 450 * 1.01);
      server.environment({});
      const std::vector<Tick> after = server.run(60, steep);
      if (!users_cap) {
        for (const Tick& t : after)
          if (t.time_s > 48) {
            ASSERT_EQ(t.price_frac, 0) << t.time_s;
          }
      }
    }
  }
}

TEST(GovernorLoop, UsersOwnPowerCapIsHeldAtFullClock) {
  for (double steep : {1.0, 3.0}) {
    Server server({500, {}, {}, 0.25}, 0.02);
    const std::vector<Tick> ticks = server.run(30, steep);
    const Spread power = spread(ticks, 6, 30, &Tick::power_w);
    EXPECT_NEAR(power.mean / 500, 1, 0.01);
    EXPECT_LT(power.ripple, 0.03);
    EXPECT_FALSE(ticks.back().throttled);
  }
}

TEST(GovernorLoop, LatencyTargetBelowTopKsIsReached) {
  for (double steep : {1.0, 3.0, 8.0, 16.0}) {
    Server server({{}, {}, 280, 0.25}, 0.02);
    const std::vector<Tick> ticks = server.run(20, steep);
    const Spread latency = spread(ticks, 5, 20, &Tick::layer_us);
    EXPECT_NEAR(latency.mean / 280, 1, 0.01) << steep;
    EXPECT_LT(latency.ripple, 0.02) << steep;
  }
}

TEST(GovernorLoop, HeatIsAnsweredBeforeTheCapAndReleased) {
  for (double steep : {1.0, 3.0, 8.0, 16.0}) {
    Server server({{}, 83, kTarget, 0.25}, 0.02);
    for (const Tick& t : server.run(30, steep)) ASSERT_EQ(t.price_frac, 0) << t.time_s;
    TwinEnvironment hot;
    hot.inlet_c = 58;
    server.environment(hot);
    const std::vector<Tick> ticks = server.run(230, steep);
    double most_c = 0;
    for (const Tick& t : ticks) {
      most_c = std::max(most_c, t.temperature_c);
      EXPECT_FALSE(t.throttled) << t.time_s;
    }
    EXPECT_LT(most_c, 83.5) << steep;
    // The heat sink settles in half a minute, and the price after it.
    EXPECT_GT(spread(ticks, 190, 230, &Tick::temperature_c).mean, 81) << steep;
    EXPECT_LT(spread(ticks, 190, 230, &Tick::distinct).ripple, 0.06) << steep;
    server.environment({});
    for (const Tick& t : server.run(300, steep))
      if (t.time_s > 260) {
        ASSERT_EQ(t.price_frac, 0) << t.time_s;
      }
  }
}

}  // namespace
}  // namespace thermoe
