// thermoe frontier: every policy over its knobs, quality against cost.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <array>
#include <cstdio>
#include <memory>

#include "commands.h"
#include "frontier_report.h"
#include "frontier_study.h"
#include "paths.h"
#include "progress.h"
#include "thermoe/error.h"

namespace thermoe::app {
namespace {

// Of top-k's bytes: what experts in bf16 are compared at, and what quantised ones reach besides:
// the last is all of them in int8, 0.27 in int4.
constexpr std::array kPlainLevels{0.6, 0.7, 0.8, 0.9};
constexpr std::array kQuantizedLevels{0.15, 0.2, 0.27, 0.3, 0.35, 0.4, 0.45, 0.52};
constexpr int64_t kContext = 512;  // the shipped models' training context

struct FrontierOptions {
  EngineOptions engine;
  std::vector<std::string> texts, policies, variants;
  std::vector<int> batches{1, 4, 16, 64};
  std::string base;
  std::string out, context = std::to_string(kContext), part = "1/1", json;
  int64_t max_tokens = 0;
};

FrontierSettings settings_of(const FrontierOptions& options) {
  FrontierSettings settings;
  settings.texts.assign(options.texts.begin(), options.texts.end());
  settings.batches = options.batches;
  settings.max_tokens = options.max_tokens;
  settings.part = TextPart::parse(options.part);
  settings.variants = options.variants;
  for (const std::string& list : settings.variants) parse_precisions(list);
  settings.choose_context = options.context == "auto";
  settings.context = kContext;
  if (!settings.choose_context) {
    try {
      settings.context =
          CLI::detail::lexical_cast(options.context, settings.context) ? settings.context : 0;
    } catch (const std::exception&) {
      settings.context = 0;
    }
    if (settings.context < 1)
      throw InvalidArgument(fmt::format(
          "--context {}: give the tokens of a window, 1 or more, or auto", options.context));
  }
  return settings;
}

// What was typed, so that a result says how to make it again.
std::string command_line() {
  std::string text;
  try {
    text = read_file("/proc/self/cmdline");
  } catch (const IoError&) {
    return text;
  }
  while (!text.empty() && text.back() == '\0') text.pop_back();
  std::replace(text.begin(), text.end(), '\0', ' ');
  return text;
}

// Of the checkout that the program belongs to; empty where it is none.
std::string commit() {
  std::string root;
  try {
    root = shipped("data").parent_path().string();
  } catch (const IoError&) {
    return "";
  }
  if (root.find('\'') != std::string::npos) return "";
  const std::string command =
      fmt::format("git -C '{}' describe --always --dirty --abbrev=12 2>/dev/null", root);
  FILE* pipe = popen(command.c_str(), "r");
  if (pipe == nullptr) return "";
  std::array<char, 128> line{};
  const size_t size = std::fread(line.data(), 1, line.size() - 1, pipe);
  std::string text(line.data(), size);
  const bool known = pclose(pipe) == 0;
  while (!text.empty() && text.back() == '\n') text.pop_back();
  return known ? text : "";
}

nlohmann::ordered_json about(const Engine& engine, const Engine* base,
                             const FrontierSettings& settings, const FrontierStudy& study) {
  nlohmann::ordered_json cells = nlohmann::ordered_json::array();
  for (const FrontierCell& cell : study.cells)
    cells.push_back({{"text", cell.text},
                     {"batch", cell.batch},
                     {"context_tokens", cell.context},
                     {"windows", cell.windows},
                     {"tokens", cell.windows * cell.context}});
  nlohmann::ordered_json json{{"model", model_name(engine.checkpoint.directory())},
                              {"device", engine.on_gpu() ? "cuda" : "cpu"},
                              {"base", nullptr},
                              {"reference_variants", study.reference},
                              {"quantized_charge", "as a bf16 kernel that reads as many bytes"},
                              {"experts", engine.model.config().experts},
                              {"top_k", engine.model.config().top_k},
                              {"cost_shape", engine.cost.shape().name},
                              {"cost_device", engine.cost.device()},
                              {"calibrated", engine.calibration.has_value()},
                              {"part", fmt::format("{}/{}", settings.part.index, settings.part.of)},
                              {"max_tokens", settings.max_tokens},
                              {"texts", cells},
                              {"commit", nullptr},
                              {"command_line", command_line()},
                              {"rows_resumed", study.resumed},
                              {"wall_s", study.wall_s}};
  if (base != nullptr) json["base"] = model_name(base->checkpoint.directory());
  if (const std::string known = commit(); !known.empty()) json["commit"] = known;
  return json;
}

// What the settings' rows can be compared at.
std::vector<double> levels_of(const FrontierStudy& study) {
  bool plain = false, quantized = false;
  for (const FrontierRow& row : study.rows) {
    quantized = quantized || row.variants != "bf16";
    plain = plain || (row.variants == "bf16" && row.specification != "topk");
  }
  std::vector<double> levels;
  if (quantized) levels.insert(levels.end(), kQuantizedLevels.begin(), kQuantizedLevels.end());
  if (plain || !quantized) levels.insert(levels.end(), kPlainLevels.begin(), kPlainLevels.end());
  return levels;
}

FrontierReport report_of(const Engine& engine, const Engine* base, const FrontierSettings& settings,
                         const FrontierStudy& study) {
  FrontierReport report;
  report.about = about(engine, base, settings, study);
  report.reference = study.reference;
  report.title = fmt::format("{}: quality against bytes of experts read, mean over {} text{}",
                             model_name(engine.checkpoint.directory()), settings.texts.size(),
                             settings.texts.size() == 1 ? "" : "s");
  report.points = pair_with_top_k(study.rows, study.reference);
  report.means = mean_over_texts(report.points);
  report.levels = compare(report.means, levels_of(study));
  return report;
}

// One sweep a batch size: the same where it was asked for, else what that size has use for.
std::vector<std::vector<SweptPolicy>> sweeps_of(const FrontierOptions& options,
                                                const Engine& engine) {
  const ModelConfig& config = engine.model.config();
  const bool precisions =
      options.variants.empty()
          ? engine.variants.choice()
          : std::any_of(options.variants.begin(), options.variants.end(),
                        [](const auto& list) { return parse_precisions(list).size() > 1; });
  std::vector<std::vector<SweptPolicy>> sweeps;
  for (const int batch : options.batches)
    sweeps.push_back(options.policies.empty()
                         ? default_sweep(config.experts, config.top_k, batch,
                                         engine.calibration.has_value(), precisions)
                         : read_sweep(options.policies));
  return sweeps;
}

void run_frontier_command(const FrontierOptions& options) {
  const FrontierSettings settings = settings_of(options);
  if (!options.policies.empty()) read_sweep(options.policies);  // before the model is opened
  EngineOptions own = options.engine;
  for (const std::string& list : options.variants)
    own.fp8 = own.fp8 || list.find("fp8") != std::string::npos;
  Engine engine(own);
  std::unique_ptr<Engine> base;
  if (!options.base.empty()) {
    EngineOptions plain = options.engine;
    plain.model = options.base;
    plain.calibrated = false;
    base = std::make_unique<Engine>(plain);
  }
  const auto sweeps = sweeps_of(options, engine);
  std::unique_ptr<Progress> progress;
  const FrontierStudy study = run_frontier(
      engine, settings, sweeps, options.out + ".partial.jsonl",
      [&progress](int64_t done, int64_t total) {
        if (!progress)
          progress = std::make_unique<Progress>("frontier", static_cast<double>(total), "tokens");
        progress->update(static_cast<double>(done));
      },
      base.get());
  progress.reset();
  const FrontierReport report = report_of(engine, base.get(), settings, study);
  const std::string json = to_json(report).dump(1) + "\n";
  write_file(options.out + ".csv", to_csv(report));
  write_file(options.out + ".json", json);
  write_file(options.out + ".svg", to_svg(report));
  if (!options.json.empty()) write_file(options.json, json);
  if (options.json == "-") return;
  fmt::print(
      "Cross-entropy minus top-k's in {}, nats/token, at equal bytes of experts read (of top-k's):"
      "\n\n{}{} points, {} of them from an earlier run; {}.csv, .json and .svg written\n",
      report.reference, to_table(report), report.points.size(), study.resumed, options.out);
}

}  // namespace

void add_frontier_command(CLI::App& program) {
  const auto options = std::make_shared<FrontierOptions>();
  CLI::App* command = program.add_subcommand(
      "frontier",
      "Quality against cost of every routing policy over its knobs, on text. Can be broken off: "
      "the same command goes on where it was");
  options->engine.add_to(*command);
  options->engine.add_device_to(*command);
  command->add_option("--text", options->texts, "text files (UTF-8), each evaluated by itself")
      ->required();
  command
      ->add_option("--batch", options->batches, "windows that decode together, one or more sizes")
      ->delimiter(',')
      ->check(CLI::Range(1, 65536))
      ->capture_default_str();
  command->add_option(
      "--policies", options->policies,
      "settings, or files of them, a line each: oea:k0=2..7 is a range, "
      "adaptive:open=0.01,0.02 a list; default: every policy over its useful range");
  command->add_option(
      "--variants", options->variants,
      std::string(kVariantsHelp) + "; given several times, every policy runs with each list");
  command->add_option(
      "--base", options->base,
      "the plain checkpoint that the model was quantised from: its top-k in bf16 is "
      "what all is compared with");
  command
      ->add_option("--out", options->out,
                   "prefix of the files written: .csv, .json, .svg and, "
                   "as it goes, .partial.jsonl")
      ->required();
  command
      ->add_option("--context", options->context,
                   "tokens of a window; auto: 512, or fewer where one batch needs it")
      ->capture_default_str();
  command
      ->add_option("--max-tokens", options->max_tokens,
                   "tokens of each text at each point, in whole batches; 0: all")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command
      ->add_option("--part", options->part,
                   "I/N: the I-th of N equal parts of each text, to tune on one and report on "
                   "another")
      ->capture_default_str();
  command->add_option("--json", options->json,
                      "write the JSON to this file too; - for stdout, instead of the table");
  command->callback([options] { run_frontier_command(*options); });
}

}  // namespace thermoe::app
