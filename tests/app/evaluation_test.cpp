#include "evaluation.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <numbers>
#include <utility>

#include "nano.h"
#include "thermoe/error.h"
#include "thermoe/routing_policies.h"
#include "thermoe/transformer.h"

namespace thermoe::app {
namespace {

const char* kText =
    "The river rises in the mountains and flows south through a wide valley to the sea. On its "
    "banks "
    "stand three towns, of which the oldest was founded by fishermen. ";

std::string repeated(int times) {
  std::string text;
  for (int i = 0; i < times; ++i) text += kText;
  return text;
}

TextWindows windows_of(const std::string& text, int64_t context) {
  const ScratchFile file("text.txt", text);
  const std::filesystem::path path(file.path());
  return read_windows(nano_engine().tokenizer, {&path, 1}, context);
}

EvaluationResult evaluate_nano(const TextWindows& windows, const char* policy, float price,
                               int batch) {
  Engine& engine = nano_engine();
  const std::vector<ExpertPrices> prices(
      static_cast<size_t>(engine.model.config().layers),
      ExpertPrices::uniform(engine.model.config().experts, price));
  EvaluationSettings settings;
  settings.batch = batch;
  settings.prices = [&](int64_t) { return std::span<const ExpertPrices>(prices); };
  return evaluate(engine.model, windows, *make_routing_policy(policy), engine.charge, engine.pool,
                  settings);
}

TEST(Windows, AreContiguousAndTargetsAreShiftedByOne) {
  const std::string text = repeated(4);
  const TextWindows windows = windows_of(text, 10);
  const auto ids = nano_engine().tokenizer.encode(text);
  EXPECT_EQ(windows.tokens, ids);
  ASSERT_EQ(windows.starts.size(), (ids.size() - 1) / 10);
  int64_t bytes = 0;
  for (size_t w = 0; w < windows.starts.size(); ++w) {
    EXPECT_EQ(windows.starts[w], static_cast<int64_t>(10 * w));
    bytes += windows.target_bytes[w];
  }
  const auto first = nano_engine().tokenizer.decode({ids.data(), 1});
  const auto end = nano_engine().tokenizer.decode({ids.data(), 10 * windows.starts.size() + 1});
  EXPECT_EQ(bytes, static_cast<int64_t>(end.size() - first.size()));
}

TEST(Windows, TooShortATextIsNamed) {
  try {
    windows_of("short", 512);
    FAIL() << "a text shorter than a window was taken";
  } catch (const IoError& error) {
    EXPECT_NE(std::string(error.what()).find("too short"), std::string::npos);
    EXPECT_NE(std::string(error.what()).find("text.txt"), std::string::npos);
  }
}

TEST(Windows, PartsAreDisjointAndCoverTheText) {
  const ScratchFile file("text.txt", repeated(40));
  const std::filesystem::path path(file.path());
  const Tokenizer& tokenizer = nano_engine().tokenizer;
  const std::vector<int32_t> ids = tokenizer.encode(repeated(40));
  std::vector<int32_t> joined;
  for (const char* part : {"1/3", "2/3", "3/3"}) {
    const TextWindows windows = read_windows(tokenizer, {&path, 1}, 16, TextPart::parse(part));
    EXPECT_EQ(windows.starts.size(), (windows.tokens.size() - 1) / 16);
    EXPECT_NEAR(static_cast<double>(windows.tokens.size()), static_cast<double>(ids.size()) / 3,
                1.0);
    joined.insert(joined.end(), windows.tokens.begin(), windows.tokens.end());
  }
  EXPECT_EQ(joined, ids);
  // Bytes count from the part's own windows.
  const TextWindows second = read_windows(tokenizer, {&path, 1}, 16, TextPart::parse("2/3"));
  const size_t first = ids.size() / 3;
  const auto until = [&](size_t tokens) { return tokenizer.decode({ids.data(), tokens}).size(); };
  EXPECT_EQ(second.target_bytes[0], static_cast<int64_t>(until(first + 17) - until(first + 1)));
}

TEST(Windows, APartThatIsNoneIsNamed) {
  for (const char* part : {"", "1", "1/", "/2", "0/2", "3/2", "1/2/3", "-1/2", "1 /2", "a/b"})
    EXPECT_THROW(TextPart::parse(part), InvalidArgument) << part;
  const ScratchFile file("text.txt", repeated(2));
  const std::filesystem::path path(file.path());
  EXPECT_THROW(read_windows(nano_engine().tokenizer, {&path, 1}, 64, TextPart::parse("1/2")),
               IoError);
}

TEST(Evaluation, AgreesWithOneTokenAtATime) {
  // The chunked, batched evaluation against plain decoding of each window by itself.
  Engine& engine = nano_engine();
  const TextWindows windows = windows_of(repeated(6), 40);
  const EvaluationResult result = evaluate_nano(windows, "topk", 0.0f, 3);
  ASSERT_EQ(result.tokens, static_cast<int64_t>(windows.starts.size() / 3 * 3 * 40));
  TopKPolicy policy;
  KvCache cache(engine.model.config(), 1, 40);
  std::vector<float> logits(static_cast<size_t>(engine.model.config().vocab_size));
  const int32_t zero = 0;
  const RowGroup group{0, 1};
  double sum = 0;
  for (size_t w = 0; w < windows.starts.size() / 3 * 3; ++w)
    for (int32_t p = 0; p < 40; ++p) {
      const size_t at = static_cast<size_t>(windows.starts[w] + p);
      engine.model.forward({{&windows.tokens[at], 1}, {&zero, 1}, {&p, 1}, {&group, 1}},
                           {.policy = &policy, .prices = {}, .observer = nullptr}, cache,
                           {&zero, 1},
                           Matrix(logits.data(), 1, static_cast<int64_t>(logits.size())));
      double total = 0;
      for (const float logit : logits) total += std::exp(static_cast<double>(logit));
      sum += std::log(total) - logits[static_cast<size_t>(windows.tokens[at + 1])];
    }
  EXPECT_NEAR(result.cross_entropy_nats, sum / static_cast<double>(result.tokens), 1e-4);
  EXPECT_NEAR(result.bits_per_byte(), sum / std::numbers::ln2 / static_cast<double>(result.bytes),
              1e-4);
}

TEST(Evaluation, ACacheThatIsUsedAgainChangesNothing) {
  Engine& engine = nano_engine();
  const TextWindows windows = windows_of(repeated(8), 24);
  for (const int batch : {1, 4}) {
    Lockstep lockstep(engine.model, engine.pool, batch, 60);
    EvaluationSettings settings;
    settings.batch = batch;
    const auto run = [&](const char* policy) {
      return evaluate(lockstep, windows, *make_routing_policy(policy), engine.charge, settings);
    };
    const EvaluationResult first = run("topk");
    EXPECT_NE(run("fewer:k=1").losses, first.losses);
    EXPECT_EQ(run("topk").losses, first.losses);
    TopKPolicy policy;
    EXPECT_EQ(evaluate(engine.model, windows, policy, engine.charge, engine.pool, settings).losses,
              first.losses);
  }
}

TEST(Evaluation, ZeroPricesGiveTopKsNumbersExactly) {
  const TextWindows windows = windows_of(repeated(20), 32);
  const EvaluationResult plain = evaluate_nano(windows, "topk", 0.0f, 8);
  const EvaluationResult free = evaluate_nano(windows, "adaptive", 0.0f, 8);
  EXPECT_EQ(plain.losses, free.losses);
  EXPECT_EQ(free.expert_bytes_frac, 1.0);
  EXPECT_EQ(free.gate_mass_frac, 1.0);
  EXPECT_EQ(free.certificate_gap_frac_max, 0.0);
  EXPECT_EQ(free.changed_tokens_frac, 0.0);
}

TEST(Evaluation, PricesBuyFewerExpertsAtASmallLoss) {
  const TextWindows windows = windows_of(repeated(20), 32);
  const EvaluationResult plain = evaluate_nano(windows, "topk", 0.0f, 8);
  double last = 1.0;
  for (const auto& [price, most_nats] : {std::pair{0.02f, 0.05}, {0.1f, 0.3}, {0.5f, 2.0}}) {
    const EvaluationResult priced = evaluate_nano(windows, "adaptive", price, 8);
    EXPECT_LT(priced.expert_bytes_frac, last);
    EXPECT_LT(priced.predicted_latency_us, plain.predicted_latency_us);
    EXPECT_LT(priced.predicted_energy_mj, plain.predicted_energy_mj);
    EXPECT_LT(priced.gate_mass_frac, 1.0);
    EXPECT_GT(priced.changed_tokens_frac, 0.0);
    EXPECT_LT(priced.predicted_bytes, plain.predicted_bytes);
    EXPECT_LE(priced.certificate_gap_frac_median, priced.certificate_gap_frac_p99);
    EXPECT_LE(priced.certificate_gap_frac_p99, priced.certificate_gap_frac_max);
    EXPECT_LT(std::abs(priced.cross_entropy_nats - plain.cross_entropy_nats), most_nats);
    last = priced.expert_bytes_frac;
  }
}

TEST(Evaluation, FewerWindowsThanABatchIsAnError) {
  const TextWindows windows = windows_of(repeated(2), 32);
  EXPECT_THROW(evaluate_nano(windows, "topk", 0.0f, 64), InvalidArgument);
}

TEST(PairedDifference, HandWorkedCase) {
  // Two windows of two tokens, one batch of two: losses by position, then window.
  EvaluationResult base, changed;
  base.losses = {1.0f, 2.0f, 3.0f, 4.0f};
  changed.losses = {1.5f, 2.0f, 3.5f, 5.0f};
  const PairedDifference difference = paired_difference(changed, base, 2, 2);
  EXPECT_DOUBLE_EQ(difference.mean_nats, 0.5);  // windows differ by 0.5 and 0.5
  EXPECT_DOUBLE_EQ(difference.standard_error_nats, 0.0);
  changed.losses = {1.5f, 2.0f, 3.5f, 4.0f};  // 0.5 and 0: mean 0.25, s = 0.3536, over sqrt 2
  EXPECT_DOUBLE_EQ(paired_difference(changed, base, 2, 2).mean_nats, 0.25);
  EXPECT_NEAR(paired_difference(changed, base, 2, 2).standard_error_nats, 0.25, 1e-12);
}

}  // namespace
}  // namespace thermoe::app
