// thermoe run: the main job.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <memory>
#include <nlohmann/json.hpp>
#include <sstream>

#include "commands.h"
#include "cpu_sweep.h"
#include "engine.h"
#include "gpu_sweep.h"
#include "live_session.h"
#include "live_view.h"
#include "paths.h"
#include "progress.h"
#include "run_outcome.h"
#include "thermoe/error.h"

namespace thermoe::app {
namespace {

// A target this far above what plain top-k needs on a cool, uncapped device.
constexpr double kTargetSlack = 1.10;
// The loop keeps the die this far below the device's own slowdown.
constexpr double kTwinMarginC = 1.0;
// Replayed telemetry: one decode step of the default shape on an H100 takes about this long.
constexpr double kReplayStepS = 0.02;

struct RunOptions {
  EngineOptions engine;
  std::string scenario, loss_text, json, plot, report = "thermoe-run.html", telemetry = "auto";
  std::vector<std::string> prompts;
  DecoderSettings decoder;
  double latency_target_us = 0, max_open_price = 0.25, live_s = 10;
  double power_cap_w = 0, temperature_cap_c = 0;
  int64_t loss_windows = 32, loss_context = 512;
  bool explain = false;
};

std::vector<std::string> shipped_prompts() {
  std::istringstream lines(read_file(shipped("data/prompts/prompts.txt")));
  std::vector<std::string> prompts;
  for (std::string line; std::getline(lines, line);)
    if (!line.empty()) prompts.push_back(line);
  return prompts;
}

// Cross-entropy on held-out text at the prices that each phase had, its ticks spread evenly over
// the positions of a window, against plain top-k on the same windows.
class LossMeter {
 public:
  LossMeter(Engine& engine, const RunOptions& options)
      : engine_(engine),
        options_(options),
        file_(options.loss_text.empty() ? shipped("data/text/wikitext103-valid.txt")
                                        : std::filesystem::path(options.loss_text)),
        windows_(read_windows(engine.tokenizer, {&file_, 1}, options.loss_context)) {}

  void measure(RunOutcome& outcome) {
    const double runs = 1.0 + static_cast<double>(outcome.thermoe.phases.size());
    Progress progress("loss",
                      runs * static_cast<double>(options_.loss_windows * options_.loss_context),
                      "tokens");
    TopKPolicy top_k;
    const EvaluationResult base = evaluate_at(nullptr, top_k, progress);
    outcome.loss_text = file_.filename().string();
    outcome.loss_tokens = base.tokens;
    outcome.base_cross_entropy_nats = base.cross_entropy_nats;
    for (const PhaseRecord& phase : outcome.thermoe.phases) {
      const auto adaptive = make_routing_policy("adaptive", engine_.policy_context());
      const EvaluationResult changed = evaluate_at(&phase, *adaptive, progress);
      outcome.losses.push_back(
          {paired_difference(changed, base, options_.decoder.batch, options_.loss_context)});
    }
  }

 private:
  EvaluationResult evaluate_at(const PhaseRecord* phase, RoutingPolicy& policy,
                               Progress& progress) {
    EvaluationSettings settings;
    settings.batch = options_.decoder.batch;
    settings.max_windows = options_.loss_windows;
    std::vector<ExpertPrices> prices;
    if (phase != nullptr && !phase->prices.empty())
      settings.prices = [&](int64_t position) -> std::span<const ExpertPrices> {
        const size_t tick = static_cast<size_t>(position) * phase->prices.size() /
                            static_cast<size_t>(options_.loss_context);
        const ExpertPrices& bf16 = phase->prices[tick];
        prices = bf16.open.empty() ? std::vector<ExpertPrices>(engine_.model.variants().size())
                                   : engine_.variants.prices(engine_.model.config().experts,
                                                             bf16.open[0], bf16.slope[0]);
        return prices;
      };
    settings.progress = [&](int64_t done, int64_t) {
      progress.update(static_cast<double>(done_ + done));
    };
    EvaluationResult result =
        evaluate(engine_.model, windows_, policy, engine_.charge, engine_.pool, settings);
    done_ += result.tokens;
    return result;
  }

  Engine& engine_;
  const RunOptions& options_;
  std::filesystem::path file_;
  TextWindows windows_;
  int64_t done_ = 0;
};

// One opening of each constrained phase (and of the first), as both policies continued it.
std::vector<TextSample> text_samples(const Engine& engine, const RunOutcome& outcome) {
  std::vector<TextSample> samples;
  for (size_t p = 0; p < outcome.thermoe.phases.size(); ++p) {
    if (p > 0 && outcome.thermoe.phases[p].relaxed) continue;
    const RoundRecord *mine = nullptr, *theirs = nullptr;
    // The last round that both finished, or the last at all.
    for (const RoundRecord& round : outcome.thermoe.rounds)
      for (const RoundRecord& other : outcome.top_k.rounds)
        if (round.phase == static_cast<int>(p) && other.phase == round.phase &&
            other.round == round.round &&
            (mine == nullptr || round.texts[0].size() >= mine->texts[0].size()))
          mine = &round, theirs = &other;
    if (mine == nullptr) continue;
    const auto text = [&](const RoundRecord& round, size_t from, size_t to) {
      const auto& ids = round.texts[0];
      return engine.tokenizer.decode({ids.data() + from, std::min(to, ids.size()) - from});
    };
    const size_t prompt = static_cast<size_t>(mine->prompt_lengths[0]);
    samples.push_back({outcome.thermoe.phases[p].name, text(*mine, 0, prompt),
                       text(*theirs, prompt, SIZE_MAX), text(*mine, prompt, SIZE_MAX)});
  }
  return samples;
}

RunOutcome run_scenario(const RunOptions& options, Engine& engine, Decoder& decoder) {
  const auto start = std::chrono::steady_clock::now();
  const Scenario scenario =
      read_scenario(options.scenario.empty() ? shipped("data/scenarios/heat-wave.json")
                                             : std::filesystem::path(options.scenario));
  const TwinParameters& twin = engine.cost.power();
  LossMeter loss(engine, options);

  RunOutcome outcome;
  const ModelConfig& config = engine.model.config();
  outcome.model = engine.checkpoint.directory().filename().string();
  outcome.variants = engine.variants.name();
  outcome.cost_shape = engine.cost.shape().name;
  outcome.cost_device = engine.cost.device();
  outcome.scenario = scenario.name;
  outcome.batch = decoder.settings().batch;
  outcome.model_experts = config.experts;
  outcome.shape_experts = engine.cost.shape().experts;
  outcome.shape_layers = engine.cost.shape().layers;
  outcome.slowdown_c = twin.slowdown_c;

  const Nominal nominal = nominal_latency(engine, decoder);
  SimulationSettings settings;
  settings.latency_target_us = options.latency_target_us > 0
                                   ? options.latency_target_us
                                   : kTargetSlack * nominal.layer_latency_us;
  settings.period_s =
      1e-6 * (nominal.dense_latency_us + settings.latency_target_us * engine.cost.shape().layers);
  settings.temperature_cap_c =
      options.temperature_cap_c > 0 ? options.temperature_cap_c : twin.slowdown_c - kTwinMarginC;
  settings.max_open_price = options.max_open_price;
  outcome.latency_target_us = settings.latency_target_us;
  outcome.period_s = settings.period_s;

  Simulation simulation(engine, decoder, scenario, twin, settings);
  {
    LiveView view;
    const auto live = [&view](const LiveStatus& status) { view.update(status); };
    outcome.top_k = simulation.run(/*adaptive=*/false, live);
    outcome.thermoe = simulation.run(/*adaptive=*/true, live);
  }
  outcome.identity = check_identity(outcome.top_k, outcome.thermoe);
  loss.measure(outcome);
  outcome.texts = text_samples(engine, outcome);
  outcome.wall_s = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return outcome;
}

void print_outcome(const RunOutcome& outcome, const RunOptions& options) {
  fmt::print("{}\n\n{}\n{}\n", provenance(outcome), to_table(outcome), identity_line(outcome));
  for (const TextSample& sample : outcome.texts)
    fmt::print("\n[{}] {} ...\n  top-k:   {}\n  thermoe: {}\n", sample.phase, sample.prompt,
               sample.top_k, sample.thermoe);
  fmt::print("\nTook {:.0f} s.", outcome.wall_s);
  if (!options.report.empty()) fmt::print(" Report with the plots: {}", options.report);
  fmt::print("\n");
}

// Telemetry of the machine at hand, where there is any and it was not declined.
std::unique_ptr<TelemetrySource> live_source(const std::string& telemetry) {
  if (telemetry == "twin") return nullptr;
  if (telemetry == "auto") return count_nvml_devices() > 0 ? open_nvml_source() : nullptr;
  if (telemetry == "nvml") return open_nvml_source();
  if (telemetry.starts_with("replay:"))
    return open_replay_source(telemetry.substr(7), kReplayStepS);
  throw InvalidArgument(
      fmt::format("unknown telemetry '{}': known are auto, twin, nvml and replay:FILE", telemetry));
}

// What runs the experts at this batch, why, and what the others would take.
std::vector<ExplainedKernel> explain(const RunOptions& options, const Engine& engine) {
  std::vector<std::string> dtypes;
  for (const Precision precision :
       parse_precisions(options.engine.variants.empty() ? "bf16" : options.engine.variants))
    dtypes.emplace_back(kPrecisionNames[static_cast<size_t>(precision)]);
  std::unique_ptr<GpuSweep> gpu;
  std::unique_ptr<CpuSweep> cpu;
  if (engine.on_gpu()) {
    gpu = make_gpu_sweep();
  } else {
    cpu = std::make_unique<CpuSweep>(options.engine.threads);
    dtypes = {"bf16"};
  }
  SweepBackend& backend = gpu ? static_cast<SweepBackend&>(*gpu) : *cpu;
  std::vector<int64_t> tokens = {1};
  if (options.decoder.batch > 1) tokens.push_back(options.decoder.batch);
  std::vector<ExplainedKernel> all;
  for (const std::string& dtype : dtypes) {
    const auto kernels = gpu ? gpu->kernels(dtype) : std::vector<std::string>{"cpu_experts"};
    for (ExplainedKernel& row :
         explain_kernels(backend, kernels, engine.model.config(), dtype, tokens, engine.kernels))
      all.push_back(std::move(row));
  }
  return all;
}

void run(const RunOptions& options) {
  auto source = live_source(options.telemetry);
  Engine engine(options.engine);
  Decoder decoder(engine.model, engine.tokenizer, shipped_prompts(), options.prompts,
                  options.decoder);
  const bool quiet = options.json == "-";
  nlohmann::ordered_json json;
  int64_t different = 0;
  if (options.explain) {
    const std::vector<ExplainedKernel> explained = explain(options, engine);
    if (!quiet)
      fmt::print(
          "Kernels of one layer's experts on this device, random weights; chosen {}.\n\n{}\n",
          engine.on_gpu() ? engine.kernels.why : "for want of others", to_table(explained));
    json["kernels"] = to_json(explained);
  }
  if (options.telemetry == "auto" || options.telemetry == "twin") {
    const RunOutcome outcome = run_scenario(options, engine, decoder);
    if (!options.report.empty()) write_file(options.report, to_html(outcome));
    if (!options.plot.empty()) write_file(options.plot, to_plot(outcome).svg());
    if (!quiet) print_outcome(outcome, options);
    json.update(to_json(outcome));
    different = outcome.identity.different;
  }
  if (source) {
    LiveSettings live;
    live.duration_s = options.live_s;
    if (options.power_cap_w > 0) live.power_cap_w = options.power_cap_w;
    if (options.temperature_cap_c > 0) live.temperature_cap_c = options.temperature_cap_c;
    live.max_open_price = options.max_open_price;
    if (source->device().simulated) live.virtual_step_s = kReplayStepS;
    const LiveOutcome outcome = run_live(engine, decoder, std::move(source), live);
    if (!quiet) fmt::print("\n{}", to_table(outcome));
    json["live"] = to_json(outcome);
  }
  if (!options.json.empty()) write_file(options.json, json.dump(2) + "\n");
  if (different > 0)
    throw std::runtime_error(
        fmt::format("{} tokens differ from top-k's although every price was zero", different));
}

void add_model_options(CLI::App& command, RunOptions& options) {
  options.engine.add_to(command);
  options.engine.add_device_to(command);
  options.engine.add_variants_to(command);
  command.add_option("--prompt", options.prompts,
                     "your own text to continue; may be given several times");
  command.add_option("--batch", options.decoder.batch, "sequences that decode together")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  command
      .add_option("--round-tokens", options.decoder.round_tokens,
                  "tokens of a sequence, its prompt included")
      ->check(CLI::Range(2, 65536))
      ->capture_default_str();
  command.add_option("--temperature", options.decoder.temperature, "of sampling; 0: greedy")
      ->check(CLI::Range(0.0, 10.0))
      ->capture_default_str();
  command.add_option("--seed", options.decoder.seed, "of sampling")->capture_default_str();
}

void add_hardware_options(CLI::App& command, RunOptions& options) {
  command.add_option("--scenario", options.scenario,
                     "what happens to the simulated GPU; default: the shipped heat wave");
  command
      .add_option("--telemetry", options.telemetry,
                  "auto: the scenario on the digital twin, then a session under the GPU's own "
                  "telemetry where there is one; twin; nvml; replay:FILE")
      ->capture_default_str();
  command
      .add_option("--latency-target-us", options.latency_target_us,
                  "of one MoE layer of the cost shape; default: 1.10 of top-k's on a cool device")
      ->check(CLI::PositiveNumber);
  command
      .add_option("--max-open-price", options.max_open_price,
                  "ceiling of an expert's opening price, in gate mass of a token")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command
      .add_option("--power-cap-w", options.power_cap_w,
                  "board power cap under nvml or replay; default: the device's own limit")
      ->check(CLI::PositiveNumber);
  command
      .add_option("--temperature-cap-c", options.temperature_cap_c,
                  "die temperature cap; default: just below the device's slowdown")
      ->check(CLI::PositiveNumber);
  command.add_option("--live-s", options.live_s, "length of the session under nvml or replay")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
}

}  // namespace

void add_run_command(CLI::App& program) {
  const auto options = std::make_shared<RunOptions>();
  CLI::App* command = program.add_subcommand(
      "run",
      "The main job: a model decodes while a GPU is capped and heats up; routing answers, and "
      "the loss is measured");
  add_model_options(*command, *options);
  add_hardware_options(*command, *options);
  command->add_option("--loss-text", options->loss_text,
                      "held-out text for the loss; default: WikiText-103 validation");
  command->add_option("--loss-windows", options->loss_windows, "windows of text for the loss")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  command->add_option("--loss-context", options->loss_context, "tokens of a window")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  command->add_flag("--explain", options->explain,
                    "first say which kernels run the experts, and what each was predicted and is "
                    "measured to take");
  command->add_option("--report", options->report, "HTML report's file; empty: none")
      ->capture_default_str();
  command->add_option("--plot", options->plot, "write the plots as SVG to this file");
  command->add_option("--json", options->json,
                      "write the result as JSON to this file; - for stdout");
  command->callback([options] { run(*options); });
}

}  // namespace thermoe::app
