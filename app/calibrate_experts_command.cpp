// thermoe calibrate-experts: measures a model's experts on a little text.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <memory>
#include <nlohmann/json.hpp>

#include "calibration_text.h"
#include "commands.h"
#include "engine.h"
#include "paths.h"
#include "progress.h"
#include "table.h"
#include "thermoe/calibrate_experts.h"

namespace thermoe::app {
namespace {

struct ExpertCalibrationOptions {
  EngineOptions engine;
  std::vector<std::string> texts;
  std::string out, json;
  int64_t tokens = 2048;
  CalibrationSettings settings;
};

// What people look at first in one layer.
struct LayerSummary {
  size_t layer = 0;
  float norm_min = 0, norm_mean = 0, norm_max = 0;
  float similarity_mean = 0, similarity_max = 0;  // of different experts
  size_t alike_a = 0, alike_b = 0;                // the most similar pair
  float load_max = 0;                             // the largest load, of the mean load
  int unused = 0;                                 // experts that no token chose
};

LayerSummary summary_of(const LayerCalibration& layer, size_t number) {
  LayerSummary summary;
  summary.layer = number;
  const size_t experts = layer.output_norm.size();
  const auto [least, most] =
      std::minmax_element(layer.output_norm.begin(), layer.output_norm.end());
  summary.norm_min = *least;
  summary.norm_max = *most;
  summary.similarity_max = -1;
  double norms = 0, similarities = 0;
  for (size_t a = 0; a < experts; ++a) {
    norms += layer.output_norm[a];
    summary.load_max = std::max(summary.load_max, layer.load_frac[a] * static_cast<float>(experts));
    summary.unused += layer.load_frac[a] == 0 ? 1 : 0;
    for (size_t b = a + 1; b < experts; ++b) {
      const float similarity = layer.similarity[a * experts + b];
      similarities += similarity;
      if (similarity <= summary.similarity_max) continue;
      summary.similarity_max = similarity;
      summary.alike_a = a;
      summary.alike_b = b;
    }
  }
  const double count = static_cast<double>(experts);
  summary.norm_mean = static_cast<float>(norms / count);
  summary.similarity_mean =
      static_cast<float>(similarities / std::max(1.0, count * (count - 1) / 2));
  return summary;
}

std::vector<LayerSummary> summaries_of(const ExpertCalibration& calibration) {
  std::vector<LayerSummary> summaries;
  for (size_t l = 0; l < calibration.layers.size(); ++l)
    if (!calibration.layers[l].output_norm.empty())
      summaries.push_back(summary_of(calibration.layers[l], l));
  return summaries;
}

std::string to_table(const std::vector<LayerSummary>& summaries) {
  Table table;
  table.header = {"layer",
                  "least norm",
                  "mean",
                  "largest",
                  "mean similarity",
                  "most alike",
                  "their similarity",
                  "largest load / mean",
                  "unused"};
  for (const LayerSummary& s : summaries)
    table.rows.push_back({fmt::format("{}", s.layer), fmt::format("{:.4g}", s.norm_min),
                          fmt::format("{:.4g}", s.norm_mean), fmt::format("{:.4g}", s.norm_max),
                          fmt::format("{:.3f}", s.similarity_mean),
                          fmt::format("{} and {}", s.alike_a, s.alike_b),
                          fmt::format("{:.3f}", s.similarity_max),
                          fmt::format("{:.2f}", s.load_max), fmt::format("{}", s.unused)});
  return table.text();
}

nlohmann::ordered_json to_json(const ExpertCalibrationOptions& options,
                               const ExpertCalibration& calibration,
                               const std::vector<LayerSummary>& summaries, double wall_s) {
  nlohmann::ordered_json layers = nlohmann::ordered_json::array();
  for (const LayerSummary& s : summaries)
    layers.push_back({{"layer", s.layer},
                      {"output_norm_min", s.norm_min},
                      {"output_norm_mean", s.norm_mean},
                      {"output_norm_max", s.norm_max},
                      {"similarity_mean", s.similarity_mean},
                      {"similarity_max", s.similarity_max},
                      {"most_similar", {s.alike_a, s.alike_b}},
                      {"load_max_of_mean", s.load_max},
                      {"unused_experts", s.unused}});
  return {{"model", calibration.model},
          {"texts", options.texts},
          {"out", options.out},
          {"tokens", calibration.tokens},
          {"similarity_tokens", calibration.similarity_tokens},
          {"experts", calibration.experts},
          {"top_k", calibration.top_k},
          {"layers", layers},
          {"wall_s", wall_s}};
}

void run_calibrate(ExpertCalibrationOptions& options) {
  options.engine.calibrated = false;  // it makes one: what lies there must not stand in the way
  Engine engine(options.engine);
  const auto texts = read_beginnings(engine.tokenizer, options.texts, options.tokens);
  const auto start = std::chrono::steady_clock::now();
  auto progress =
      std::make_unique<Progress>("calibrate", static_cast<double>(options.tokens), "tokens");
  options.settings.progress = [&progress](int64_t done, int64_t) {
    progress->update(static_cast<double>(done));
  };
  ExpertCalibration calibration =
      calibrate_experts(engine.model, texts, engine.pool, options.settings);
  progress.reset();
  const double wall_s =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  calibration.model = model_name(engine.checkpoint.directory());
  calibration.save(options.out);
  const auto summaries = summaries_of(calibration);
  if (!options.json.empty())
    write_file(options.json, to_json(options, calibration, summaries, wall_s).dump(2) + "\n");
  if (options.json != "-") {
    fmt::print("{}", to_table(summaries));
    fmt::print(
        "\n{} tokens, every expert on {} of them, in {:.1f} s. Wrote {}: give it with "
        "--calibration, or put it into the model's directory as {}.\n",
        calibration.tokens, calibration.similarity_tokens, wall_s, options.out, kCalibrationFile);
  }
}

}  // namespace

void add_calibrate_experts_command(CLI::App& program) {
  const auto options = std::make_shared<ExpertCalibrationOptions>();
  CLI::App* command = program.add_subcommand(
      "calibrate-experts",
      "Measure a model's experts by running it over a little text: their loads, the norms of "
      "their outputs, and how alike those are. Policies that need it read the file it writes");
  options->engine.add_model_to(*command);
  command->add_option("--text", options->texts, "text files (UTF-8)")->required();
  command->add_option("--out", options->out, "write the calibration to this file")->required();
  command
      ->add_option("--tokens", options->tokens,
                   "tokens to run over, from the beginnings of the texts, as many from each")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 30))
      ->capture_default_str();
  command
      ->add_option("--similarity-tokens", options->settings.similarity_tokens,
                   "of these tokens, how many every expert runs on, to compare their outputs: what "
                   "a large model's calibration takes longest for")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 30))
      ->capture_default_str();
  command->add_option("--context", options->settings.context, "tokens of a window")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  command->add_option("--json", options->json,
                      "write a summary as JSON to this file; - for stdout");
  command->callback([options] { run_calibrate(*options); });
}

}  // namespace thermoe::app
