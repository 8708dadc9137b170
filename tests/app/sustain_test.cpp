// Sustained load: the loop on the CPU under replayed telemetry, its report, and refusals.
#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "kernels/cuda/devices.h"
#include "nano.h"
#include "program.h"
#include "refusals.h"
#include "sustain_report.h"
#include "thermoe/synthetic_model.h"

namespace thermoe::app {
namespace {

LoadResult run_nano(const LoadSettings& settings, const LoadPhase& phase) {
  Engine& engine = nano_engine();
  SustainedLoad load(engine.model, engine.variants, engine.charge, engine.policy_context(),
                     settings);
  GpuSystemMonitor monitor(
      open_replay_source(std::string(THERMOE_SOURCE_DIR) + "/data/telemetry/h100-sxm-700w.csv"));
  monitor.start();
  return load.run(phase, monitor, {});
}

LoadSettings short_load(bool prefill) {
  LoadSettings settings;
  settings.prefill = prefill;
  settings.batch = 4;
  settings.prompt_tokens = 8;
  settings.context_tokens = 24;
  settings.seconds = 0.4;
  settings.warm_up_s = 0.1;
  return settings;
}

TEST(Sustain, DecodesAndPrefills) {
  for (const bool prefill : {false, true}) {
    const LoadResult result = run_nano(short_load(prefill), {"top-k", false, {}, 0, 0, 0});
    EXPECT_GT(result.tokens, 0);
    EXPECT_EQ(result.tokens % (prefill ? 32 : 4), 0);
    EXPECT_GE(result.seconds, 0.3);
    EXPECT_GT(result.layer_us, 0);
    EXPECT_TRUE(result.power_w.has_value());
    EXPECT_TRUE(result.energy.energy_mj.has_value());
    EXPECT_DOUBLE_EQ(result.gate_mass_frac, 1.0);
    EXPECT_DOUBLE_EQ(result.changed_tokens_frac, 0.0);
    EXPECT_GE(result.samples.back().time_s, 0.5);
  }
}

TEST(Sustain, WithoutATargetTokensAreTopKs) {
  const LoadSettings settings = short_load(false);
  SustainOutcome outcome;
  outcome.phases = {run_nano(settings, {"top-k", false, {}, 0, 0, 0}),
                    run_nano(settings, {"no target", true, {}, 0, 0, 0})};
  compare_tokens(outcome, 1);
  EXPECT_GE(outcome.compared_tokens, 8);
  EXPECT_EQ(outcome.different_tokens, 0);
}

TEST(Sustain, TargetsRaisePricesAndPricesCutExperts) {
  LoadSettings settings = short_load(false);
  settings.seconds = 1;
  settings.warm_up_s = 1;  // the price rises before anything counts
  settings.look_s = 0.2;
  const LoadResult free = run_nano(settings, {"top-k", false, {}, 0, 0, 0});
  GovernorLimits tight;
  tight.layer_latency_target_us = free.layer_us / 10;
  const LoadResult held = run_nano(settings, {"fast", true, tight, 0, 0, 0});
  EXPECT_GT(held.open_price, 0);
  EXPECT_LT(held.distinct_experts, free.distinct_experts);
  EXPECT_LT(held.gate_mass_frac, 1.0);
  const LoadResult fixed = run_nano(settings, {"fixed", true, {}, 0.1, 0.001, 0.5});
  EXPECT_DOUBLE_EQ(fixed.open_price, 0.1);
  EXPECT_DOUBLE_EQ(fixed.slope_price, 0.001);
  EXPECT_LT(fixed.distinct_experts, free.distinct_experts);
}

TEST(Sustain, SizesThatDoNotFitAreRefused) {
  LoadSettings settings = short_load(false);
  settings.context_tokens = settings.prompt_tokens;
  EXPECT_REFUSED(run_nano(settings, {}), "--context 8");
}

SustainOutcome small_outcome_of_two() {
  SustainOutcome outcome;
  outcome.model = "synthetic:x";
  outcome.synthetic = true;
  outcome.device = "a GPU";
  LoadResult result;
  result.phase.name = "top-k";
  result.seconds = 2;
  result.tokens = 100;
  result.energy.energy_mj = 500e3;
  result.energy.span_s = 1;
  result.power_w = 500;
  LoadSample sample;
  sample.time_s = 0.5;
  sample.power_w = 510;
  result.samples = {sample, sample};
  outcome.phases = {result, result};
  outcome.phases[1].phase.name = "no target";
  outcome.phases[1].samples[0].power_w.reset();
  outcome.compared_tokens = 10;
  return outcome;
}

TEST(SustainReport, SaysWhatIsSynthetic) {
  const std::string table = to_table(small_outcome_of_two());
  EXPECT_NE(table.find("random"), std::string::npos);
  EXPECT_NE(table.find("0 of 10 tokens differ"), std::string::npos);
  EXPECT_NE(table.find("no target"), std::string::npos);
}

TEST(SustainReport, JsonHoldsRatesAndEnergies) {
  const auto json = to_json(small_outcome_of_two());
  EXPECT_TRUE(json.at("synthetic").get<bool>());
  EXPECT_DOUBLE_EQ(json.at("phases")[0].at("tokens_per_s").get<double>(), 50);
  EXPECT_DOUBLE_EQ(json.at("phases")[0].at("joules_per_token").get<double>(), 10);
  EXPECT_TRUE(json.at("phases")[0].at("temperature_peak_c").is_null());
}

TEST(SustainReport, CsvAndPlotHaveEveryTick) {
  const std::string csv = to_csv(small_outcome_of_two());
  EXPECT_EQ(std::count(csv.begin(), csv.end(), '\n'), 5);
  EXPECT_NE(csv.find("no target,0.500,0.0000,0,0,,,"), std::string::npos) << csv;
  const Plot plot = to_plot(small_outcome_of_two());
  ASSERT_EQ(plot.bands.size(), 2u);
  EXPECT_EQ(plot.panels[1].series[0].y.size(), 3u);  // power: one tick had none
}

TEST(SyntheticModels, AreNamedByTheirShape) {
  const SyntheticModel model = SyntheticModel::parse("synthetic:olmoe-1b-7b:layers=4");
  EXPECT_EQ(model.shape.experts, 64);
  EXPECT_EQ(model.layers, 4);
  EXPECT_EQ(SyntheticModel::parse("synthetic:qwen3-30b-a3b").layers, 0);
  EXPECT_REFUSED(SyntheticModel::parse("synthetic:gpt-5"), "qwen3-30b-a3b");
  EXPECT_REFUSED(SyntheticModel::parse("synthetic:olmoe-1b-7b:layers=17"), "1 to 16");
  EXPECT_REFUSED(SyntheticModel::parse("synthetic:olmoe-1b-7b:layers="), "layers=N");
  EXPECT_REFUSED(SyntheticModel::parse("synthetic:olmoe-1b-7b:depth=3"), "layers=N");
}

TEST(SustainCommand, BadInputIsRefused) {
  const std::string text = std::string(" --text ") + THERMOE_SOURCE_DIR + "/data/text/wiki.txt";
  expect_refusal("eval --model synthetic:qwen3-30b-a3b --policy topk" + text, "thermoe sustain");
  expect_refusal("sustain --model synthetic:nothing", "qwen3-30b-a3b");
  EXPECT_EQ(run("sustain --work sleep").status, 2);
  if (cuda_device_list().devices.empty()) {
    expect_refusal("eval --device cuda --max-windows 16" + text, "--device cpu");
    expect_refusal("sustain", "no GPU");
  }
}

}  // namespace
}  // namespace thermoe::app
