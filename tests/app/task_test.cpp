#include "task.h"

#include <gtest/gtest.h>
#include <zlib.h>

#include <algorithm>
#include <cmath>

#include "nano.h"
#include "refusals.h"
#include "task_report.h"
#include "thermoe/routing_policies.h"
#include "thermoe/transformer.h"

namespace thermoe::app {
namespace {

const char* kPairs =
    R"({"paradigm": "agreement", "good": "The children were in the garden.", "bad": "The children was in the garden."}
{"paradigm": "order", "good": "He went to the house of his father.", "bad": "House the he of to father his went."}

{"paradigm": "agreement", "good": "She has a book.", "bad": "She have a book."}
)";

const char* kPassages = R"({"text": "It was the end of the day. At the end of the"}
{"text": "one two three four, one two three four, one two three four, one two three four"}
{"text": "The sun was high.\n\nHe asked for a hippopotamus"}
)";

std::string task_refusal(const std::string& specification) {
  return refusal([&] { read_task(Task::parse(specification)); });
}

TaskResult run_items(TaskKind kind, const std::vector<TaskItem>& items, const char* policy,
                     int batch) {
  return run_task(nano_engine(), items, kind, *make_routing_policy(policy), batch);
}

std::vector<TaskItem> items_of(const char* name, const std::string& lines) {
  const ScratchFile file("task.jsonl", lines);
  return read_task(Task::parse(std::string(name) + ":" + file.path()));
}

TEST(TaskFile, ReadsPlainAndGzipped) {
  const auto plain = items_of("blimp", kPairs);
  ASSERT_EQ(plain.size(), 3u);
  EXPECT_EQ(plain[2].group, "agreement");
  EXPECT_EQ(plain[2].texts, (std::vector<std::string>{"She has a book.", "She have a book."}));
  const ScratchFile packed("task.jsonl.gz");
  const gzFile file = gzopen(packed.path().c_str(), "wb");
  gzputs(file, kPairs);
  gzclose(file);
  EXPECT_EQ(read_task(Task::parse("blimp:" + packed.path())).size(), 3u);
  // Cut off in the middle.
  std::filesystem::resize_file(packed.path(), std::filesystem::file_size(packed.path()) / 2);
  EXPECT_NE(task_refusal("blimp:" + packed.path()).find("damaged"), std::string::npos)
      << task_refusal("blimp:" + packed.path());
}

TEST(TaskFile, TheLastWordBeginsAtItsSpace) {
  const auto items = items_of("lambada", kPassages);
  ASSERT_EQ(items.size(), 3u);
  EXPECT_EQ(items[2].texts[0].substr(items[2].counted_from), " hippopotamus");
}

TEST(TaskFile, FaultsAreNamedWithTheirLine) {
  const auto named = [](const char* task, const char* lines) {
    const ScratchFile file("bad.jsonl", lines);
    return task_refusal(std::string(task) + ":" + file.path());
  };
  const std::string broken =
      named("blimp", "{\"paradigm\":\"p\",\"good\":\"a\",\"bad\":\"b\"}\n{\"paradigm\":\n");
  EXPECT_NE(broken.find("bad.jsonl: line 2"), std::string::npos) << broken;
  EXPECT_NE(named("blimp", "\n\n{\"good\":\"a\"}\n").find("line 3"), std::string::npos);
  EXPECT_NE(named("blimp", "[1]\n").find("line 1"), std::string::npos);
  EXPECT_NE(named("blimp", "{\"paradigm\":1,\"good\":\"a\",\"bad\":\"b\"}").find("line 1"),
            std::string::npos);
  EXPECT_NE(named("lambada", "{\"text\":\"a b\"}\n{\"text\":\"alone\"}\n").find("line 2"),
            std::string::npos);
  EXPECT_NE(named("lambada", "{\"text\":\"ends in space \"}\n").find("line 1"), std::string::npos);
  EXPECT_NE(named("lambada", "").find("no items"), std::string::npos);
  EXPECT_NE(task_refusal("blimp:/nonexistent").find("/nonexistent"), std::string::npos);
  EXPECT_NE(task_refusal("hellaswag:x").find("hellaswag"), std::string::npos);
  EXPECT_THROW(Task::parse("blimp:"), InvalidArgument);
  EXPECT_THROW(Task::parse("blimp"), InvalidArgument);
}

// -log p of tokens [from, end) behind the document's first token, one token at a time.
double plain_loss(const std::string& text, size_t from, bool& likeliest) {
  Engine& engine = nano_engine();
  std::vector<int32_t> tokens = engine.tokenizer.encode(text);
  tokens.insert(tokens.begin(), 0);  // nano's <|endoftext|>
  TopKPolicy policy;
  KvCache cache(engine.model.config(), 1, 64);
  std::vector<float> logits(static_cast<size_t>(engine.model.config().vocab_size));
  const int32_t zero = 0;
  const RowGroup group{0, 1};
  double loss = 0;
  likeliest = true;
  for (size_t p = 0; p + 1 < tokens.size(); ++p) {
    const int32_t position = static_cast<int32_t>(p);
    engine.model.forward({{&tokens[p], 1}, {&zero, 1}, {&position, 1}, {&group, 1}},
                         {.policy = &policy, .prices = {}, .observer = nullptr}, cache, {&zero, 1},
                         Matrix(logits.data(), 1, static_cast<int64_t>(logits.size())));
    if (p + 1 < from) continue;
    double sum = 0;
    for (const float logit : logits) sum += std::exp(static_cast<double>(logit));
    loss += std::log(sum) - logits[static_cast<size_t>(tokens[p + 1])];
    likeliest = likeliest &&
                std::max_element(logits.begin(), logits.end()) - logits.begin() == tokens[p + 1];
  }
  return loss;
}

TEST(Tasks, BlimpAgreesWithOneSentenceAtATime) {
  const auto items = items_of("blimp", kPairs);
  int64_t correct = 0;
  double loss = 0;
  bool ignored = false;
  for (const TaskItem& item : items) {
    const double good = plain_loss(item.texts[0], 1, ignored);
    correct += good < plain_loss(item.texts[1], 1, ignored) ? 1 : 0;
    loss += good / 3;
  }
  for (const int batch : {1, 4, 16}) {
    const TaskResult result = run_items(TaskKind::kBlimp, items, "topk", batch);
    EXPECT_EQ(result.all.correct, correct) << batch;
    EXPECT_EQ(result.all.items, 3);
    EXPECT_NEAR(result.target_loss_nats, loss, 1e-3) << batch;
    ASSERT_EQ(result.groups.size(), 2u);
    EXPECT_EQ(result.groups[0].name, "agreement");
    EXPECT_EQ(result.groups[0].items, 2);
    EXPECT_EQ(result.groups[0].correct + result.groups[1].correct, correct);
  }
  EXPECT_EQ(run_items(TaskKind::kBlimp, items, "topk", 16).groups[1].correct, 1);  // word salad
}

TEST(Tasks, LambadaCountsTheLastWordOnly) {
  const auto items = items_of("lambada", kPassages);
  const Tokenizer& tokenizer = nano_engine().tokenizer;
  double loss = 0;
  int64_t correct = 0;
  for (const TaskItem& item : items) {
    const std::string& text = item.texts[0];
    const size_t before = tokenizer.encode(text.substr(0, item.counted_from)).size();
    bool likeliest = false;
    loss += plain_loss(text, before + 1, likeliest) / 3;
    correct += likeliest ? 1 : 0;
  }
  const TaskResult result = run_items(TaskKind::kLambada, items, "topk", 4);
  EXPECT_NEAR(result.target_loss_nats, loss, 1e-3);
  EXPECT_EQ(result.all.correct, correct);
  EXPECT_GE(result.all.correct, 1);  // the count is easy
  EXPECT_LT(result.all.correct, 3);  // the animal is not
  EXPECT_TRUE(result.groups.empty());
}

TEST(Tasks, SequencesLeaveTheBatchAsTheyEnd) {
  const auto items = items_of("lambada", kPassages);
  std::vector<size_t> lengths;
  size_t total = 0;
  for (const TaskItem& item : items) {
    lengths.push_back(nano_engine().tokenizer.encode(item.texts[0]).size());
    total += lengths.back();
  }
  const TaskResult result = run_items(TaskKind::kLambada, items, "topk", 8);
  EXPECT_EQ(result.tokens, static_cast<int64_t>(total));
  // Each of the positions of the longest is one group.
  EXPECT_NEAR(result.mean_batch,
              static_cast<double>(total) /
                  static_cast<double>(*std::max_element(lengths.begin(), lengths.end())),
              1e-9);
}

TEST(Tasks, PoliciesRouteTheBatchTogether) {
  const auto items = items_of("blimp", kPairs);
  const TaskResult plain = run_items(TaskKind::kBlimp, items, "topk", 6);
  const TaskResult priced = run_items(TaskKind::kBlimp, items, "adaptive:open=0.2", 6);
  EXPECT_EQ(plain.changed_tokens_frac, 0.0);
  EXPECT_GT(priced.changed_tokens_frac, 0.0);
  EXPECT_LT(priced.distinct_experts_mean, plain.distinct_experts_mean);
  EXPECT_NE(priced.target_loss_nats, plain.target_loss_nats);
  const TaskResult free = run_items(TaskKind::kBlimp, items, "adaptive:open=0", 6);
  EXPECT_EQ(free.target_loss_nats, plain.target_loss_nats);
  const auto json = to_json(plain);
  EXPECT_EQ(json["items"], 3);
  EXPECT_EQ(json["groups"].size(), 2u);
}

}  // namespace
}  // namespace thermoe::app
