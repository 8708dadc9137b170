// thermoe eval: quality and cost of a policy on text.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>
#include <nlohmann/json.hpp>

#include "commands.h"
#include "engine.h"
#include "evaluation.h"
#include "paths.h"
#include "progress.h"
#include "table.h"
#include "task_report.h"
#include "thermoe/error.h"
#include "thermoe/routing_policies.h"

namespace thermoe::app {
namespace {

struct EvalOptions {
  EngineOptions engine;
  std::vector<std::string> texts;
  std::string policy = "adaptive";
  double open_price = 0, slope_price = 0;
  int batch = 16;
  int64_t context = 512, max_windows = 0;
  std::string json, part = "1/1", task;
};

nlohmann::ordered_json to_json(const EvalOptions& options, const Engine& engine,
                               const EvaluationResult& result) {
  return {{"model", engine.checkpoint.directory().string()},
          {"device", options.engine.device},
          {"texts", options.texts},
          {"policy", options.policy},
          {"variants", engine.variants.name()},
          {"open_price", options.open_price},
          {"slope_price", options.slope_price},
          {"batch", options.batch},
          {"context", options.context},
          {"part", options.part},
          {"cost_shape", engine.cost.shape().name},
          {"cost_device", engine.cost.device()},
          {"tokens", result.tokens},
          {"cross_entropy_nats", result.cross_entropy_nats},
          {"perplexity", result.perplexity()},
          {"bits_per_byte", result.bits_per_byte()},
          {"distinct_experts_mean", result.distinct_experts_mean},
          {"expert_bytes_mean", result.expert_bytes_mean},
          {"expert_bytes_frac", result.expert_bytes_frac},
          {"opened_bf16_frac", result.opened_frac[0]},
          {"opened_int8_frac", result.opened_frac[1]},
          {"opened_int4_frac", result.opened_frac[2]},
          {"opened_fp8_frac", result.opened_frac[3]},
          {"gate_mass_frac", result.gate_mass_frac},
          {"changed_tokens_frac", result.changed_tokens_frac},
          {"predicted_latency_us", result.predicted_latency_us},
          {"predicted_energy_mj", result.predicted_energy_mj},
          {"certificate_gap_frac_median", result.certificate_gap_frac_median},
          {"certificate_gap_frac_p99", result.certificate_gap_frac_p99},
          {"certificate_gap_frac_max", result.certificate_gap_frac_max},
          {"wall_s", result.wall_s}};
}

std::string to_table(const Engine& engine, const EvaluationResult& result) {
  Table table;
  table.header = {"quantity", "value", "unit"};
  const auto row = [&table](const char* name, const std::string& value, const char* unit) {
    table.rows.push_back({name, value, unit});
  };
  row("tokens", fmt::format("{}", result.tokens), "");
  row("cross-entropy", fmt::format("{:.4f}", result.cross_entropy_nats), "nats/token");
  row("perplexity", fmt::format("{:.3f}", result.perplexity()), "");
  row("bits per byte", fmt::format("{:.4f}", result.bits_per_byte()), "bits");
  row("distinct experts", fmt::format("{:.2f}", result.distinct_experts_mean),
      fmt::format("of {}", engine.model.config().experts).c_str());
  row("expert bytes", fmt::format("{:.4f}", result.expert_bytes_frac), "of top-k's in bf16");
  if (engine.variants.choice()) row("experts opened", precisions_text(result.opened_frac), "");
  row("gate mass kept", fmt::format("{:.5f}", result.gate_mass_frac), "of top-k's");
  row("predicted layer latency", fmt::format("{:.1f}", result.predicted_latency_us), "us");
  row("predicted layer energy", fmt::format("{:.1f}", result.predicted_energy_mj), "mJ");
  row("certificate gap, median", fmt::format("{:.2e}", result.certificate_gap_frac_median), "");
  row("certificate gap, 99th percentile", fmt::format("{:.2e}", result.certificate_gap_frac_p99),
      "");
  row("certificate gap, largest", fmt::format("{:.2e}", result.certificate_gap_frac_max), "");
  row("time", fmt::format("{:.1f}", result.wall_s), "s");
  row("speed", fmt::format("{:.0f}", static_cast<double>(result.tokens) / result.wall_s),
      "tokens/s");
  return table.text();
}

void run_task_command(const EvalOptions& options) {
  if (!options.texts.empty())
    throw InvalidArgument("--task brings its own text: give --text or --task, not both");
  const Task task = Task::parse(options.task);
  const std::vector<TaskItem> items = read_task(task);
  Engine engine(options.engine);
  const auto policy = make_routing_policy(options.policy, engine.policy_context());
  std::unique_ptr<Progress> progress;
  const TaskResult result = run_task(
      engine, items, task.kind, *policy, options.batch, [&progress](int64_t done, int64_t total) {
        if (!progress)
          progress = std::make_unique<Progress>("eval", static_cast<double>(total), "tokens");
        progress->update(static_cast<double>(done));
      });
  progress.reset();
  nlohmann::ordered_json json{{"model", engine.checkpoint.directory().string()},
                              {"device", options.engine.device},
                              {"task", options.task},
                              {"policy", options.policy},
                              {"variants", engine.variants.name()},
                              {"batch", options.batch}};
  json.update(to_json(result));
  if (!options.json.empty()) write_file(options.json, json.dump(2) + "\n");
  if (options.json != "-") fmt::print("{}", to_table(result, engine.model.config().experts));
}

void run_eval(const EvalOptions& options) {
  check_policy_specification(options.policy);  // before a model takes its time to load
  if (!options.task.empty()) return run_task_command(options);
  if (options.texts.empty())
    throw InvalidArgument("nothing to evaluate: give --text FILE, or --task blimp:FILE");
  Engine engine(options.engine);
  const auto policy = make_routing_policy(options.policy, engine.policy_context());
  const std::vector<std::filesystem::path> files(options.texts.begin(), options.texts.end());
  const TextWindows windows =
      read_windows(engine.tokenizer, files, options.context, TextPart::parse(options.part));

  const std::vector<ExpertPrices> prices =
      engine.variants.prices(engine.model.config().experts, static_cast<float>(options.open_price),
                             static_cast<float>(options.slope_price));
  EvaluationSettings evaluation;
  evaluation.batch = options.batch;
  evaluation.max_windows = options.max_windows;
  // Without prices of its own a request leaves the policy its own.
  if (options.open_price > 0 || options.slope_price > 0)
    evaluation.prices = [&prices](int64_t) { return std::span<const ExpertPrices>(prices); };
  std::unique_ptr<Progress> progress;
  evaluation.progress = [&progress](int64_t done, int64_t total) {
    if (!progress)
      progress = std::make_unique<Progress>("eval", static_cast<double>(total), "tokens");
    progress->update(static_cast<double>(done));
  };
  const EvaluationResult result =
      evaluate(engine.model, windows, *policy, engine.charge, engine.pool, evaluation);
  progress.reset();
  if (!options.json.empty())
    write_file(options.json, to_json(options, engine, result).dump(2) + "\n");
  if (options.json != "-") fmt::print("{}", to_table(engine, result));
}

std::string list_policies() {
  std::string text = "Policies, with their parameters and what holds where none is given:\n";
  for (const PolicyInfo& policy : known_policies()) {
    text += fmt::format("  {:<12} {} ({})\n", policy.name, policy.summary, policy.source);
    for (const PolicyParameter& parameter : policy.parameters)
      text +=
          fmt::format("    {:<10} {}{}\n", parameter.name, parameter.meaning,
                      parameter.default_value.empty() ? "" : " [" + parameter.default_value + "]");
  }
  return text;
}

}  // namespace

void add_eval_command(CLI::App& program) {
  const auto options = std::make_shared<EvalOptions>();
  CLI::App* command = program.add_subcommand(
      "eval",
      "Quality and cost of a routing policy on text: windows of the text advance in lockstep "
      "as one decode batch and route together, position by position");
  options->engine.add_to(*command);
  options->engine.add_device_to(*command);
  options->engine.add_variants_to(*command);
  command->add_option("--text", options->texts, "text files (UTF-8)");
  command->add_option("--task", options->task,
                      "instead of text: blimp:FILE or lambada:FILE, JSON lines, plain or gzipped; "
                      "accuracy at the policy's own prices");
  command->add_option("--policy", options->policy, "name:key=value,key=value of the list below")
      ->capture_default_str();
  command->footer(list_policies);
  command
      ->add_option("--open-price", options->open_price,
                   "price of reading an expert in bf16, in gate mass of one token, for adaptive; "
                   "before the policy's own; another precision costs its share of the bytes")
      ->check(CLI::NonNegativeNumber);
  command
      ->add_option("--slope-price", options->slope_price,
                   "price of one more token through an expert, in gate mass, for adaptive; before "
                   "the policy's own")
      ->check(CLI::NonNegativeNumber);
  command->add_option("--batch", options->batch, "windows that decode together")
      ->check(CLI::Range(1, 65536))
      ->capture_default_str();
  command->add_option("--context", options->context, "tokens of a window")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  command->add_option("--max-windows", options->max_windows, "use at most so many; 0: all")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command
      ->add_option("--part", options->part,
                   "I/N: the I-th of N equal parts of each text, to tune on one and report on "
                   "another")
      ->capture_default_str();
  command->add_option("--json", options->json,
                      "write the result as JSON to this file; - for stdout");
  command->callback([options] { run_eval(*options); });
}

}  // namespace thermoe::app
