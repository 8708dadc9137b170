// The nano model with quantised experts: evaluated, compared, and decoded under prices.
#include <gtest/gtest.h>

#include <filesystem>
#include <memory>

#include "evaluation.h"
#include "frontier_report.h"
#include "frontier_study.h"
#include "nano.h"
#include "simulation.h"
#include "thermoe/error.h"
#include "thermoe/quantize_checkpoint.h"

namespace thermoe::app {
namespace {

// Quantised once for all tests, in a folder that goes with the process.
class QuantizedNano {
 public:
  QuantizedNano()
      : directory_(std::filesystem::temp_directory_path() /
                   ("thermoe-" + std::to_string(::getpid()) + "-nano-int8")) {
    std::filesystem::remove_all(directory_);
    ThreadPool pool(2);
    const EncodedText text =
        read_text(nano_engine().tokenizer,
                  std::filesystem::path(THERMOE_SOURCE_DIR) / "data/text/wikitext103-valid.txt");
    const std::vector<std::vector<int32_t>> texts{
        {text.tokens.begin(), text.tokens.begin() + 1024}};
    quantize_checkpoint(nano_engine().checkpoint, texts, directory_, pool);
    EngineOptions options;
    options.model = directory_.string();
    options.threads = 2;
    engine_ = std::make_unique<Engine>(options);
  }
  ~QuantizedNano() {
    engine_.reset();
    std::error_code ignored;
    std::filesystem::remove_all(directory_, ignored);
  }
  Engine& engine() { return *engine_; }

 private:
  std::filesystem::path directory_;
  std::unique_ptr<Engine> engine_;
};

Engine& quantized_engine() {
  static QuantizedNano nano;
  return nano.engine();
}

EvaluationResult evaluate_in(Engine& engine, const std::string& list, const std::string& policy) {
  const std::filesystem::path file =
      std::filesystem::path(THERMOE_SOURCE_DIR) / "data/text/wiki.txt";
  const TextWindows windows = read_windows(engine.tokenizer, {&file, 1}, 32);
  EvaluationSettings settings;
  settings.batch = 16;
  settings.max_windows = 16;
  const Variants variants(engine.model.variants(), list, engine.checkpoint.directory().string());
  const Charge charge(engine.cost, engine.model.config(), variants);
  return evaluate(engine.model, windows, *make_routing_policy(policy, engine.policy_context()),
                  charge, engine.pool, settings);
}

TEST(QuantizedRun, FewerBytesLoseALittleMore) {
  Engine& engine = quantized_engine();
  EXPECT_EQ(engine.variants.name(), "int8,int4");
  const EvaluationResult plain = evaluate_in(nano_engine(), "", "topk");
  const EvaluationResult fine = evaluate_in(engine, "int8", "topk");
  const EvaluationResult coarse = evaluate_in(engine, "int4", "topk");
  EXPECT_NEAR(fine.cross_entropy_nats, plain.cross_entropy_nats, 0.01);
  EXPECT_NEAR(coarse.cross_entropy_nats, plain.cross_entropy_nats, 0.1);
  EXPECT_EQ(plain.expert_bytes_frac, 1.0);
  EXPECT_NEAR(fine.expert_bytes_frac, 0.516, 0.01);
  EXPECT_NEAR(coarse.expert_bytes_frac, 0.266, 0.01);
  EXPECT_EQ(coarse.opened_frac, (std::array<double, kPrecisions>{0, 0, 1}));
  EXPECT_LT(fine.predicted_latency_us, plain.predicted_latency_us);
  EXPECT_LT(coarse.predicted_latency_us, fine.predicted_latency_us);
  // Published policies know nothing of precisions, and need not.
  EXPECT_LT(evaluate_in(engine, "int4", "oea:k0=2").expert_bytes_frac, coarse.expert_bytes_frac);
}

TEST(QuantizedRun, WithoutPricesTheChoiceOfPrecisionsIsTopKInTheFinest) {
  Engine& engine = quantized_engine();
  const EvaluationResult fine = evaluate_in(engine, "int8", "topk");
  for (const char* policy : {"topk", "adaptive", "oea:k0=4", "staticmix:frac=1"}) {
    const EvaluationResult both = evaluate_in(engine, "int8,int4", policy);
    EXPECT_EQ(both.losses, fine.losses) << policy;
    EXPECT_EQ(both.expert_bytes_frac, fine.expert_bytes_frac) << policy;
    EXPECT_EQ(both.certificate_gap_frac_max, 0.0) << policy;
  }
  EXPECT_EQ(evaluate_in(engine, "int8,int4", "staticmix:frac=0").losses,
            evaluate_in(engine, "int4", "topk").losses);
}

TEST(QuantizedRun, ARisingPriceReadsFewerBytesByPrecisionAndByExperts) {
  double last = 1, coarse = 0;
  for (const char* policy : {"adaptive:open=0.002", "adaptive:open=0.01", "adaptive:open=0.05"}) {
    const EvaluationResult priced = evaluate_in(quantized_engine(), "int8,int4", policy);
    EXPECT_LT(priced.expert_bytes_frac, last) << policy;
    EXPECT_GE(priced.opened_frac[2], coarse) << policy;
    last = priced.expert_bytes_frac;
    coarse = priced.opened_frac[2];
  }
  EXPECT_GT(coarse, 0.0);
  EXPECT_LT(last, 0.4);
}

TEST(QuantizedRun, AFrontierComparesListsWithTheBaseInBf16) {
  const ScratchFile log("variants.jsonl");
  std::filesystem::remove(log.path());
  FrontierSettings settings;
  settings.texts = {std::filesystem::path(THERMOE_SOURCE_DIR) / "data/text/wiki.txt"};
  settings.batches = {4};
  settings.context = 16;
  settings.max_tokens = 64;
  settings.variants = {"int8", "int8,int4"};
  const std::vector<std::string> specifications{"oea:k0=2", "threshold:theta=0.2"};
  const std::vector sweeps(1, read_sweep(specifications));
  const auto study = [&](Engine* base) {
    return run_frontier(
        quantized_engine(), settings, sweeps, log.path(), [](int64_t, int64_t) {}, base);
  };
  const FrontierStudy first = study(&nano_engine());
  // The base; top-k and oea in int8; top-k, oea and threshold in both.
  ASSERT_EQ(first.rows.size(), 6u);
  EXPECT_EQ(first.reference, "bf16");
  const auto points = pair_with_top_k(first.rows, first.reference);
  EXPECT_TRUE(points[0].reference);
  EXPECT_EQ(points[0].read_frac, 1.0);
  EXPECT_NEAR(points[1].read_frac, 0.516, 0.02);
  EXPECT_EQ(points[1].loss.mean_nats, points[3].loss.mean_nats);  // top-k in int8, twice
  EXPECT_LT(points[5].read_frac, points[3].read_frac);
  EXPECT_EQ(points[5].row.variants, "int8,int4");
  // Taken up with one list more; refused with another base.
  settings.variants.emplace_back("int4");
  const FrontierStudy more = study(&nano_engine());
  EXPECT_EQ(more.resumed, 6);
  EXPECT_EQ(more.rows.size(), 8u);
  try {
    study(nullptr);
    FAIL() << "another reference was taken";
  } catch (const IoError& error) {
    EXPECT_NE(std::string(error.what()).find("base_fingerprint"), std::string::npos)
        << error.what();
  }
  EXPECT_THROW(study(&quantized_engine()), InvalidArgument);
}

}  // namespace
}  // namespace thermoe::app
