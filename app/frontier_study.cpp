#include "frontier_study.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <deque>
#include <fstream>
#include <map>
#include <memory>
#include <set>

#include "frontier_log.h"
#include "paths.h"
#include "thermoe/error.h"

namespace fs = std::filesystem;

namespace thermoe::app {
namespace {

// FNV-1a, 64 bits: tells files apart that were mistaken for one another, not forged ones.
std::string fingerprint(std::string_view bytes) {
  uint64_t hash = 0xCBF29CE484222325u;
  for (const char byte : bytes) hash = (hash ^ static_cast<uint8_t>(byte)) * 0x100000001B3u;
  return fmt::format("{:016x}", hash);
}

// Of the configuration, the tokenizer, and each shard's name, size and last bytes: a model trained
// anew differs there, and a large one need not be read again.
std::string model_fingerprint(const fs::path& directory) {
  constexpr int64_t kTailBytes = 4096;
  std::string told = read_file(directory / "config.json") + read_file(directory / "tokenizer.json");
  std::set<fs::path> shards;
  for (const auto& entry : fs::directory_iterator(directory))
    if (entry.path().extension() == ".safetensors") shards.insert(entry.path());
  for (const fs::path& shard : shards) {
    const int64_t size = static_cast<int64_t>(fs::file_size(shard));
    std::string tail(static_cast<size_t>(std::min(size, kTailBytes)), '\0');
    std::ifstream file(shard, std::ios::binary);
    file.seekg(size - static_cast<int64_t>(tail.size()));
    file.read(tail.data(), static_cast<std::streamsize>(tail.size()));
    told += fmt::format("{} {} ", shard.filename().string(), size) + tail;
  }
  return fingerprint(told);
}

std::string fingerprint_of(const ExpertCalibration& calibration) {
  std::string told;
  const auto tell = [&told](const std::vector<float>& values) {
    told.append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float));
  };
  for (const LayerCalibration& layer : calibration.layers)
    for (const auto* values :
         {&layer.load_frac, &layer.output_norm, &layer.output_square, &layer.similarity})
      tell(*values);
  return fingerprint(told);
}

struct Texts {
  std::vector<std::string> names;
  std::vector<EncodedText> texts;
  std::vector<std::string> fingerprints;
};

Texts read_texts(const Tokenizer& tokenizer, const FrontierSettings& settings) {
  Texts texts;
  for (const fs::path& file : settings.texts) {
    const std::string name = file.filename().string();
    if (std::find(texts.names.begin(), texts.names.end(), name) != texts.names.end())
      throw InvalidArgument(
          fmt::format("two texts are called {}: rows are told apart by it, so rename one", name));
    texts.names.push_back(name);
    texts.texts.push_back(read_text(tokenizer, file));
    texts.fingerprints.push_back(fingerprint(read_file(file)));
  }
  return texts;
}

// All that a row depends on and that is not in the row itself.
nlohmann::ordered_json log_settings(const Engine& engine, const Engine* base,
                                    const FrontierSettings& settings, const Texts& texts) {
  nlohmann::ordered_json named = nlohmann::ordered_json::object();
  for (size_t t = 0; t < texts.names.size(); ++t) named[texts.names[t]] = texts.fingerprints[t];
  return {{"schema", "thermoe-frontier-log-3"},
          {"device", engine.on_gpu() ? "cuda" : "cpu"},
          {"model", model_name(engine.checkpoint.directory())},
          {"model_fingerprint", model_fingerprint(engine.checkpoint.directory())},
          {"base_fingerprint",
           base != nullptr ? model_fingerprint(base->checkpoint.directory()) : "none"},
          {"texts", named},
          {"context_tokens", settings.context},
          {"context_is_chosen", settings.choose_context},
          {"max_tokens", settings.max_tokens},
          {"part", fmt::format("{}/{}", settings.part.index, settings.part.of)},
          {"calibration", engine.calibration ? fingerprint_of(*engine.calibration) : "none"},
          {"cost_shape", engine.cost.shape().name},
          {"cost_device", engine.cost.device()}};
}

// One setting with one list of variants, on one engine's model.
struct Job {
  Engine* engine = nullptr;
  const Charge* charge = nullptr;
  std::string specification;

  const std::string& variants() const { return charge->variants().name(); }
};

FrontierRow measure(Lockstep& lockstep, const Job& job, const TextWindows& windows,
                    const FrontierCell& cell, const std::function<void(int64_t)>& progress) {
  EvaluationSettings evaluation;
  evaluation.batch = cell.batch;
  evaluation.max_windows = cell.windows;
  evaluation.progress = [&progress](int64_t done, int64_t) { progress(done); };
  const auto policy = make_routing_policy(job.specification, job.engine->policy_context());
  const EvaluationResult result = evaluate(lockstep, windows, *policy, *job.charge, evaluation);
  return {.text = cell.text,
          .batch = cell.batch,
          .context = cell.context,
          .tokens = result.tokens,
          .specification = job.specification,
          .variants = job.variants(),
          .cross_entropy_nats = result.cross_entropy_nats,
          .plans = static_cast<const PlanSummary&>(result),
          .wall_s = result.wall_s,
          .window_losses_nats = window_losses(result, cell.batch, cell.context)};
}

// The lists of variants, each with what its plans are charged.
class Lists {
 public:
  Lists(const Engine& engine, const std::vector<std::string>& asked) {
    const std::string directory = engine.checkpoint.directory().string();
    for (const std::string& list : asked.empty() ? std::vector<std::string>{""} : asked) {
      lists_.emplace_back(engine, list, directory);
      for (size_t l = 0; l + 1 < lists_.size(); ++l)
        if (lists_[l].variants.name() == lists_.back().variants.name())
          throw InvalidArgument(
              fmt::format("--variants {} is given twice", lists_[l].variants.name()));
    }
  }
  struct List {
    List(const Engine& engine, const std::string& list, const std::string& directory)
        : variants(engine.model.variants(), list, directory),
          charge(engine.cost, engine.model.config(), variants) {}
    Variants variants;
    Charge charge;
  };
  const std::deque<List>& all() const { return lists_; }

 private:
  std::deque<List> lists_;  // charges point to their variants: nothing may move
};

std::string reference_of(const Lists& lists, const Engine* base) {
  const bool plain = base != nullptr || std::any_of(lists.all().begin(), lists.all().end(),
                                                    [](const Lists::List& list) {
                                                      return list.variants.name() == "bf16";
                                                    });
  return plain ? "bf16" : lists.all().front().variants.name();
}

// What one cell measures, in the order of the rows.
std::vector<Job> jobs_of(Engine& engine, Engine* base, const Lists& lists,
                         const std::vector<SweptPolicy>& sweep) {
  std::vector<Job> jobs;
  if (base != nullptr) jobs.push_back({base, &base->charge, "topk"});
  for (const Lists::List& list : lists.all())
    for (const SweptPolicy& swept : sweep) {
      const bool there = base != nullptr && swept.specification == "topk" &&
                         list.variants.name() == base->variants.name();
      if (there || (needs_choice(swept.specification) && !list.variants.choice())) continue;
      jobs.push_back({&engine, &list.charge, swept.specification});
    }
  return jobs;
}

// Every setting on the first MoE layer of every list that it is run with; on none where that is so.
void check_jobs(const Engine& engine, const Lists& lists, const std::vector<SweptPolicy>& sweep,
                int batch) {
  const ModelConfig& config = engine.model.config();
  const int layer = static_cast<int>(std::find(config.sparse.begin(), config.sparse.end(), true) -
                                     config.sparse.begin());
  const auto check = [&](const std::vector<SweptPolicy>& settings, const ExpertLayout* layout) {
    check_sweep(settings, config.experts, config.top_k, batch, engine.policy_context(), layout,
                layer);
  };
  std::vector<SweptPolicy> choosing, others;
  for (const SweptPolicy& swept : sweep)
    (needs_choice(swept.specification) ? choosing : others).push_back(swept);
  bool chosen = false;
  for (const Lists::List& list : lists.all()) {
    const bool choice = list.variants.choice();
    check(others, choice ? list.variants.layout(layer) : nullptr);
    if (choice) check(choosing, list.variants.layout(layer));
    chosen = chosen || choice;
  }
  if (!chosen) check(choosing, nullptr);
}

void check_base(const Engine& engine, const Engine& base) {
  const ModelConfig& own = engine.model.config();
  const ModelConfig& other = base.model.config();
  if (base.variants.name() != "bf16")
    throw InvalidArgument(
        fmt::format("--base {}: its experts are quantised: give the checkpoint "
                    "that the model was quantised from",
                    base.checkpoint.directory().string()));
  if (engine.variants.name() == "bf16")
    throw InvalidArgument(
        "--base: the model's own experts are in bf16, so its own top-k is the reference: leave "
        "--base out");
  if (own.layers != other.layers || own.experts != other.experts || own.top_k != other.top_k ||
      own.hidden_size != other.hidden_size || own.vocab_size != other.vocab_size ||
      read_file(engine.checkpoint.directory() / "tokenizer.json") !=
          read_file(base.checkpoint.directory() / "tokenizer.json"))
    throw InvalidArgument(fmt::format(
        "--base {}: is another model than {}: give the checkpoint that it was quantised "
        "from",
        base.checkpoint.directory().string(), engine.checkpoint.directory().string()));
}

// Cells of one batch size share the key-value caches, one for each model.
class CellRunner {
 public:
  explicit CellRunner(const std::vector<FrontierCell>& cells) : cells_(cells) {}

  Lockstep& lockstep(Engine& engine, int batch) {
    if (batch_ != batch) locksteps_.clear();  // the old caches go before the new ones come
    batch_ = batch;
    auto& own = locksteps_[&engine];
    if (!own) {
      int64_t context = 0;
      for (const FrontierCell& cell : cells_)
        if (cell.batch == batch) context = std::max(context, cell.context);
      own = std::make_unique<Lockstep>(engine.model, engine.pool, batch, context + 1);
    }
    return *own;
  }

 private:
  const std::vector<FrontierCell>& cells_;
  int batch_ = 0;
  std::map<Engine*, std::unique_ptr<Lockstep>> locksteps_;
};

}  // namespace

FrontierCell plan_cell(const FrontierSettings& settings, const std::string& text,
                       int64_t part_tokens, int batch) {
  // Of n tokens n - 1 are inputs: the last one is only a target.
  int64_t inputs = part_tokens - 1;
  if (settings.max_tokens > 0) inputs = std::min(inputs, settings.max_tokens);
  int64_t context = settings.context;
  if (settings.choose_context && inputs < context * batch) {
    constexpr int64_t kStep = 32;  // round numbers, where there is room for them
    context = inputs / batch;
    if (context > kStep) context -= context % kStep;
  }
  const int64_t batches = context > 0 ? inputs / (context * batch) : 0;
  if (batches < 1)
    throw InvalidArgument(fmt::format(
        "{}: {} tokens are fewer than one batch of {} windows of {} tokens: give a longer text, a "
        "smaller --batch or --context{}, or --context auto",
        text, std::max<int64_t>(inputs, 0), batch, std::max<int64_t>(context, 1),
        settings.max_tokens > 0 ? " or a larger --max-tokens" : ""));
  return {.text = text, .batch = batch, .context = context, .windows = batches * batch};
}

namespace {

std::vector<FrontierCell> plan_cells(const FrontierSettings& settings, const Texts& texts) {
  std::vector<FrontierCell> cells;
  for (size_t b = 0; b < settings.batches.size(); ++b)
    for (size_t t = 0; t < texts.names.size(); ++t) {
      const int64_t size = static_cast<int64_t>(texts.texts[t].tokens.size());
      const auto [begin, end] = settings.part.bounds(size);
      cells.push_back(plan_cell(settings, texts.names[t], end - begin, settings.batches[b]));
      cells.back().text_index = t;
      cells.back().batch_index = b;
    }
  return cells;
}

int64_t tokens_to_do(const std::vector<FrontierCell>& cells, const FrontierLog& log,
                     const std::vector<std::vector<Job>>& jobs) {
  int64_t tokens = 0;
  for (const FrontierCell& cell : cells)
    for (const Job& job : jobs[cell.batch_index])
      if (log.find(cell.text, cell.batch, job.specification, job.variants()) == nullptr)
        tokens += cell.windows * cell.context;
  return tokens;
}

}  // namespace

FrontierStudy run_frontier(Engine& engine, const FrontierSettings& settings,
                           std::span<const std::vector<SweptPolicy>> sweeps,
                           const std::string& log_path,
                           const std::function<void(int64_t done, int64_t total)>& progress,
                           Engine* base) {
  const auto start = std::chrono::steady_clock::now();
  if (sweeps.size() != settings.batches.size())
    throw InvalidArgument("a frontier needs one sweep for each batch size");
  if (base != nullptr) check_base(engine, *base);
  const Lists lists(engine, settings.variants);
  std::vector<std::vector<Job>> jobs;
  for (size_t b = 0; b < sweeps.size(); ++b) {
    check_jobs(engine, lists, sweeps[b], settings.batches[b]);
    jobs.push_back(jobs_of(engine, base, lists, sweeps[b]));
  }
  const Texts texts = read_texts(engine.tokenizer, settings);
  FrontierStudy study;
  study.reference = reference_of(lists, base);
  study.cells = plan_cells(settings, texts);
  FrontierLog log(log_path, log_settings(engine, base, settings, texts));
  const int64_t total = tokens_to_do(study.cells, log, jobs);
  int64_t done = 0;
  CellRunner runner(study.cells);
  for (const FrontierCell& cell : study.cells) {
    TextWindows windows;
    windows.context = cell.context;
    windows.add(texts.texts[cell.text_index], settings.part);
    for (const Job& job : jobs[cell.batch_index]) {
      if (const FrontierRow* row =
              log.find(cell.text, cell.batch, job.specification, job.variants())) {
        study.rows.push_back(*row);
        ++study.resumed;
        continue;
      }
      study.rows.push_back(measure(runner.lockstep(*job.engine, cell.batch), job, windows, cell,
                                   [&](int64_t tokens) { progress(done + tokens, total); }));
      log.append(study.rows.back());
      done += cell.windows * cell.context;
    }
  }
  study.wall_s = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return study;
}

}  // namespace thermoe::app
