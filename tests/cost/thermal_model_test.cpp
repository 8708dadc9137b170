#include "thermoe/thermal_model.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "cost/shipped_twin.h"
#include "thermoe/digital_twin.h"
#include "thermoe/error.h"

namespace thermoe {
namespace {

ThermalParameters two_poles() { return {{{0.02, 0.5}, {0.03, 20}}, 0.6, 30}; }
ThermalParameters h100_thermal() { return test::h100_twin().thermal; }

TEST(ThermalModel, IsTheSolutionOfTheEquations) {
  ThermalModel model(two_poles());
  model.settle(100, 0);
  EXPECT_DOUBLE_EQ(model.temperature_c(), 30 + 0.05 * 100);
  model.advance(500, 200, 3.0);
  const double die = 0.02 * (500 - 0.6 * 200) + (0.02 * 100 - 0.02 * 380) * std::exp(-3 / 0.5);
  const double sink = 0.03 * 500 + (0.03 * 100 - 0.03 * 500) * std::exp(-3 / 20.0);
  EXPECT_NEAR(model.temperature_c(), 30 + die + sink, 1e-12);
}

TEST(ThermalModel, DoesNotDependOnHowTimeIsCut) {
  ThermalModel whole(h100_thermal()), cut(h100_thermal());
  for (ThermalModel* model : {&whole, &cut}) {
    model->settle(120, 0);
    model->set_inlet_c(45);
    model->set_sink_resistance_factor(1.7);
  }
  whole.advance(640, 310, 17.3);
  for (int i = 0; i < 1000; ++i) cut.advance(640, 310, 0.0173);
  EXPECT_NEAR(whole.temperature_c(), cut.temperature_c(), 1e-9);
}

TEST(ThermalModel, TheMemorysHeatPassesTheDieByItsFraction) {
  ThermalModel compute(two_poles()), memory(two_poles());
  compute.settle(400, 0);
  memory.settle(400, 250);
  EXPECT_NEAR(compute.temperature_c() - memory.temperature_c(), 0.02 * 0.6 * 250, 1e-12);
}

TEST(ThermalModel, AFailingFanAndAHotInletActThroughTheSink) {
  ThermalModel model(two_poles());
  model.settle(300, 0);
  model.set_sink_resistance_factor(2);
  const double before_c = model.temperature_c();
  model.advance(300, 0, 0.01);
  EXPECT_LT(model.temperature_c() - before_c, 0.01);  // nothing jumps
  model.advance(300, 0, 1000);
  EXPECT_NEAR(model.temperature_c() - before_c, 0.03 * 300, 1e-9);
  model.set_inlet_c(50);
  model.advance(300, 0, 2 * 20 * std::log(2));  // half-life of the doubled time constant
  EXPECT_NEAR(model.temperature_c() - before_c, 0.03 * 300 + 10, 1e-6);
}

TEST(ThermalModel, RefusesNonsense) {
  const auto refused = [](ThermalParameters p) { EXPECT_THROW(ThermalModel{p}, InvalidArgument); };
  refused({});
  refused({{{0.1, 1}, {0.1, 1}}, 0, 30});                      // don't rise
  refused({{{0.1, 0}}, 0, 30});                                // no time
  refused({{{-0.1, 1}}, 0, 30});                               // cools
  refused({{{0.1, 1}}, 1.5, 30});                              // fraction
  refused({{{0.1, 1}}, 0, NAN});                               // inlet
  refused({{{1, 1}, {1, 2}, {1, 3}, {1, 4}, {1, 5}}, 0, 30});  // too many
}

// A die of the same parameters but another inlet and history, read in whole degrees at irregular
// times: after a minute of changing load the observer predicts half a minute on.
class ObserverTest : public ::testing::Test {
 protected:
  ObserverTest() : truth_(h100_thermal()) {
    truth_.set_inlet_c(h100_thermal().inlet_c + 9);
    truth_.settle(600, 50);
  }
  double power_w() const { return std::fmod(time_s_, 20) < 10 ? 650 : 140; }
  double memory_w() const { return power_w() > 300 ? 250 : 0; }
  void step(ThermalObserver* observer, bool sensor = true) {
    const double dt_s = std::uniform_real_distribution<double>(0.01, 0.3)(random_);
    time_s_ += dt_s;
    truth_.advance(power_w(), memory_w(), dt_s);
    if (observer == nullptr) return;
    std::optional<double> reading;
    if (sensor) reading = std::round(truth_.temperature_c());
    observer->update(reading, power_w(), memory_w(), dt_s);
  }

  ThermalModel truth_;
  std::mt19937_64 random_{5};
  double time_s_ = 0;
};

TEST_F(ObserverTest, FindsTheStateFromRoundedReadings) {
  ThermalObserver observer(h100_thermal());
  while (time_s_ < 60) step(&observer);
  EXPECT_NEAR(observer.model().temperature_c(), truth_.temperature_c(), 0.5);
  ThermalModel predicted = observer.model();
  const double until_s = time_s_ + 30;
  while (time_s_ < until_s) {
    const double before_s = time_s_;
    step(nullptr);
    predicted.advance(power_w(), memory_w(), time_s_ - before_s);
  }
  EXPECT_NEAR(predicted.temperature_c(), truth_.temperature_c(), 0.7);
  // The model alone, without readings, is off by what the inlet is.
  ThermalModel blind(h100_thermal());
  blind.settle(power_w(), memory_w());
  EXPECT_GT(truth_.temperature_c() - blind.temperature_c(), 3);
}

TEST_F(ObserverTest, GoesOnWithoutReadings) {
  ThermalObserver observer(h100_thermal());
  while (time_s_ < 60) step(&observer);
  while (time_s_ < 90) step(&observer, /*sensor=*/false);
  EXPECT_NEAR(observer.model().temperature_c(), truth_.temperature_c(), 1.0);
}

TEST_F(ObserverTest, FollowsAnInletThatWanders) {
  ThermalObserver observer(h100_thermal());
  while (time_s_ < 60) step(&observer);
  truth_.set_inlet_c(h100_thermal().inlet_c + 14);
  while (time_s_ < 300) step(&observer);
  EXPECT_NEAR(observer.model().temperature_c(), truth_.temperature_c(), 0.6);
}

}  // namespace
}  // namespace thermoe
