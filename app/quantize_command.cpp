// thermoe quantize: a checkpoint whose experts run in int8 or in int4, from one stored copy.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <charconv>
#include <chrono>
#include <memory>
#include <nlohmann/json.hpp>

#include "calibration_text.h"
#include "commands.h"
#include "engine.h"
#include "paths.h"
#include "progress.h"
#include "table.h"
#include "thermoe/error.h"
#include "thermoe/quantize_checkpoint.h"

namespace thermoe::app {
namespace {

struct QuantizeOptions {
  std::string model, out, json;
  std::vector<std::string> texts, keep;
  int64_t tokens = 8192;
  int threads = 0;
  QuantizeSettings settings;
};

// "LAYER:EXPERT".
std::pair<int, int> parse_kept(const std::string& text) {
  std::pair<int, int> kept;
  const char* const end = text.data() + text.size();
  const auto layer = std::from_chars(text.data(), end, kept.first);
  if (layer.ec == std::errc() && layer.ptr != end && *layer.ptr == ':') {
    const auto expert = std::from_chars(layer.ptr + 1, end, kept.second);
    if (expert.ec == std::errc() && expert.ptr == end) return kept;
  }
  throw InvalidArgument(
      fmt::format("--keep {}: give LAYER:EXPERT, such as 0:5 for expert 5 of layer 0", text));
}

std::string error_cell(float error) { return fmt::format("{:.3g}", error); }

std::string to_table(const QuantizeResult& result) {
  Table table;
  table.header = {"layer", "experts", "int8 error", "largest", "int4 error", "largest"};
  for (const QuantizedLayer& layer : result.layers)
    table.rows.push_back({fmt::format("{}", layer.layer), fmt::format("{}", layer.experts),
                          error_cell(layer.int8_error_mean), error_cell(layer.int8_error_max),
                          error_cell(layer.int4_error_mean), error_cell(layer.int4_error_max)});
  return table.text();
}

nlohmann::ordered_json to_json(const QuantizeOptions& options, const QuantizeResult& result,
                               double wall_s) {
  nlohmann::ordered_json layers = nlohmann::ordered_json::array();
  for (const QuantizedLayer& layer : result.layers)
    layers.push_back({{"layer", layer.layer},
                      {"experts", layer.experts},
                      {"int8_error_frac_mean", layer.int8_error_mean},
                      {"int8_error_frac_max", layer.int8_error_max},
                      {"int4_error_frac_mean", layer.int4_error_mean},
                      {"int4_error_frac_max", layer.int4_error_max}});
  return {{"model", model_name(options.model)},
          {"out", options.out},
          {"calibration_texts", options.texts},
          {"calibration_tokens", result.calibration_tokens},
          {"plane_ratio", options.settings.plane_ratio},
          {"experts", result.experts},
          {"kept_experts", result.kept_experts},
          {"stored_expert_bytes", result.stored_expert_bytes},
          {"expert_bytes", result.expert_bytes},
          {"checkpoint_bytes", result.checkpoint_bytes},
          {"layers", layers},
          {"wall_s", wall_s}};
}

void run_quantize(QuantizeOptions& options) {
  const auto start = std::chrono::steady_clock::now();
  for (const std::string& text : options.keep) options.settings.keep.push_back(parse_kept(text));
  const Checkpoint source(options.model);
  source.check_finite();
  std::vector<std::vector<int32_t>> texts;
  if (!options.texts.empty())
    texts = read_beginnings(Tokenizer(options.model), options.texts, options.tokens);
  ThreadPool pool(options.threads);
  std::unique_ptr<Progress> progress;
  options.settings.progress = [&progress](int64_t done, int64_t experts) {
    if (!progress)
      progress = std::make_unique<Progress>("quantize", static_cast<double>(experts), "experts");
    progress->update(static_cast<double>(done));
  };
  const QuantizeResult result =
      quantize_checkpoint(source, texts, options.out, pool, options.settings);
  progress.reset();
  const double wall_s =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (!options.json.empty())
    write_file(options.json, to_json(options, result, wall_s).dump(2) + "\n");
  if (options.json == "-") return;
  fmt::print("{}\nErrors: of an expert's output, squared, relative to its square, on {}.\n",
             to_table(result),
             texts.empty() ? "random inputs (give --calibrate TEXT for a better int4, and for "
                             "errors on inputs that experts get)"
                           : "calibration tokens that the rounding did not see");
  fmt::print(
      "{} experts quantised{}, {:.4f} of their bytes before; {:.1f} MB in all; {:.1f} s. "
      "Wrote {}.\n",
      result.experts, result.kept_experts > 0 ? fmt::format(", {} kept", result.kept_experts) : "",
      static_cast<double>(result.expert_bytes) / static_cast<double>(result.stored_expert_bytes),
      static_cast<double>(result.checkpoint_bytes) / 1e6, wall_s, options.out);
}

}  // namespace

void add_quantize_command(CLI::App& program) {
  const auto options = std::make_shared<QuantizeOptions>();
  CLI::App* command = program.add_subcommand(
      "quantize",
      "Write a checkpoint whose experts are stored once, as two 4-bit planes: read both for int8, "
      "the first alone for int4");
  command->add_option("--model", options->model, "the dense checkpoint's directory")->required();
  command->add_option("--out", options->out, "directory to write; must not exist")->required();
  command->add_option("--calibrate", options->texts,
                      "text files (UTF-8) whose beginnings the model runs over, to round for the "
                      "inputs that experts get, and to measure each expert's error");
  command->add_option("--tokens", options->tokens, "of calibration, as many from each text")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 30))
      ->capture_default_str();
  command->add_option("--context", options->settings.context, "tokens of a calibration window")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  command->add_option("--keep", options->keep, "LAYER:EXPERT,...: experts to keep as stored")
      ->delimiter(',');
  command
      ->add_option("--plane-ratio", options->settings.plane_ratio,
                   "steps of the second plane in one of the first; 16: no overlap, int8 a little "
                   "finer and int4 coarser")
      ->check(CLI::Range(1, 16))
      ->capture_default_str();
  command->add_option("--threads", options->threads, "CPU threads; default: one per core")
      ->check(CLI::Range(0, 1024));
  command->add_option("--json", options->json,
                      "write a summary as JSON to this file; - for stdout");
  command->callback([options] { run_quantize(*options); });
}

}  // namespace thermoe::app
