// thermoe sustain: a model at full load on a GPU, by top-k and under the governor.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>

#include "commands.h"
#include "core/gzip_file.h"
#include "engine.h"
#include "npy.h"
#include "paths.h"
#include "progress.h"
#include "sustain_report.h"
#include "thermoe/error.h"
#include "thermoe/synthetic_model.h"

namespace thermoe::app {
namespace {

constexpr double kIdentityS = 5;

struct SustainOptions {
  EngineOptions engine;
  LoadSettings load;
  std::string work = "decode", json, csv, plot;
  double power_target_w = 0, latency_target_us = 0, max_open_price = 0.25;
  double open_price = 0, slope_price = 0;
};

// Router logits and precisions' errors of the small model, for models that have none of their own.
SyntheticModel synthetic_model(const SustainOptions& options) {
  SyntheticModel model = SyntheticModel::parse(options.engine.model);
  const std::string path = shipped("data/routing/router-logits.npy.gz").string();
  const std::string bytes = core::read_maybe_gzipped(path);
  FloatArray table = parse_npy(std::as_bytes(std::span(bytes)), path);
  if (table.shape.size() != 3) throw IoError(path, "should hold [layers, rows, experts]");
  model.routing = {static_cast<int>(table.shape[0]), static_cast<int>(table.shape[1]),
                   static_cast<int>(table.shape[2]), std::move(table.values)};
  const std::string errors = shipped("data/routing/errors.json").string();
  const auto json = nlohmann::json::parse(read_file(errors));
  for (size_t p = 0; p < kPrecisionNames.size(); ++p)
    model.error_frac[p] = json.at("error_frac").value(kPrecisionNames[p], 0.0f);
  model.precisions =
      parse_precisions(options.engine.variants.empty() ? "bf16" : options.engine.variants);
  return model;
}

// What a load runs on: a checkpoint's engine, or a synthetic model without a text of its own.
struct Subject {
  std::unique_ptr<Engine> engine;
  std::unique_ptr<LanguageModel> synthetic;
  std::unique_ptr<KernelCostModel> cost;
  std::unique_ptr<Variants> variants;
  std::unique_ptr<Charge> charge;
  std::shared_ptr<CostKernelChooser> kernels;  // null: not chosen by cost

  LanguageModel& model() { return engine ? engine->model : *synthetic; }
  const Variants& precisions() const { return engine ? engine->variants : *variants; }
  const Charge& charges() const { return engine ? engine->charge : *charge; }
  PolicyContext context() const {
    return engine ? engine->policy_context()
                  : PolicyContext{.calibration = nullptr, .on_gpu = true};
  }
};

Subject open_subject(const SustainOptions& options) {
  Subject subject;
  if (!options.engine.model.starts_with(kSyntheticPrefix)) {
    EngineOptions engine = options.engine;
    engine.device = "cuda";
    subject.engine = std::make_unique<Engine>(engine);
    subject.kernels = subject.engine->kernels.by_cost;
    return subject;
  }
  const SyntheticModel model = synthetic_model(options);
  subject.synthetic = make_synthetic_model(model);
  subject.kernels = choose_gpu_kernels(options.engine.kernels, *subject.synthetic).by_cost;
  subject.cost = std::make_unique<KernelCostModel>(
      options.engine.profile.empty() ? shipped(kDefaultProfile)
                                     : std::filesystem::path(options.engine.profile),
      model.shape);
  subject.variants = std::make_unique<Variants>(subject.synthetic->variants(),
                                                options.engine.variants, options.engine.model);
  subject.charge =
      std::make_unique<Charge>(*subject.cost, subject.synthetic->config(), *subject.variants);
  return subject;
}

std::vector<LoadPhase> phases_of(const SustainOptions& options) {
  GovernorLimits none;
  none.max_open_price = options.max_open_price;
  // The second shows that nothing changes, which takes no longer for being measured longer.
  std::vector<LoadPhase> phases{
      {"top-k", false, none, 0, 0, 0},
      {"no target", true, none, 0, 0, std::min(kIdentityS, options.load.seconds)}};
  if (options.power_target_w > 0) {
    GovernorLimits limits = none;
    limits.power_cap_w = options.power_target_w;
    phases.push_back({fmt::format("{:g} W", options.power_target_w), true, limits, 0, 0, 0});
  }
  if (options.latency_target_us > 0) {
    GovernorLimits limits = none;
    limits.layer_latency_target_us = options.latency_target_us;
    phases.push_back({fmt::format("{:g} us", options.latency_target_us), true, limits, 0, 0, 0});
  }
  if (options.open_price > 0 || options.slope_price > 0)
    phases.push_back({fmt::format("price {:g}/{:g}", options.open_price, options.slope_price), true,
                      none, options.open_price, options.slope_price, 0});
  return phases;
}

void write_results(const SustainOptions& options, const SustainOutcome& outcome) {
  if (!options.csv.empty()) write_file(options.csv, to_csv(outcome));
  if (!options.plot.empty()) write_file(options.plot, to_plot(outcome).svg());
  if (!options.json.empty()) write_file(options.json, to_json(outcome).dump(2) + "\n");
  if (options.json != "-") fmt::print("{}", to_table(outcome));
}

void run_sustain(const SustainOptions& given) {
  SustainOptions options = given;
  options.load.prefill = options.work == "prefill";
  Subject subject = open_subject(options);
  options.load.kernels = subject.kernels;
  GpuSystemMonitor monitor(open_nvml_source());
  monitor.start();
  SustainOutcome outcome;
  outcome.synthetic = subject.engine == nullptr;
  outcome.model =
      outcome.synthetic ? options.engine.model : model_name(subject.engine->checkpoint.directory());
  outcome.device = monitor.device().name;
  outcome.driver = probe_nvml().driver_version;
  outcome.variants = subject.precisions().name();
  outcome.cost_device = outcome.synthetic ? subject.cost->device() : subject.engine->cost.device();
  outcome.settings = options.load;
  outcome.layers = subject.model().config().layers;
  outcome.experts = subject.model().config().experts;
  SustainedLoad load(subject.model(), subject.precisions(), subject.charges(), subject.context(),
                     options.load);
  const std::vector<LoadPhase> phases = phases_of(options);
  const double each_s = options.load.warm_up_s + options.load.seconds;
  Progress progress("load", each_s * static_cast<double>(phases.size()), "s");
  for (size_t p = 0; p < phases.size(); ++p)
    outcome.phases.push_back(load.run(phases[p], monitor, [&](double seconds) {
      progress.update(each_s * static_cast<double>(p) + seconds);
    }));
  compare_tokens(outcome, 1);
  write_results(options, outcome);
  if (outcome.different_tokens > 0 && !subject.precisions().choice())
    throw std::runtime_error(
        fmt::format("{} tokens differ from top-k's although every price was "
                    "zero",
                    outcome.different_tokens));
}

void add_load_options(CLI::App& command, SustainOptions& options) {
  command.add_option("--work", options.work, "what to do over and over: decode or prefill")
      ->check(CLI::IsMember({"decode", "prefill"}))
      ->capture_default_str();
  command.add_option("--batch", options.load.batch, "sequences")
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
  command.add_option("--prompt-tokens", options.load.prompt_tokens, "of each sequence")
      ->check(CLI::Range(1, 16384))
      ->capture_default_str();
  command
      .add_option("--context", options.load.context_tokens,
                  "decode: tokens at which a sequence begins again behind its prompt")
      ->check(CLI::Range(2, 32768))
      ->capture_default_str();
  command.add_option("--seconds", options.load.seconds, "of each phase, its warm-up left out")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command.add_option("--warm-up-s", options.load.warm_up_s, "before each phase is measured")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command.add_option("--seed", options.load.seed, "of the prompts and of sampling")
      ->capture_default_str();
}

void add_target_options(CLI::App& command, SustainOptions& options) {
  command
      .add_option("--power-target-w", options.power_target_w,
                  "adds a phase whose prices hold the board's power at this")
      ->check(CLI::PositiveNumber);
  command
      .add_option("--latency-target-us", options.latency_target_us,
                  "adds a phase whose prices hold a step, over its layers, at this")
      ->check(CLI::PositiveNumber);
  command
      .add_option("--max-open-price", options.max_open_price,
                  "ceiling of an expert's opening price, in gate mass of a token")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command
      .add_option("--open-price", options.open_price,
                  "adds a phase at fixed prices: of opening an expert in bf16")
      ->check(CLI::NonNegativeNumber);
  command
      .add_option("--slope-price", options.slope_price,
                  "adds a phase at fixed prices: of a token through an expert")
      ->check(CLI::NonNegativeNumber);
}

}  // namespace

void add_sustain_command(CLI::App& program) {
  const auto options = std::make_shared<SustainOptions>();
  CLI::App* command = program.add_subcommand(
      "sustain",
      "Run a model on this GPU at full load: by top-k, by thermoe without a target (the same "
      "tokens) and with targets; power, clocks and energy a token from the GPU's own telemetry");
  options->engine.add_to(*command);
  options->engine.add_variants_to(*command);
  options->engine.kernels.add_to(*command);
  add_load_options(*command, *options);
  add_target_options(*command, *options);
  command->add_option("--json", options->json,
                      "write the result as JSON to this file; - for stdout");
  command->add_option("--csv", options->csv, "write a line a tick to this file");
  command->add_option("--plot", options->plot, "write the plots as SVG to this file");
  command->callback([options] { run_sustain(*options); });
}

}  // namespace thermoe::app
