// Sweeps of a device made up: what is measured, kept, taken up and refused.
#include "sweep.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <set>
#include <string>
#include <vector>

#include "calibration.h"
#include "cost/moe_load.h"
#include "cpu_work.h"
#include "nano.h"
#include "sweep_log.h"
#include "sweep_points.h"
#include "table_errors.h"
#include "thermoe/error.h"

namespace thermoe::app {
namespace {

// Latency follows from shape and tokens alone.
class FakeDevice : public SweepBackend {
 public:
  std::string name() const override { return "fake"; }
  std::string device() const override { return device_; }
  std::string driver() const override { return driver_; }
  int threads() const override { return threads_; }
  SweepSample run(const SweepPoint& point, double) override {
    ++runs_;
    const double bytes = static_cast<double>(point.shape.hidden_size * point.shape.inter_size);
    SweepSample sample;
    sample.latency_us = 10 + bytes * 1e-3 * (point.cold ? 2 : 1) +
                        0.37 * static_cast<double>(point.tokens) + point.shape.load_exponent;
    sample.spread_frac = 0.01;
    sample.wall_s = 0.25;
    sample.clock_mhz = clock_mhz_;
    if (power_) sample.power_w = 50;
    sample.throttled = runs_ == throttled_run_;
    if (sample.throttled) sample.latency_us *= 3;
    return sample;
  }

  std::string device_ = "Fake 1", driver_ = "Linux 6.1";
  int threads_ = 2, runs_ = 0, throttled_run_ = 0;
  double clock_mhz_ = 2000;
  bool power_ = true;
};

std::vector<SweepPoint> some_points() {
  return points_of({{parse_shape("64x32e8k2"), parse_shape("64x64")}, {1, 4, 16}});
}

class SweepTest : public ::testing::Test {
 protected:
  SweepOutcome sweep() {
    SweepLog log(log_.path(), device_);
    return run_sweep(device_, some_points(), log, {});
  }
  std::string refusal() {
    try {
      SweepLog log(log_.path(), device_);
    } catch (const IoError& error) {
      return error.what();
    }
    return "";
  }
  Calibration calibrated() {
    const SweepLog log(log_.path(), device_);
    return calibrate(log.rows(), {1e10, 1e11}, {});
  }
  std::string text() {
    std::ifstream file(log_.path());
    return {std::istreambuf_iterator<char>(file), {}};
  }

  ScratchFile log_{"sweep.csv"};
  FakeDevice device_;
};

TEST_F(SweepTest, TheLogIsATableThatTheProfilePredictsExactly) {
  const SweepOutcome outcome = sweep();
  EXPECT_EQ(outcome.measured, 18);  // (2 loads + a product) x 3 token counts x warm and cold
  EXPECT_EQ(outcome.left, 0);
  const auto rows = cost::read_measured_table(log_.path());
  ASSERT_EQ(rows.size(), 18u);
  EXPECT_EQ(rows[0].kernel, "thermoe_fake_experts");
  EXPECT_EQ(rows[1].kernel, "thermoe_fake_experts_cold");
  EXPECT_EQ(rows[0].device, "Fake 1");
  EXPECT_EQ(rows[0].power_w, 50);
  EXPECT_EQ(rows[0].power_limit_w, 0);
  const Calibration calibration = calibrated();
  ASSERT_EQ(calibration.profile.kernels.size(), 4u);
  const TableErrors errors = table_errors(calibration.profile, rows);
  EXPECT_EQ(errors.missed_rows, 0u);
  for (const RowError& row : errors.rows) {
    EXPECT_EQ(row.where, "measured");
    EXPECT_NEAR(row.latency_frac, 0, 1e-12);
  }
}

TEST_F(SweepTest, MissingPowerStaysMissing) {
  device_.power_ = false;
  sweep();
  const auto rows = cost::read_measured_table(log_.path());
  EXPECT_EQ(rows.front().power_w, 0);
  EXPECT_TRUE(calibrated().profile.kernels.front().curves.front().power_w.empty());
}

TEST_F(SweepTest, AStoppedSweepIsTakenUp) {
  {
    SweepLog log(log_.path(), device_);
    SweepSettings settings;
    settings.stop = [&] { return device_.runs_ == 5; };
    const SweepOutcome outcome = run_sweep(device_, some_points(), log, settings);
    EXPECT_EQ(outcome.measured, 5);
    EXPECT_EQ(outcome.left, 13);
  }
  const SweepOutcome outcome = sweep();
  EXPECT_EQ(outcome.resumed, 5);
  EXPECT_EQ(outcome.measured, 13);
  EXPECT_EQ(device_.runs_, 18);
  EXPECT_EQ(sweep().resumed, 18);
  EXPECT_EQ(device_.runs_, 18);
}

TEST_F(SweepTest, ALineThatWasCutOffIsMeasuredAgain) {
  sweep();
  const std::string whole = text();
  for (const size_t cut : {whole.size() - 1, whole.size() - 40, whole.find('\n') - 5}) {
    std::ofstream(log_.path()) << whole.substr(0, cut);
    sweep();
    EXPECT_EQ(text(), whole) << cut;
  }
}

TEST_F(SweepTest, LogsOfOtherOriginsAreRefusedByName) {
  sweep();
  EXPECT_EQ(refusal(), "");
  device_.device_ = "Fake 2";
  EXPECT_NE(refusal().find("measured with device Fake 1, and this is device Fake 2: give another"),
            std::string::npos)
      << refusal();
  device_.device_ = "Fake 1";
  device_.driver_ = "Linux 6.2";
  EXPECT_NE(refusal().find("driver Linux 6.1"), std::string::npos) << refusal();
  device_.driver_ = "Linux 6.1";
  device_.threads_ = 3;
  EXPECT_NE(refusal().find("2 threads"), std::string::npos) << refusal();
  device_.threads_ = 2;
  std::string other = text();
  for (size_t at; (at = other.find("thermoe,0.")) != std::string::npos;)
    other.replace(at, 10, "thermoe,9.");
  std::ofstream(log_.path()) << other;
  EXPECT_NE(refusal().find("thermoe 9."), std::string::npos) << refusal();
  std::ofstream(log_.path()) << "a,b\n1,2\n";
  EXPECT_NE(refusal().find("no log of a calibration"), std::string::npos) << refusal();
}

TEST_F(SweepTest, DamagedLinesAreNamed) {
  sweep();
  const std::string whole = text();
  std::ofstream(log_.path()) << whole << "\n" << whole.substr(whole.find('\n') + 1);
  EXPECT_NE(refusal().find("line 20 is empty"), std::string::npos) << refusal();
  std::string bad = whole;
  bad.replace(bad.rfind(",0,"), 3, ",x,");  // throttled, of the last line
  std::ofstream(log_.path()) << bad;
  EXPECT_NE(refusal().find("line 19 is damaged"), std::string::npos) << refusal();
}

TEST_F(SweepTest, ThrottledSamplesAreKeptMeasuredAgainAndLeftOutOfTheFit) {
  device_.throttled_run_ = 3;
  const SweepOutcome outcome = sweep();
  EXPECT_EQ(outcome.measured, 18);
  EXPECT_EQ(device_.runs_, 19);
  const auto rows = cost::read_measured_table(log_.path());
  ASSERT_EQ(rows.size(), 19u);
  const Calibration calibration = calibrated();
  const KernelSamples& samples = calibration.samples.at(rows[2].kernel + " bf16");
  EXPECT_EQ(samples.throttled_rows, 1u);
  EXPECT_EQ(samples.throttled_points, 0u);
  EXPECT_EQ(samples.points, 6u);
  EXPECT_DOUBLE_EQ(samples.measured_s, 7 * 0.25);
  const TableErrors errors = table_errors(calibration.profile, rows);
  EXPECT_NEAR(errors.rows[2].latency_frac, -2.0 / 3, 1e-4);
  EXPECT_NEAR(errors.rows[18].latency_frac, 0, 1e-12);
}

TEST_F(SweepTest, WhatWasOnlyMeasuredThrottledCounts) {
  {
    SweepLog log(log_.path(), device_);
    SweepSettings settings;
    device_.throttled_run_ = 18;
    settings.stop = [&] { return device_.runs_ == 18; };  // before it is measured again
    run_sweep(device_, some_points(), log, settings);
  }
  const Calibration calibration = calibrated();
  const std::string kernel = "thermoe_fake_gemm_cold bf16";
  EXPECT_EQ(calibration.samples.at(kernel).throttled_rows, 1u);
  EXPECT_EQ(calibration.samples.at(kernel).throttled_points, 1u);
  EXPECT_NE(to_table(calibration).find(kernel + ": 1 points were throttled"), std::string::npos);
  EXPECT_EQ(to_json(calibration)["kernels"].back()["throttled_points"], 1);
  const auto rows = cost::read_measured_table(log_.path());
  const TableErrors errors = table_errors(calibration.profile, rows);
  EXPECT_NEAR(errors.rows.back().latency_frac, 0, 1e-12);
}

TEST_F(SweepTest, AClockFarBelowTheMedianIsThrottling) {
  SweepLog log(log_.path(), device_);
  SweepSettings settings;
  settings.step = [&](double) { device_.clock_mhz_ = device_.runs_ == 11 ? 1500 : 1950; };
  run_sweep(device_, some_points(), log, settings);
  EXPECT_EQ(device_.runs_, 19);
  const auto throttled = [](const SweepRow& row) { return row.throttled; };
  EXPECT_EQ(std::count_if(log.rows().begin(), log.rows().end(), throttled), 1);
  EXPECT_TRUE(log.rows()[11].throttled);
}

TEST(SweepPoints, ShapesAreReadOrRefused) {
  const cost::KernelShape experts = parse_shape("256x64e32k4");
  EXPECT_EQ(experts.op, cost::Operation::kExperts);
  EXPECT_EQ(cost::text_of(experts), "256x64 E=32 k=4 tp=1 ep=1 balanced");
  EXPECT_EQ(cost::text_of(parse_shape("256x4096")), "n=4096 k=256");
  for (const char* bad : {"", "256", "256x", "256x64e32", "0x64", "256x64e4k5", "256x64e0k0",
                          "256x64e32k4 ", "1000000x64", "99999x99999", "99999x9999e99999k1"})
    EXPECT_THROW(parse_shape(bad), InvalidArgument) << bad;
}

TEST(SweepPoints, EnoughShapesForHeldOutErrors) {
  const SweepPlan plan = default_sweep(false);
  const auto experts = std::count_if(plan.shapes.begin(), plan.shapes.end(), [](const auto& s) {
    return s.op == cost::Operation::kExperts;
  });
  EXPECT_GE(experts, 8);
  EXPECT_GE(static_cast<std::ptrdiff_t>(plan.shapes.size()) - experts, 8);
  std::set<std::string> distinct;
  for (const cost::KernelShape& shape : plan.shapes) distinct.insert(cost::text_of(shape));
  EXPECT_EQ(distinct.size(), plan.shapes.size());
}

TEST(PlanWithCounts, HasEachExpertsTokensAndNoneTwice) {
  for (const auto& [experts, top_k] : {std::pair{32, 4}, {9, 4}, {8, 8}, {64, 1}, {5, 3}})
    for (const int64_t tokens : {1, 2, 7, 64, 300})
      for (const double exponent : {0.0, 1.01, 1.2}) {
        const auto counts = cost::representative_counts(tokens, experts, top_k, exponent);
        const RoutingPlan plan = plan_with_counts(counts, tokens, top_k);
        for (int e = 0; e < experts; ++e)
          ASSERT_EQ(plan.load(e), counts[static_cast<size_t>(e)]) << experts << " " << tokens;
        for (int t = 0; t < plan.tokens; ++t) {
          const auto ids = plan.token_ids(t);
          ASSERT_EQ(std::set<int32_t>(ids.begin(), ids.end()).size(), ids.size()) << tokens;
        }
      }
  EXPECT_THROW(plan_with_counts({3, 1}, 2, 2), InvalidArgument);
  EXPECT_THROW(plan_with_counts({1, 1}, 2, 2), InvalidArgument);
}

// What is measured touches as many experts as the cost model takes the load to.
TEST(RepresentativeCounts, AreNearTheExpectedLoad) {
  for (const int64_t tokens : {1, 4, 16, 64, 256})
    for (const double exponent : {0.0, 1.2}) {
      const auto counts = cost::representative_counts(tokens, 32, 4, exponent);
      const cost::MoeLoad load = cost::expected_load(tokens, 32, 4, 1, exponent);
      const auto distinct =
          std::count_if(counts.begin(), counts.end(), [](int64_t count) { return count > 0; });
      EXPECT_NEAR(static_cast<double>(distinct), load.distinct, exponent == 0 ? 0 : 1.0) << tokens;
    }
}

// Of few experts one draw is off by half an expert; four are not.
TEST(RepresentativeLoads, AreOnAverageTheExpectedLoad) {
  for (const auto& [experts, top_k] : {std::pair{8, 2}, {32, 4}, {128, 8}})
    for (const int64_t tokens : {1, 4, 16, 256})
      for (const double exponent : {0.0, 1.2, 2.0}) {
        const auto loads = cost::representative_loads(tokens, experts, top_k, exponent, 4);
        EXPECT_EQ(loads.size(), exponent == 0 ? 1u : 4u);
        double distinct = 0;
        for (const auto& counts : loads) {
          EXPECT_EQ(plan_with_counts(counts, tokens, top_k).tokens, tokens);
          distinct += static_cast<double>(
              std::count_if(counts.begin(), counts.end(), [](int64_t count) { return count > 0; }));
        }
        const cost::MoeLoad load = cost::expected_load(tokens, experts, top_k, 1, exponent);
        EXPECT_NEAR(distinct / static_cast<double>(loads.size()), load.distinct,
                    exponent == 0 ? 0 : 0.15 + 0.01 * load.distinct)
            << experts << " " << tokens << " " << exponent;
      }
}

TEST(CpuWork, MeasuresEveryKindOfBatch) {
  ThreadPool pool(2);
  for (const char* shape : {"96x40e5k3", "96x40"}) {
    const auto work = make_cpu_work(parse_shape(shape));
    for (const int64_t tokens : {1, 64, 3}) {
      work->prepare(tokens, 1.2);
      const double us = work->run_us(pool);
      EXPECT_GT(us, 0);
      EXPECT_LT(us, 1e7);  // of this call, not since some epoch
    }
  }
}

}  // namespace
}  // namespace thermoe::app
