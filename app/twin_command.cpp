// thermoe twin: the simulated GPU by itself.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <memory>

#include "commands.h"
#include "paths.h"
#include "scenario.h"
#include "table.h"
#include "thermoe/error.h"
#include "thermoe/telemetry_recorder.h"
#include "twin_validation.h"

namespace thermoe::app {
namespace {

struct ModelOptions {
  std::string profile, works;

  void add_to(CLI::App& command) {
    command.add_option("--profile", profile,
                       "power profile of the device; default: the shipped H100's");
    command.add_option("--works", works,
                       "what a phase's name says that it runs; default: data/telemetry/works.json");
  }
  TwinParameters device() const {
    return read_twin_parameters(profile.empty() ? shipped("data/profiles/h100-sxm-power.json")
                                                : std::filesystem::path(profile));
  }
  TraceWorks known_works() const {
    return TraceWorks(works.empty() ? shipped("data/telemetry/works.json")
                                    : std::filesystem::path(works));
  }
};

struct ValidateOptions {
  std::string trace, json, plot;
  ModelOptions model;
  ValidationSettings settings;
};

struct TwinRunOptions {
  std::string scenario, work = "moe_B16_d128", csv;
  ModelOptions model;
  double rate_hz = 20, duty_frac = 1;
};

void validate(const ValidateOptions& options) {
  const TwinParameters device = options.model.device();
  const RecordedTrace trace =
      read_recorded_trace(options.trace, options.model.known_works(), device);
  const Validation validation = validate_twin(trace, device, options.settings);
  if (!options.plot.empty()) write_file(options.plot, to_svg(validation, trace));
  if (!options.json.empty()) write_file(options.json, to_json_text(validation));
  if (options.json != "-" && options.plot != "-") fmt::print("{}", to_table(validation));
}

// One phase of the scenario under the work; returns its line of the table.
std::vector<std::string> run_phase(const Phase& phase, const CostEstimate& work,
                                   const TwinRunOptions& options, DigitalTwin& twin,
                                   TelemetryRecorder* recorder) {
  twin.set_environment(phase.environment());
  const double start_s = twin.time_s(), start_j = twin.energy_j();
  const double period_s = options.duty_frac < 1 ? work.latency_us * 1e-6 / options.duty_frac : 0;
  // What ran, as a trace's phases say; with pauses it is no known work any more.
  const std::string ran = options.duty_frac < 1
                              ? fmt::format("{}_duty_{:.2f}", options.work, options.duty_frac)
                              : options.work;
  double next_s = start_s, peak_c = 0, busy_s = 0, throttled_s = 0, clock_seconds = 0;
  while (twin.time_s() - start_s < phase.duration_s) {
    if (recorder != nullptr && twin.time_s() >= next_s) {
      recorder->add(twin.state(), ran);
      next_s += 1 / options.rate_hz;
    }
    const TwinStep step = twin.advance(work, period_s);
    peak_c = std::max(peak_c, twin.temperature_c());
    busy_s += step.busy_s;
    throttled_s += step.throttled_s;
    clock_seconds += step.sm_clock_mhz * step.busy_s;
  }
  const double seconds = twin.time_s() - start_s;
  return {phase.name,
          fmt::format("{:.0f}", seconds),
          fmt::format("{:.1f}", (twin.energy_j() - start_j) / seconds),
          fmt::format("{:.1f}", twin.temperature_c()),
          fmt::format("{:.1f}", peak_c),
          fmt::format("{:.0f}", busy_s > 0 ? clock_seconds / busy_s : 0.0),
          fmt::format("{:.1f}", throttled_s)};
}

void run_alone(const TwinRunOptions& options) {
  const TwinParameters device = options.model.device();
  const auto work = options.model.known_works().find(options.work, device);
  if (!work || work->idle)
    throw InvalidArgument(fmt::format(
        "--work {}: not known; such are gemm_bf16_8192, copy_2GiB, moe_B16_d64", options.work));
  const Scenario scenario =
      read_scenario(options.scenario.empty() ? shipped("data/scenarios/heat-wave.json")
                                             : std::filesystem::path(options.scenario));
  // A long kernel is cut: the work is a rate, and the recorder wants its turn.
  constexpr double kLongestUs = 2000;
  CostEstimate piece = work->work;
  const double cut = std::max(1.0, piece.latency_us / kLongestUs);
  piece.latency_us /= cut;
  piece.bytes /= cut;
  piece.flops /= cut;
  DigitalTwin twin(device);
  std::unique_ptr<TelemetryRecorder> recorder;
  if (!options.csv.empty()) recorder = std::make_unique<TelemetryRecorder>(options.csv);
  Table table;
  table.header = {"phase", "s", "W", "end °C", "peak °C", "MHz", "throttled s"};
  for (const Phase& phase : scenario.phases)
    table.rows.push_back(run_phase(phase, piece, options, twin, recorder.get()));
  fmt::print("{}", table.text());
}

void add_validate(CLI::App& twin) {
  const auto options = std::make_shared<ValidateOptions>();
  CLI::App* command = twin.add_subcommand(
      "validate", "The twin's models against a recorded trace: temperature ahead, power, clock");
  command->add_option("--trace", options->trace, "recorded telemetry (data/telemetry/README.md)")
      ->required();
  options->model.add_to(*command);
  command
      ->add_option("--history-s", options->settings.history_s,
                   "predictions start after so much of the trace")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command->add_option("--plot", options->plot, "write recorded and predicted as SVG to this file");
  command->add_option("--json", options->json,
                      "write the result as JSON to this file; - for stdout");
  command->callback([options] { validate(*options); });
}

void add_run_alone(CLI::App& twin) {
  const auto options = std::make_shared<TwinRunOptions>();
  CLI::App* command = twin.add_subcommand(
      "run", "A scenario under unchanging work, recorded as telemetry; no model decodes");
  command->add_option("--scenario", options->scenario,
                      "what happens to the GPU; default: the shipped heat wave");
  command->add_option("--work", options->work, "what runs, back to back")->capture_default_str();
  command->add_option("--duty-frac", options->duty_frac, "of the time in which it runs")
      ->check(CLI::Range(0.01, 1.0))
      ->capture_default_str();
  command->add_option("--csv", options->csv, "write the telemetry to this file, as monitor does");
  command->add_option("--rate-hz", options->rate_hz, "of that telemetry")
      ->check(CLI::Range(0.1, 500.0))
      ->capture_default_str();
  options->model.add_to(*command);
  command->callback([options] { run_alone(*options); });
}

}  // namespace

void add_twin_command(CLI::App& program) {
  CLI::App* twin =
      program.add_subcommand("twin", "The simulated GPU: how true it is to a real one");
  twin->require_subcommand(1);
  add_validate(*twin);
  add_run_alone(*twin);
}

}  // namespace thermoe::app
