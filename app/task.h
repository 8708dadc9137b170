// Tasks: second measures of quality, counted in answers. Items decode in lockstep as text does.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "engine.h"
#include "lockstep.h"
#include "plan_statistics.h"

namespace thermoe::app {

enum class TaskKind {
  kBlimp,    // of two sentences the grammatical one is the likelier (Warstadt et al. 2020)
  kLambada,  // the last word of a passage is foretold (Paperno et al. 2016)
};

struct Task {
  TaskKind kind = TaskKind::kBlimp;
  std::filesystem::path file;
  // Of "blimp:FILE" or "lambada:FILE". Throws InvalidArgument listing what is known.
  static Task parse(const std::string& text);
  const char* name() const { return kind == TaskKind::kBlimp ? "blimp" : "lambada"; }
};

// One question. BLiMP: texts are the good and the bad sentence, all of which count. LAMBADA: one
// text, of which the bytes from `counted_from` on count.
struct TaskItem {
  std::string group;  // BLiMP's paradigm; LAMBADA: empty
  std::vector<std::string> texts;
  size_t counted_from = 0;
};

// The items of a file of JSON lines, plain or gzipped: {"paradigm", "good", "bad"} or {"text"}.
// Throws IoError naming file and line: not there, cut off, not JSON, a field missing, no item.
std::vector<TaskItem> read_task(const Task& task);

struct TaskGroup {
  std::string name;
  int64_t items = 0, correct = 0;
  double accuracy() const { return static_cast<double>(correct) / static_cast<double>(items); }
};

struct TaskResult : PlanSummary {
  TaskGroup all;
  std::vector<TaskGroup> groups;       // by name; none where items have none
  double accuracy_standard_error = 0;  // of `all`, binomial
  double target_loss_nats = 0;         // mean of an item's -log probability (BLiMP: the good one's)
  double mean_batch = 0;               // sequences that routed together, on average
  int64_t tokens = 0;                  // fed to the model
  double wall_s = 0;
};

// Runs `batch` texts at a time, in the file's order. Every text follows the token that begins a
// document (the configuration's bos, else its first eos): so its own first token counts too. An
// answer is right where the good sentence's probability is the higher, or where each token of the
// last word is the likeliest. Throws InvalidArgument where the model has no such token or a text
// none.
TaskResult run_task(Engine& engine, const std::vector<TaskItem>& items, TaskKind kind,
                    RoutingPolicy& policy, int batch,
                    const std::function<void(int64_t done, int64_t total)>& progress = nullptr);

}  // namespace thermoe::app
