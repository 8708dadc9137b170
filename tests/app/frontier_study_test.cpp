// A frontier measured with the nano model: broken off, taken up, refused.
#include "frontier_study.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "frontier_log.h"
#include "frontier_report.h"
#include "nano.h"
#include "thermoe/error.h"

namespace thermoe::app {
namespace {

struct Interrupted {};

std::string text(const char* subject) {
  std::string text;
  for (int i = 0; i < 12; ++i)
    text += std::string(subject) + " rises in the mountains and flows south to the sea. ";
  return text;
}

class FrontierStudyTest : public ::testing::Test {
 protected:
  FrontierStudyTest() {
    settings_.texts = {first_.path(), second_.path()};
    settings_.batches = {1, 4};
    settings_.context = 16;
    settings_.max_tokens = 64;
    std::filesystem::remove(log_.path());
    std::filesystem::remove(other_log_.path());
  }

  // Stops in the middle of the point after `points` whole ones; never where negative.
  FrontierStudy study(const std::string& log, int64_t points = -1) {
    const std::vector<std::string> specifications{"adaptive:open=0.05,0.2"};
    const std::vector sweeps(settings_.batches.size(), read_sweep(specifications));
    return run_frontier(nano_engine(), settings_, sweeps, log, [&](int64_t done, int64_t total) {
      EXPECT_LE(done, total);
      if (points >= 0 && done > 64 * points) throw Interrupted();
    });
  }

  static std::string csv(const FrontierStudy& study) {
    FrontierReport report;
    report.points = pair_with_top_k(study.rows);
    return to_csv(report);
  }

  std::string refusal() {
    try {
      study(log_.path());
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  }

  FrontierSettings settings_;
  const ScratchFile first_{"river.txt", text("The river")}, second_{"brook.txt", text("A brook")};
  const ScratchFile log_{"log.jsonl"}, other_log_{"other.jsonl"};
};

TEST_F(FrontierStudyTest, BrokenOffAndTakenUpGivesTheSameNumbers) {
  const FrontierStudy whole = study(other_log_.path());
  ASSERT_EQ(whole.rows.size(), 2u * 2u * 3u);
  EXPECT_EQ(whole.resumed, 0);
  EXPECT_THROW(study(log_.path(), 5), Interrupted);
  // What an interrupted write leaves: a line without its end.
  std::ofstream(log_.path(), std::ios::app) << R"({"text":"brook.txt","batch":4,"con)";
  EXPECT_THROW(study(log_.path(), 2), Interrupted);
  const FrontierStudy resumed = study(log_.path());
  EXPECT_EQ(resumed.resumed, 7);
  EXPECT_EQ(csv(resumed), csv(whole));
  EXPECT_EQ(study(log_.path()).resumed, 12);
}

TEST_F(FrontierStudyTest, RowsSayWhatEvaluationSays) {
  const FrontierStudy measured = study(log_.path());
  const FrontierRow& row = measured.rows.back();
  EXPECT_EQ(row.specification, "adaptive:open=0.2");
  EXPECT_EQ(row.batch, 4);
  const std::filesystem::path file = second_.path();
  const TextWindows windows = read_windows(nano_engine().tokenizer, {&file, 1}, 16);
  EvaluationSettings evaluation;
  evaluation.batch = 4;
  evaluation.max_windows = 4;
  const EvaluationResult result =
      evaluate(nano_engine().model, windows,
               *make_routing_policy(row.specification, nano_engine().policy_context()),
               nano_engine().charge, nano_engine().pool, evaluation);
  EXPECT_EQ(row.tokens, result.tokens);
  EXPECT_EQ(row.cross_entropy_nats, result.cross_entropy_nats);
  EXPECT_EQ(row.window_losses_nats, window_losses(result, 4, 16));
  EXPECT_EQ(row.plans.predicted_energy_mj, result.predicted_energy_mj);
  EXPECT_LT(row.plans.distinct_experts_mean, row.plans.top_k_distinct_experts_mean);
  EXPECT_GT(row.plans.changed_tokens_frac, 0.0);
}

TEST_F(FrontierStudyTest, OtherSettingsAreRefusedByName) {
  study(log_.path());
  settings_.context = 8;
  EXPECT_NE(refusal().find("context_tokens is 16 there and 8 now"), std::string::npos) << refusal();
  settings_.context = 16;
  settings_.part = {1, 2};
  EXPECT_NE(refusal().find("part"), std::string::npos) << refusal();
  settings_.part = {};
  settings_.max_tokens = 128;
  EXPECT_NE(refusal().find("max_tokens"), std::string::npos) << refusal();
  settings_.max_tokens = 64;
  std::ofstream(first_.path(), std::ios::app) << "One more sentence.";
  EXPECT_NE(refusal().find("texts"), std::string::npos) << refusal();
}

TEST_F(FrontierStudyTest, BatchesAndPoliciesMayBeAdded) {
  settings_.batches = {1};
  study(log_.path());
  settings_.batches = {4, 1};
  EXPECT_EQ(study(log_.path()).resumed, 6);
}

TEST_F(FrontierStudyTest, VariantsThatTheCheckpointCannotServeAreRefused) {
  settings_.variants = {"bf16"};
  const FrontierStudy plain = study(log_.path());
  EXPECT_EQ(plain.reference, "bf16");
  EXPECT_EQ(plain.rows.front().variants, "bf16");
  EXPECT_EQ(plain.rows.front().plans.opened_frac, (std::array<double, kPrecisions>{1, 0, 0}));
  settings_.variants = {};
  EXPECT_EQ(study(log_.path()).resumed, 12);  // the same thing
  settings_.variants = {"bf16", "int8"};
  EXPECT_NE(refusal().find("thermoe quantize --model"), std::string::npos) << refusal();
  settings_.variants = {"bf16", "bf16"};
  EXPECT_NE(refusal().find("twice"), std::string::npos) << refusal();
}

TEST_F(FrontierStudyTest, PoliciesThatOnlyChoosePrecisionsNeedAChoice) {
  const std::vector<std::string> specifications{"threshold:theta=0.1"};
  const std::vector sweeps(settings_.batches.size(), read_sweep(specifications));
  try {
    run_frontier(nano_engine(), settings_, sweeps, log_.path(), [](int64_t, int64_t) {});
    FAIL() << "ran";
  } catch (const InvalidArgument& error) {
    EXPECT_NE(std::string(error.what()).find("--variants int8,int4"), std::string::npos)
        << error.what();
  }
  try {
    run_frontier(
        nano_engine(), settings_, sweeps, log_.path(), [](int64_t, int64_t) {}, &nano_engine());
    FAIL() << "ran";
  } catch (const InvalidArgument& error) {
    EXPECT_NE(std::string(error.what()).find("leave --base out"), std::string::npos)
        << error.what();
  }
}

TEST_F(FrontierStudyTest, DamagedLogsAreNamedWithTheirLine) {
  study(log_.path());
  std::ofstream(log_.path(), std::ios::app) << "{\"text\": 5}\n";
  EXPECT_NE(refusal().find("line 14 is damaged"), std::string::npos) << refusal();
  std::ofstream(log_.path()) << "no JSON\n";
  EXPECT_NE(refusal().find("line 1 is damaged"), std::string::npos) << refusal();
  std::ofstream(log_.path()) << "[]\n";
  EXPECT_NE(refusal().find("other settings"), std::string::npos) << refusal();
}

TEST_F(FrontierStudyTest, TwoAtOnceAreRefused) {
  const FrontierLog open(log_.path(), {{"a", 1}});
  EXPECT_THROW(FrontierLog(log_.path(), {{"a", 1}}), IoError);
}

TEST_F(FrontierStudyTest, NothingIsBegunForWhatCannotWork) {
  settings_.batches = {1, 64};
  EXPECT_NE(refusal().find("--batch"), std::string::npos) << refusal();
  EXPECT_FALSE(std::filesystem::exists(log_.path()));
  settings_.batches = {1};
  settings_.texts.push_back(settings_.texts.front());
  EXPECT_NE(refusal().find("river.txt"), std::string::npos) << refusal();
}

}  // namespace
}  // namespace thermoe::app
