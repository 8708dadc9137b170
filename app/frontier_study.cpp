#include "frontier_study.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <fstream>
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
nlohmann::ordered_json log_settings(const Engine& engine, const FrontierSettings& settings,
                                    const Texts& texts) {
  nlohmann::ordered_json named = nlohmann::ordered_json::object();
  for (size_t t = 0; t < texts.names.size(); ++t) named[texts.names[t]] = texts.fingerprints[t];
  return {{"schema", "thermoe-frontier-log-1"},
          {"model", model_name(engine.checkpoint.directory())},
          {"model_fingerprint", model_fingerprint(engine.checkpoint.directory())},
          {"texts", named},
          {"context_tokens", settings.context},
          {"context_is_chosen", settings.choose_context},
          {"max_tokens", settings.max_tokens},
          {"part", fmt::format("{}/{}", settings.part.index, settings.part.of)},
          {"calibration", engine.calibration ? fingerprint_of(*engine.calibration) : "none"},
          {"cost_shape", engine.cost.shape().name},
          {"cost_device", engine.cost.device()}};
}

FrontierRow measure(Lockstep& lockstep, Engine& engine, const TextWindows& windows,
                    const FrontierCell& cell, const std::string& specification,
                    const std::function<void(int64_t)>& progress) {
  EvaluationSettings evaluation;
  evaluation.batch = cell.batch;
  evaluation.max_windows = cell.windows;
  evaluation.progress = [&progress](int64_t done, int64_t) { progress(done); };
  const auto policy = make_routing_policy(specification, engine.policy_context());
  const EvaluationResult result = evaluate(lockstep, windows, *policy, engine.charge, evaluation);
  return {.text = cell.text,
          .batch = cell.batch,
          .context = cell.context,
          .tokens = result.tokens,
          .specification = specification,
          .cross_entropy_nats = result.cross_entropy_nats,
          .plans = static_cast<const PlanSummary&>(result),
          .wall_s = result.wall_s,
          .window_losses_nats = window_losses(result, cell.batch, cell.context)};
}

// Cells of one batch size share the key-value cache.
class CellRunner {
 public:
  CellRunner(Engine& engine, const std::vector<FrontierCell>& cells)
      : engine_(engine), cells_(cells) {}

  Lockstep& lockstep(int batch) {
    if (!lockstep_ || batch_ != batch) {
      int64_t context = 0;
      for (const FrontierCell& cell : cells_)
        if (cell.batch == batch) context = std::max(context, cell.context);
      lockstep_.reset();  // the old cache goes before the new one comes
      lockstep_ = std::make_unique<Lockstep>(engine_.model, engine_.pool, batch, context + 1);
      batch_ = batch;
    }
    return *lockstep_;
  }

 private:
  Engine& engine_;
  const std::vector<FrontierCell>& cells_;
  int batch_ = 0;
  std::unique_ptr<Lockstep> lockstep_;
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
                     std::span<const std::vector<SweptPolicy>> sweeps) {
  int64_t tokens = 0;
  for (const FrontierCell& cell : cells)
    for (const SweptPolicy& swept : sweeps[cell.batch_index])
      if (log.find(cell.text, cell.batch, swept.specification) == nullptr)
        tokens += cell.windows * cell.context;
  return tokens;
}

}  // namespace

FrontierStudy run_frontier(Engine& engine, const FrontierSettings& settings,
                           std::span<const std::vector<SweptPolicy>> sweeps,
                           const std::string& log_path,
                           const std::function<void(int64_t done, int64_t total)>& progress) {
  const auto start = std::chrono::steady_clock::now();
  const ModelConfig& config = engine.model.config();
  if (sweeps.size() != settings.batches.size())
    throw InvalidArgument("a frontier needs one sweep for each batch size");
  for (size_t b = 0; b < sweeps.size(); ++b)
    check_sweep(sweeps[b], config.experts, config.top_k, settings.batches[b],
                engine.policy_context());
  const Texts texts = read_texts(engine.tokenizer, settings);
  FrontierStudy study;
  study.cells = plan_cells(settings, texts);
  FrontierLog log(log_path, log_settings(engine, settings, texts));
  const int64_t total = tokens_to_do(study.cells, log, sweeps);
  int64_t done = 0;
  CellRunner runner(engine, study.cells);
  for (const FrontierCell& cell : study.cells) {
    TextWindows windows;
    windows.context = cell.context;
    windows.add(texts.texts[cell.text_index], settings.part);
    for (const SweptPolicy& swept : sweeps[cell.batch_index]) {
      if (const FrontierRow* row = log.find(cell.text, cell.batch, swept.specification)) {
        study.rows.push_back(*row);
        ++study.resumed;
        continue;
      }
      study.rows.push_back(measure(runner.lockstep(cell.batch), engine, windows, cell,
                                   swept.specification,
                                   [&](int64_t tokens) { progress(done + tokens, total); }));
      log.append(study.rows.back());
      done += cell.windows * cell.context;
    }
  }
  study.wall_s = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return study;
}

}  // namespace thermoe::app
