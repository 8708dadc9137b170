#include "task.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>

#include "paths.h"
#include "thermoe/error.h"

namespace thermoe::app {
namespace {

int32_t first_token(const Engine& engine) {
  const std::filesystem::path file = engine.checkpoint.directory() / "config.json";
  const auto json = nlohmann::json::parse(read_file(file), nullptr, false);
  const ModelConfig& config = engine.model.config();
  if (json.is_object() && json.contains("bos_token_id") &&
      json["bos_token_id"].is_number_integer()) {
    const int64_t id = json["bos_token_id"].get<int64_t>();
    if (id >= 0 && id < config.vocab_size) return static_cast<int32_t>(id);
  }
  if (config.eos_token_ids.empty())
    throw InvalidArgument(fmt::format(
        "{}: has neither bos_token_id nor eos_token_id, so nothing begins a task's text",
        file.string()));
  return config.eos_token_ids.front();
}

// A text's tokens behind the first one, and which of them count.
struct EncodedItem {
  std::vector<int32_t> tokens;
  int64_t counted_from = 1;
};

EncodedItem encode(const Tokenizer& tokenizer, int32_t first, const std::string& text,
                   size_t counted_from) {
  EncodedItem item;
  std::vector<int64_t> end_bytes;
  item.tokens = tokenizer.encode(text, end_bytes);
  if (item.tokens.empty()) throw InvalidArgument("a task's text is empty");
  // A token counts where it reaches into the counted bytes.
  const auto begin =
      std::upper_bound(end_bytes.begin(), end_bytes.end(), static_cast<int64_t>(counted_from));
  item.counted_from = begin - end_bytes.begin() + 1;
  item.tokens.insert(item.tokens.begin(), first);
  return item;
}

struct TextScore {
  double loss_nats = 0;
  bool likeliest = true;  // every counted token was
};

// Losses of one text arrive in any order and from several threads: kept by token, summed in order.
class TextScores {
 public:
  explicit TextScores(const std::vector<EncodedItem>& texts) {
    for (const EncodedItem& text : texts) scores_.emplace_back(text.tokens.size());
  }
  void take(const TokenScore& token) {
    scores_[token.sequence][static_cast<size_t>(token.index)] = token;
  }
  TextScore of(size_t text, int64_t counted_from) const {
    TextScore score;
    for (size_t i = static_cast<size_t>(counted_from); i < scores_[text].size(); ++i) {
      score.loss_nats += scores_[text][i].loss_nats;
      score.likeliest = score.likeliest && scores_[text][i].likeliest;
    }
    return score;
  }

 private:
  std::vector<std::vector<TokenScore>> scores_;
};

void count(const std::vector<TaskItem>& items, const std::vector<EncodedItem>& texts,
           const TextScores& scores, TaskKind kind, TaskResult& result) {
  std::map<std::string, TaskGroup> groups;
  size_t text = 0;
  for (const TaskItem& item : items) {
    const TextScore good = scores.of(text, texts[text].counted_from);
    const bool correct =
        kind == TaskKind::kLambada
            ? good.likeliest
            : good.loss_nats < scores.of(text + 1, texts[text + 1].counted_from).loss_nats;
    text += item.texts.size();
    result.target_loss_nats += good.loss_nats / static_cast<double>(items.size());
    TaskGroup& group = groups[item.group];
    for (TaskGroup* counted : {&group, &result.all}) {
      ++counted->items;
      counted->correct += correct ? 1 : 0;
    }
  }
  if (kind == TaskKind::kLambada) return;
  for (auto& [name, group] : groups) {
    group.name = name;
    result.groups.push_back(group);
  }
}

}  // namespace

TaskResult run_task(Engine& engine, const std::vector<TaskItem>& items, TaskKind kind,
                    RoutingPolicy& policy, int batch,
                    const std::function<void(int64_t done, int64_t total)>& progress) {
  const auto start = std::chrono::steady_clock::now();
  if (items.empty()) throw InvalidArgument("a task must have items");
  const int32_t first = first_token(engine);
  std::vector<EncodedItem> texts;
  for (const TaskItem& item : items)
    for (const std::string& text : item.texts)
      texts.push_back(encode(engine.tokenizer, first, text, item.counted_from));
  TaskResult result;
  std::vector<ScoredSequence> sequences;
  size_t longest = 0;
  for (const EncodedItem& text : texts) {
    sequences.push_back({text.tokens, text.counted_from});
    longest = std::max(longest, text.tokens.size());
    result.tokens += static_cast<int64_t>(text.tokens.size()) - 1;
  }
  PlanStatistics statistics(engine.charge);
  TextScores scores(texts);
  Lockstep lockstep(engine.model, engine.pool, batch, static_cast<int64_t>(longest));
  lockstep.run(
      sequences,
      {.policy = &policy,
       .observer = &statistics,
       .layouts = engine.variants.layouts(),
       .prices = nullptr},
      [&scores](const TokenScore& token) { scores.take(token); },
      [&](int64_t done) {
        if (progress) progress(done, result.tokens);
      });
  static_cast<PlanSummary&>(result) = statistics.summary();
  result.mean_batch = statistics.mean_tokens();
  count(items, texts, scores, kind, result);
  const double accuracy = result.all.accuracy();
  result.accuracy_standard_error =
      std::sqrt(accuracy * (1 - accuracy) / static_cast<double>(result.all.items));
  result.wall_s = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return result;
}

}  // namespace thermoe::app
