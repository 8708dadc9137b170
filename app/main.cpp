// thermoe: the command-line program. Exit status: 0 done, 1 a defect of ours, 2 bad input or usage.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>

#include "commands.h"
#include "thermoe/error.h"
#include "thermoe/version.h"

int main(int argc, char** argv) {
  CLI::App program{
      "thermoe: routes the tokens of a trained mixture-of-experts model by its router's "
      "scores and the state of the hardware"};
  program.set_version_flag("--version", thermoe::kVersion);
  program.require_subcommand(1);
  thermoe::app::add_run_command(program);
  thermoe::app::add_eval_command(program);
  thermoe::app::add_calibrate_experts_command(program);
  thermoe::app::add_quantize_command(program);
  thermoe::app::add_route_command(program);
  thermoe::app::add_frontier_command(program);
  thermoe::app::add_cost_command(program);
  thermoe::app::add_fit_command(program);
  thermoe::app::add_calibrate_command(program);
  thermoe::app::add_monitor_command(program);
  thermoe::app::add_sustain_command(program);
  thermoe::app::add_twin_command(program);
  thermoe::app::add_doctor_command(program);
  try {
    program.parse(argc, argv);
    return 0;
  } catch (const CLI::ParseError& error) {
    return program.exit(error) == 0 ? 0 : 2;
  } catch (const thermoe::Error& error) {
    fmt::print(stderr, "thermoe: {}\n", error.what());
    return 2;
  } catch (const std::exception& error) {
    fmt::print(stderr, "thermoe: internal error: {}; please report it\n", error.what());
    return 1;
  }
}
