// The subcommands. Each adds itself to the parser; its action runs when it is the one named.
#pragma once

namespace CLI {
class App;
}

namespace thermoe::app {

void add_run_command(CLI::App& program);
void add_eval_command(CLI::App& program);
void add_calibrate_experts_command(CLI::App& program);
void add_quantize_command(CLI::App& program);
void add_route_command(CLI::App& program);
void add_frontier_command(CLI::App& program);
void add_cost_command(CLI::App& program);
void add_fit_command(CLI::App& program);
void add_calibrate_command(CLI::App& program);
void add_monitor_command(CLI::App& program);
void add_sustain_command(CLI::App& program);
void add_twin_command(CLI::App& program);
void add_doctor_command(CLI::App& program);

}  // namespace thermoe::app
