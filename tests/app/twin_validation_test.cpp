// The twin against recorded traces, and validation of traces that lack something.
#include "twin_validation.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <random>
#include <sstream>

#include "program.h"
#include "thermoe/error.h"
#include "twin_files.h"

namespace thermoe::app {
namespace {

const std::string kTrace = "data/telemetry/h100-sxm-700w.csv";
const std::string kSecond = "data/telemetry/h100-sxm-700w-second.csv";

Validation validated(const std::string& path, const TwinParameters& device = h100()) {
  const TraceWorks works(source("data/telemetry/works.json"));
  return validate_twin(read_recorded_trace(path, works, device), device, {});
}

TEST(TwinValidation, ThirtySecondsAheadOnReadingsHeldOut) {
  const Validation v = validated(source(kTrace));
  EXPECT_GT(v.held_out.windows, 200);
  EXPECT_LT(v.held_out.mean_absolute_c, 0.4);
  EXPECT_LT(v.held_out.largest_c, 1.5);
  EXPECT_GT(v.held_out.persistence_c, 5);
  EXPECT_GT(v.fitted.windows, 300);
  EXPECT_LT(v.fitted.mean_absolute_c, 0.8);
  EXPECT_EQ(v.fitted.windows + v.held_out.windows, v.by_horizon.back().windows);
}

TEST(TwinValidation, PowerAndClockOfEveryPhaseWithinATwentieth) {
  int compared = 0;
  for (const PhaseComparison& p : validated(source(kTrace)).phases) {
    if (!p.model_w) continue;
    ++compared;
    EXPECT_NEAR(*p.model_w / p.recorded_w, 1, 0.05) << p.name;
    EXPECT_NEAR(*p.model_mhz / p.recorded_mhz, 1, 0.05) << p.name;
  }
  EXPECT_EQ(compared, 9);
}

// Another board of the kind, in other cooling, nothing of it fitted (docs/device-model.md).
TEST(TwinValidation, AnotherBoardsTemperatures) {
  const Validation v = validated(source(kSecond));
  EXPECT_EQ(v.fitted.windows, 0);
  EXPECT_GT(v.work_known.windows, 500);
  EXPECT_LT(v.work_known.mean_absolute_c, 1.0);
  EXPECT_LT(v.by_horizon.back().mean_absolute_c, 1.7);
  EXPECT_LT(v.split_told.mean_absolute_c, 1.3);
  EXPECT_FALSE(v.remarks.empty());  // names the work that it doesn't know
}

// The first trace without the names: cut where the power changes, the split from the sensors.
TEST(TwinValidation, WithoutNamesTheSensorsTellTheSplit) {
  std::istringstream lines([] {
    std::ifstream file(source(kTrace));
    return std::string(std::istreambuf_iterator<char>(file), {});
  }());
  std::string text;
  for (std::string line; std::getline(lines, line);) {
    const size_t first = line.find(','), second = line.find(',', first + 1);
    text += line.substr(0, first) + line.substr(second) + "\n";
  }
  const ScratchFile file("nameless.csv", text);
  const Validation v = validated(file.path());
  EXPECT_LT(v.split_told.mean_absolute_c, 0.8);
  EXPECT_LT(v.by_horizon.back().mean_absolute_c, 1.6);
  EXPECT_EQ(v.fitted.windows, 0);  // another file
  EXPECT_GE(v.phases.size(), 6u);
  EXPECT_LT(v.phases.size(), 20u);
  for (const PhaseComparison& phase : v.phases) EXPECT_FALSE(phase.work_known);
}

// A twin that is warmer than its profile, recorded by name and by column as little as can be.
std::string synthetic(bool columns, double seconds, double step_s) {
  TwinParameters p = h100();
  p.thermal.inlet_c += 8;
  DigitalTwin twin(p);
  CostEstimate work;
  work.latency_us = 500;
  work.bytes = 1e9;
  work.flops = 5e10;
  std::mt19937_64 random(3);
  std::string text = columns ? "temp_c,time_s,power_instant_w,energy_mj,power_limit_w\n"
                             : "power_average_w,time_s,temp_c\n";
  double next_s = 0;
  while (twin.time_s() < seconds) {
    if (std::fmod(twin.time_s(), 44) < 26) {
      twin.advance(work, 0);
    } else {
      twin.idle(0.001);
    }
    if (twin.time_s() < next_s) continue;
    next_s = twin.time_s() + step_s * std::uniform_real_distribution<double>(0.3, 1.7)(random);
    const HardwareState s = twin.state();
    text += columns ? std::to_string(*s.temperature_c) + "," + std::to_string(s.time_s) + "," +
                          std::to_string(*s.power_instant_w) + "," + std::to_string(*s.energy_mj) +
                          ",700\n"
                    : std::to_string(*s.power_average_w) + "," + std::to_string(s.time_s) + "," +
                          std::to_string(*s.temperature_c) + "\n";
  }
  return text;
}

TEST(TwinValidation, IrregularRowsWithoutPhasesOrMemorySensor) {
  const ScratchFile file("irregular.csv", synthetic(true, 180, 0.2));
  const Validation v = validated(file.path());
  EXPECT_GT(v.by_horizon.back().windows, 500);
  // The split is a half here, and guessed as such.
  EXPECT_LT(v.by_horizon.back().mean_absolute_c, 0.8);
  ASSERT_GE(v.phases.size(), 8u);  // work and rest, four times or more
  for (const PhaseComparison& phase : v.phases) EXPECT_FALSE(phase.work_known);
}

TEST(TwinValidation, AveragedPowerAloneAtOneHertz) {
  const ScratchFile file("slow.csv", synthetic(false, 180, 1.0));
  const Validation v = validated(file.path());
  EXPECT_GT(v.by_horizon.back().windows, 80);
  EXPECT_LT(v.by_horizon.back().mean_absolute_c, 1.5);
  EXPECT_LT(v.by_horizon.back().mean_absolute_c, v.by_horizon.back().persistence_c / 3);
}

TEST(TwinValidation, ShortAndEmptyTracesAreSaid) {
  const ScratchFile brief("brief.csv", synthetic(true, 20, 0.1));
  const Validation v = validated(brief.path());
  EXPECT_EQ(v.by_horizon.back().windows, 0);
  EXPECT_GT(v.by_horizon.front().windows, 50);
  EXPECT_NE(v.remarks.at(0).find("can't be judged"), std::string::npos);
  EXPECT_NE(to_table(v).find("can't be judged"), std::string::npos);
  const ScratchFile cold("cold.csv", "time_s,power_instant_w\n0,100\n1,100\n");
  EXPECT_THROW(validated(cold.path()), IoError);
  const ScratchFile dark("dark.csv", "time_s,temp_c\n0,40\n1,40\n");
  EXPECT_THROW(validated(dark.path()), IoError);
  const ScratchFile one("one.csv", "time_s,phase,temp_c,power_instant_w\n0,idle,40,120\n");
  EXPECT_EQ(validated(one.path()).by_horizon.front().windows, 0);
}

TEST(TwinValidation, NoForecastCrossesAGap) {
  std::string text = "time_s,phase,temp_c,power_instant_w\n";
  for (int i = 0; i < 400; ++i)
    text += std::to_string(i * 0.1 + (i >= 200 ? 60 : 0)) + ",idle,40,120\n";
  const ScratchFile file("gap.csv", text);
  const Validation v = validated(file.path());
  EXPECT_EQ(v.by_horizon.back().windows, 0);
  for (const Forecast& f : v.forecasts) EXPECT_LT(f.end_s - f.start_s, 31);
  EXPECT_GT(v.by_horizon[2].windows, 100);
}

// What the twin itself records under a scenario, validated like any trace.
TEST(TwinValidation, TheTwinsOwnRecordingIsWhatItPredicts) {
  const ScratchFile csv("twin.csv");
  const Outcome outcome = run("twin run --scenario " + source("data/scenarios/power-caps.json") +
                              " --work " + "gemm_bf16_8192 --rate-hz 10 --csv " + csv.path());
  ASSERT_EQ(outcome.status, 0) << outcome.error;
  EXPECT_NE(outcome.out.find("500 W"), std::string::npos);
  const Validation v = validated(csv.path());
  EXPECT_GT(v.by_horizon.back().windows, 400);
  EXPECT_LT(v.by_horizon.back().mean_absolute_c, 0.7);
  expect_refusal("twin run --work sorting", "sorting");
}

TEST(TwinValidation, TheProgramPrintsATableOrJson) {
  const Outcome table = run("twin validate --trace " + source(kTrace));
  EXPECT_EQ(table.status, 0) << table.error;
  EXPECT_NE(table.out.find("30 s ahead"), std::string::npos);
  const Outcome outcome = run("twin validate --trace " + source(kTrace) + " --json -");
  ASSERT_EQ(outcome.status, 0) << outcome.error;
  const auto json = nlohmann::json::parse(outcome.out);
  const auto& longest = json.at("temperature").at("longest_horizon");
  EXPECT_EQ(longest.at("horizon_s"), 30);
  EXPECT_LT(longest.at("held_out").at("mean_absolute_error_c"), 1.0);
  EXPECT_EQ(json.at("temperature").at("by_horizon").size(), kHorizonsS.size());
  for (const auto& phase : json.at("phases"))
    if (phase.contains("power_error_frac")) {
      EXPECT_LT(std::abs(phase["power_error_frac"].get<double>()), 0.05) << phase;
    }
  const ScratchFile plot("plot.svg");
  EXPECT_EQ(run("twin validate --trace " + source(kTrace) + " --plot " + plot.path()).status, 0);
  std::ifstream svg(plot.path());
  EXPECT_EQ(std::string(std::istreambuf_iterator<char>(svg), {}).find("<svg"), 0u);
  expect_refusal("twin validate --trace /nonexistent.csv", "/nonexistent.csv");
}

}  // namespace
}  // namespace thermoe::app
