// thermoe twin: the simulated GPU by itself.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>

#include "commands.h"
#include "paths.h"
#include "thermoe/error.h"
#include "twin_validation.h"

namespace thermoe::app {
namespace {

struct ValidateOptions {
  std::string trace, profile, works, json, plot;
  ValidationSettings settings;
};

void validate(const ValidateOptions& options) {
  const TwinParameters device =
      read_twin_parameters(options.profile.empty() ? shipped("data/profiles/h100-sxm-power.json")
                                                   : std::filesystem::path(options.profile));
  const TraceWorks works(options.works.empty() ? shipped("data/telemetry/works.json")
                                               : std::filesystem::path(options.works));
  const RecordedTrace trace = read_recorded_trace(options.trace, works, device);
  const Validation validation = validate_twin(trace, device, options.settings);
  if (!options.plot.empty()) write_file(options.plot, to_svg(validation, trace));
  if (!options.json.empty()) write_file(options.json, to_json_text(validation));
  if (options.json != "-" && options.plot != "-") fmt::print("{}", to_table(validation));
}

}  // namespace

void add_twin_command(CLI::App& program) {
  CLI::App* twin =
      program.add_subcommand("twin", "The simulated GPU: how true it is to a real one");
  twin->require_subcommand(1);
  const auto options = std::make_shared<ValidateOptions>();
  CLI::App* command = twin->add_subcommand(
      "validate", "The twin's models against a recorded trace: temperature ahead, power, clock");
  command->add_option("--trace", options->trace, "recorded telemetry (data/telemetry/README.md)")
      ->required();
  command->add_option("--profile", options->profile,
                      "power profile of the device; default: the shipped H100's");
  command->add_option("--works", options->works,
                      "what ran in which phase; default: data/telemetry/works.json");
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

}  // namespace thermoe::app
