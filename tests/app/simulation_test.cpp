// The closed loop: nano on the twin, in short scenarios.
#include "simulation.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include "live_session.h"
#include "nano.h"

namespace thermoe::app {
namespace {

const std::vector<std::string> kSimulatedPrompts = {"The river rises in", "In 1911 the town",
                                                    "import numpy as", "She said that the"};

class SimulationTest : public ::testing::Test {
 protected:
  SimulationTest()
      : engine_(nano_engine()),
        decoder_(engine_.model, engine_.tokenizer, kSimulatedPrompts, {}, {.round_tokens = 48}),
        twin_(read_twin_parameters(std::string(THERMOE_SOURCE_DIR) +
                                   "/data/profiles/h100-sxm-power.json")) {
    const Nominal nominal = nominal_latency(engine_, decoder_);
    settings_.latency_target_us = 1.10 * nominal.layer_latency_us;
    settings_.period_s = 1e-6 * (nominal.dense_latency_us +
                                 settings_.latency_target_us * engine_.cost.shape().layers);
    settings_.temperature_cap_c = twin_.slowdown_c - 1;
  }

  RunRecord run(const Scenario& scenario, bool adaptive) {
    return Simulation(engine_, decoder_, scenario, twin_, settings_).run(adaptive, nullptr);
  }

  Engine& engine_;
  Decoder decoder_;
  TwinParameters twin_;
  SimulationSettings settings_;
};

TEST_F(SimulationTest, UnderNoLimitThermoeIsTopK) {
  const Scenario scenario{"calm", {{"cool", 1.5, {}, {}}}};
  const RunRecord plain = run(scenario, false), adaptive = run(scenario, true);
  const IdentityCheck check = check_identity(plain, adaptive);
  EXPECT_EQ(check.different, 0);
  EXPECT_EQ(check.relaxed_tokens, adaptive.phases[0].tokens);
  EXPECT_EQ(plain.phases[0].energy_j, adaptive.phases[0].energy_j);
  EXPECT_EQ(adaptive.phases[0].open_price_mean(), 0.0);
  EXPECT_EQ(adaptive.phases[0].throttled_s, 0.0);
}

TEST_F(SimulationTest, UnderACapThermoeReadsFewerExpertsAndKeepsItsPace) {
  // The loop settles in the first phase and is judged in the second.
  const Scenario scenario{"capped", {{"cap", 4.5, 450.0, {}}, {"settled", 1.5, 450.0, {}}}};
  const RunRecord plain = run(scenario, false), adaptive = run(scenario, true);
  EXPECT_EQ(check_identity(plain, adaptive).different, 0);
  const PhaseRecord &top_k = plain.phases[1], &thermoe = adaptive.phases[1];
  EXPECT_GT(thermoe.open_price_mean(), 0.0);
  EXPECT_LT(thermoe.distinct_experts, 0.95 * top_k.distinct_experts);
  EXPECT_GT(static_cast<double>(thermoe.tokens), 1.05 * static_cast<double>(top_k.tokens));
  EXPECT_LT(thermoe.energy_j / static_cast<double>(thermoe.tokens),
            0.95 * top_k.energy_j / static_cast<double>(top_k.tokens));
}

TEST_F(SimulationTest, IsDeterministic) {
  const Scenario scenario{"capped", {{"cap", 1.0, 450.0, {}}}};
  const RunRecord one = run(scenario, true), two = run(scenario, true);
  ASSERT_EQ(one.rounds.size(), two.rounds.size());
  for (size_t r = 0; r < one.rounds.size(); ++r)
    EXPECT_EQ(one.rounds[r].texts, two.rounds[r].texts);
  EXPECT_EQ(one.phases[0].energy_j, two.phases[0].energy_j);
}

// Every shipped scenario in small: its phases, two seconds each.
TEST_F(SimulationTest, RunsWhatTheShippedScenariosDo) {
  for (const char* name : {"power-caps", "failing-fan", "noisy-neighbour", "sensor-loss"}) {
    Scenario scenario =
        read_scenario(std::string(THERMOE_SOURCE_DIR) + "/data/scenarios/" + name + ".json");
    for (Phase& phase : scenario.phases) phase.duration_s = 1;
    const RunRecord record = run(scenario, true);
    ASSERT_EQ(record.phases.size(), scenario.phases.size()) << name;
    for (const PhaseRecord& phase : record.phases) {
      EXPECT_GT(phase.tokens, 0) << name;
      EXPECT_GT(phase.energy_j, 100) << name;
    }
    for (const Sample& sample : record.samples) EXPECT_GT(sample.power_w, 100) << name;
  }
}

TEST_F(SimulationTest, PhasesAddUpToTheSamples) {
  const Scenario scenario{"two", {{"a", 1.0, {}, {}}, {"b", 1.0, 450.0, {}}}};
  const RunRecord record = run(scenario, true);
  ASSERT_EQ(record.phases.size(), 2u);
  EXPECT_NEAR(record.phases[1].start_s, record.phases[0].duration_s, 1e-9);
  EXPECT_NEAR(record.samples.back().time_s, record.phases[1].start_s + record.phases[1].duration_s,
              0.1);
  for (size_t i = 1; i < record.samples.size(); ++i)
    EXPECT_GT(record.samples[i].time_s, record.samples[i - 1].time_s);
}

TEST_F(SimulationTest, ReplayedHeatRaisesThePrice) {
  const std::string trace = std::string(THERMOE_SOURCE_DIR) + "/data/telemetry/h100-sxm-700w.csv";
  LiveSettings settings;
  settings.duration_s = 2;  // of 0.05 s ticks: 12 s of trace, 3 idle, then at the 700 W cap
  settings.virtual_step_s = 0.02;
  settings.power_cap_w = 600;
  const LiveOutcome hot = run_live(engine_, decoder_, open_replay_source(trace, 0.3), settings);
  EXPECT_GT(hot.open_price_peak, 0.0);
  EXPECT_GT(hot.power_peak_w.value_or(0), 650.0);
  settings.power_cap_w = 900;
  const LiveOutcome calm = run_live(engine_, decoder_, open_replay_source(trace, 0.3), settings);
  EXPECT_EQ(calm.open_price_peak, 0.0);
  EXPECT_LT(hot.distinct_experts_mean, calm.distinct_experts_mean);
}

TEST(IdentityCheck, CountsOnlyWhatWasFree) {
  RunRecord plain, adaptive;
  plain.phases.resize(1), adaptive.phases.resize(1);
  adaptive.phases[0].relaxed = true;
  plain.rounds.push_back({0, 0, 9, {{1, 2, 3, 4, 5}}, {2}});
  adaptive.rounds.push_back({0, 0, 2, {{1, 2, 3, 4, 9}}, {2}});
  EXPECT_EQ(check_identity(plain, adaptive).relaxed_tokens, 2);
  EXPECT_EQ(check_identity(plain, adaptive).different, 0);
  adaptive.rounds[0].free_steps = 3;
  EXPECT_EQ(check_identity(plain, adaptive).different, 1);
}

}  // namespace
}  // namespace thermoe::app
