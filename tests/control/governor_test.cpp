#include "thermoe/governor.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "thermoe/error.h"

namespace thermoe {
namespace {

constexpr double kTick = 0.1;
const CostSurrogate kSurrogate{26, 3, 0.03, 8, 2.2, 0.01, 0};

HardwareState healthy(double power_w = 500, double temperature_c = 60) {
  HardwareState state;
  state.present = true;
  state.power_average_w = power_w;
  state.power_limit_w = 700;
  state.temperature_c = temperature_c;
  state.throttle_reasons = 0;
  return state;
}

GovernorLimits limits(std::optional<double> power, std::optional<double> temperature,
                      std::optional<double> latency) {
  return {power, temperature, latency, 0.25};
}

bool zero(const Governor& governor) {
  return governor.multipliers().per_us == 0.0 && governor.multipliers().per_mj == 0.0 &&
         governor.prices(kSurrogate, 128).zero();
}

TEST(Governor, NothingBindingMeansExactlyZero) {
  Governor governor(limits(600, 83, 350), kSurrogate);
  for (int i = 0; i < 500; ++i) {
    // Noise that stays below every limit.
    governor.update(healthy(560 + 30 * std::sin(i), 70 + 8 * std::sin(0.02 * i)),
                    320 + 25 * std::cos(1.7 * i), kTick);
    ASSERT_TRUE(zero(governor)) << i;
  }
}

TEST(Governor, NoLimitsMeansZeroWhateverHappens) {
  Governor governor(limits({}, {}, {}), kSurrogate);
  HardwareState state = healthy(900, 95);
  state.throttle_reasons = kThrottleSoftwarePowerCap | kThrottleHardwareThermal;
  for (int i = 0; i < 100; ++i) governor.update(state, 1e6, kTick);
  EXPECT_TRUE(zero(governor));
}

TEST(Governor, EachLimitRaisesItsOwnPriceAndReturnsToZeroInFiniteTime) {
  struct Case {
    HardwareState state;
    double latency_us;
    bool time, energy;
  };
  HardwareState throttled = healthy(450);
  throttled.power_limit_w = 450;
  throttled.throttle_reasons = kThrottleSoftwarePowerCap;
  const Case cases[] = {
      {healthy(), 400, true, false},         // slow at full clock: time
      {healthy(700), 300, false, true},      // over the power cap: energy
      {healthy(500, 88), 300, false, true},  // too hot: energy
      {throttled, 400, false, true},         // slow because of the cap: energy
  };
  for (const Case& c : cases) {
    Governor governor(limits(600, 83, 350), kSurrogate);
    for (int i = 0; i < 30; ++i) governor.update(c.state, c.latency_us, kTick);
    EXPECT_EQ(governor.multipliers().per_us > 0, c.time) << c.latency_us;
    EXPECT_EQ(governor.multipliers().per_mj > 0, c.energy) << c.latency_us;
    int ticks = 0;
    while (!zero(governor) && ticks < 1000) {
      governor.update(healthy(), 300, kTick);
      ++ticks;
    }
    EXPECT_LT(ticks * kTick, 12.0);
  }
}

TEST(Governor, PricesStayBelowTheCeilingAndDoNotWindUp) {
  Governor governor(limits(300, 40, 100), kSurrogate);
  for (int i = 0; i < 10000; ++i) governor.update(healthy(900, 95), 1e5, kTick);
  const ExpertPrices prices = governor.prices(kSurrogate, 128);
  ASSERT_EQ(prices.open.size(), 128u);
  for (float price : prices.open) EXPECT_EQ(price, 0.25f);
  for (float price : prices.slope) {
    EXPECT_GE(price, 0.0f);
    EXPECT_LE(price, 0.25f);
  }
  // An hour of violation is forgotten as fast as a minute of it.
  int ticks = 0;
  while (!zero(governor) && ++ticks < 1000) governor.update(healthy(200, 35), 50, kTick);
  EXPECT_LT(ticks * kTick, 12.0);
}

TEST(Governor, PricesAreTheMultipliersTimesTheCost) {
  Governor governor(limits({}, {}, 350), kSurrogate);
  governor.update(healthy(), 360, kTick);
  const Multipliers m = governor.multipliers();
  ASSERT_GT(m.per_us, 0);
  const CostSurrogate cheaper{10, 1.5, 0.02, 4, 1.1, 0.01, 0};
  const ExpertPrices prices = governor.prices(cheaper, 4);
  EXPECT_FLOAT_EQ(prices.open[3], static_cast<float>(m.per_us * 1.5));
  EXPECT_FLOAT_EQ(prices.slope[0], static_cast<float>(m.per_us * 0.02));
}

TEST(Governor, MissingReadingsHoldTheirPrice) {
  Governor governor(limits(600, 83, 350), kSurrogate);
  for (int i = 0; i < 20; ++i) governor.update(healthy(680, 60), 400, kTick);
  const Multipliers before = governor.multipliers();
  ASSERT_GT(before.per_us, 0);
  ASSERT_GT(before.per_mj, 0);
  HardwareState blind;
  blind.present = true;
  for (int i = 0; i < 1000; ++i) governor.update(blind, std::nullopt, kTick);
  EXPECT_EQ(governor.multipliers().per_us, before.per_us);
  EXPECT_EQ(governor.multipliers().per_mj, before.per_mj);
  HardwareState lost;  // present == false: its readings count for nothing
  lost.power_average_w = 100;
  for (int i = 0; i < 1000; ++i) governor.update(lost, std::nullopt, kTick);
  EXPECT_EQ(governor.multipliers().per_mj, before.per_mj);
  // The latency is the caller's own and keeps steering.
  for (int i = 0; i < 200; ++i) governor.update(blind, 200, kTick);
  EXPECT_EQ(governor.multipliers().per_us, 0.0);
}

TEST(Governor, AnyTickLengthGivesAboutTheSamePath) {
  Governor slow(limits({}, {}, 350), kSurrogate), fast(limits({}, {}, 350), kSurrogate);
  for (int i = 0; i < 20; ++i) {
    slow.update(healthy(), 370, 0.1);
    for (int j = 0; j < 10; ++j) fast.update(healthy(), 370, 0.01);
  }
  EXPECT_NEAR(slow.multipliers().per_us, fast.multipliers().per_us,
              1e-9 * slow.multipliers().per_us);
  slow.update(healthy(), 370, 0);
  EXPECT_NEAR(slow.multipliers().per_us, fast.multipliers().per_us,
              1e-9 * slow.multipliers().per_us);
}

TEST(Governor, DroppedLimitsReleaseTheirPrices) {
  Governor governor(limits(600, 83, 350), kSurrogate);
  for (int i = 0; i < 30; ++i) governor.update(healthy(690, 90), 400, kTick);
  ASSERT_FALSE(zero(governor));
  governor.set_limits(limits({}, {}, {}));
  EXPECT_TRUE(zero(governor));
}

TEST(Governor, RefusesNonsense) {
  EXPECT_THROW(Governor(limits(-1, {}, {}), kSurrogate), InvalidArgument);
  EXPECT_THROW(Governor(limits({}, {}, NAN), kSurrogate), InvalidArgument);
  EXPECT_THROW(Governor(limits({}, {}, {}), CostSurrogate{}), InvalidArgument);
  GovernorSettings settings;
  settings.temperature_scale_c = 0;
  EXPECT_THROW(Governor(limits({}, {}, {}), kSurrogate, settings), InvalidArgument);
  Governor governor(limits({}, {}, 350), kSurrogate);
  EXPECT_THROW(governor.update(healthy(), 300, -1), InvalidArgument);
  EXPECT_THROW(governor.update(healthy(), std::numeric_limits<double>::infinity(), kTick),
               InvalidArgument);
  EXPECT_THROW(governor.prices(kSurrogate, 0), InvalidArgument);
}

// Opening a variant costs its share of the expert's price, ceiling included: so the same price that
// closes experts makes the coarser variant of an open one worth its error.
TEST(Governor, PricesOfVariantsAreTheirShareOfTheExpertsBytes) {
  const ExpertLayout layout =
      ExpertLayout::with_variants(4, {{.name = "bf16"},
                                      {.name = "int8", .read_frac = 0.516f},
                                      {.name = "int4", .read_frac = 0.266f}});
  Governor governor(limits(400, {}, {}), kSurrogate);
  EXPECT_TRUE(governor.prices(kSurrogate, layout).zero());
  double last = 0;
  for (int i = 0; i < 400; ++i) {
    governor.update(healthy(600), 300, kTick);
    const ExpertPrices experts = governor.prices(kSurrogate, 4);
    const ExpertPrices prices = governor.prices(kSurrogate, layout);
    ASSERT_EQ(prices.open.size(), 12u);
    for (int e = 0; e < layout.count(); ++e) {
      EXPECT_FLOAT_EQ(prices.open[static_cast<size_t>(e)],
                      experts.open[0] * layout.variant_of(e).read_frac);
      EXPECT_EQ(prices.slope[static_cast<size_t>(e)], experts.slope[0]);
    }
    const double step = prices.open[1] - prices.open[2];
    EXPECT_GE(step, last);
    last = step;
  }
  EXPECT_NEAR(last, 0.25 * (0.516 - 0.266), 1e-6);
}

}  // namespace
}  // namespace thermoe
