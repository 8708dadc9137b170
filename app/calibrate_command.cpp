// thermoe calibrate: a cost profile of this machine, measured.
#include <fmt/chrono.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <hwy/highway.h>
#include <CLI/CLI.hpp>
#include <csignal>
#include <ctime>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>

#include "calibration.h"
#include "commands.h"
#include "cpu_sweep.h"
#include "interrupt.h"
#include "paths.h"
#include "progress.h"
#include "sweep_log.h"
#include "sweep_points.h"
#include "thermoe/error.h"
#include "thermoe/gpu_system_monitor.h"
#include "thermoe/version.h"

namespace thermoe::app {
namespace {

constexpr double kBudgetS = 180, kQuickBudgetS = 8;

struct CalibrateOptions {
  std::string out, log, json;
  std::vector<std::string> shapes;
  std::vector<int64_t> tokens;
  int threads = 0;
  double budget_s = 0;  // 0: the default
  bool quick = false;
};

SweepPlan plan_of(const CalibrateOptions& options) {
  SweepPlan plan = default_sweep(options.quick);
  if (!options.tokens.empty()) plan.tokens = options.tokens;
  if (options.shapes.empty()) return plan;
  plan.shapes.clear();
  for (const std::string& shape : options.shapes) plan.shapes.push_back(parse_shape(shape));
  return plan;
}

// Without names of files, which say nothing to others.
std::string command_of(const CalibrateOptions& options) {
  std::string command = "thermoe calibrate";
  if (options.quick) command += " --quick";
  if (!options.shapes.empty())
    command += fmt::format(" --shapes {}", fmt::join(options.shapes, ","));
  if (!options.tokens.empty())
    command += fmt::format(" --tokens {}", fmt::join(options.tokens, ","));
  if (options.threads > 0) command += fmt::format(" --threads {}", options.threads);
  if (options.budget_s > 0) command += fmt::format(" --budget-s {}", options.budget_s);
  return command;
}

std::string compiler() {
#if defined(__clang__)
  return fmt::format("clang {}.{}", __clang_major__, __clang_minor__);
#else
  return fmt::format("gcc {}.{}", __GNUC__, __GNUC_MINOR__);
#endif
}

std::string simd_target() {
  const int64_t usable = hwy::SupportedTargets() & HWY_TARGETS;
  return hwy::TargetName(usable & -usable);  // the lowest bit is the best
}

std::map<std::string, std::string> provenance_of(const CalibrateOptions& options,
                                                 const SweepBackend& backend) {
  return {{"origin", "thermoe calibrate"},
          {"command", command_of(options)},
          {"compiler", compiler()},
          {"date", fmt::format("{:%Y-%m-%d}", fmt::gmtime(std::time(nullptr)))},
          {"driver", backend.driver()},
          {"simd", simd_target()},
          {"thermoe", kVersion},
          {"threads", fmt::format("{}", backend.threads())}};
}

// Empty where there is no GPU.
std::string gpu_note() {
  const TelemetryProbe probe = probe_nvml();
  if (probe.devices.empty()) return "";
  return fmt::format(
      "{} is here, but this build has no CUDA kernels of the experts: only the CPU is calibrated.",
      probe.devices.front().name);
}

SweepOutcome sweep(SweepBackend& backend, const std::vector<SweepPoint>& points, SweepLog& log,
                   double budget_s) {
  Progress progress("calibrate", static_cast<double>(points.size()), "points");
  SweepSettings settings;
  settings.budget_s = budget_s;
  const Interrupt interrupt;
  settings.stop = [] { return Interrupt::raised(); };
  settings.step = [&](double done_frac) {
    progress.update(done_frac * static_cast<double>(points.size()));
  };
  return run_sweep(backend, points, log, settings);
}

// Ends the program as an interruption does, once its work is safe.
void give_up(const SweepOutcome& outcome, const std::string& log) {
  fmt::print(stderr,
             "thermoe: stopped with {} points left; {} keeps the others: the same command "
             "goes on from there\n",
             outcome.left, log);
  std::signal(SIGINT, SIG_DFL);
  std::raise(SIGINT);
}

void report(const CalibrateOptions& options, const Calibration& calibration,
            const SweepOutcome& outcome, const std::string& log, const std::string& note) {
  if (!options.json.empty()) {
    nlohmann::ordered_json json = to_json(calibration);
    json["out"] = options.out;
    json["log"] = log;
    json["measured_points"] = outcome.measured;
    json["resumed_points"] = outcome.resumed;
    json["note"] = note.empty() ? nlohmann::ordered_json() : nlohmann::ordered_json(note);
    write_file(options.json, json.dump(2) + "\n");
  }
  if (options.json == "-") return;
  const cost::KernelProfile& profile = calibration.profile;
  if (!note.empty()) fmt::print("{}\n", note);
  fmt::print("{}, {} threads, {}: reads {:.1f} GB/s, multiplies {:.0f} GFLOP/s\n\n{}\n",
             profile.device, profile.provenance.at("threads"), profile.provenance.at("simd"),
             profile.memory_bytes_per_s * 1e-9, profile.bf16_flops_per_s * 1e-9,
             to_table(calibration));
  fmt::print("{} points measured, {} taken from {}. Wrote {}.\n", outcome.measured, outcome.resumed,
             log, options.out);
}

void run_calibrate(const CalibrateOptions& options) {
  const std::filesystem::path folder = std::filesystem::path(options.out).parent_path();
  if (!folder.empty() && !std::filesystem::is_directory(folder))
    throw IoError(options.out, "its folder doesn't exist: make it, or give another --out");
  const std::vector<SweepPoint> points = points_of(plan_of(options));
  CpuSweep backend(options.threads);
  SweepLog log(options.log.empty() ? options.out + ".rows.csv" : options.log, backend);
  const MeasuredPeaks peaks = backend.peaks();
  const double budget_s = options.budget_s > 0 ? options.budget_s
                          : options.quick      ? kQuickBudgetS
                                               : kBudgetS;
  const SweepOutcome outcome = sweep(backend, points, log, budget_s);
  if (outcome.left > 0) return give_up(outcome, log.path());
  auto progress = std::make_unique<Progress>("fit", 1, "profiles");
  Calibration calibration =
      calibrate(log.rows(), peaks, [&](double done_frac) { progress->update(done_frac); });
  progress.reset();
  calibration.profile.provenance = provenance_of(options, backend);
  cost::write_kernel_profile(calibration.profile, options.out);
  report(options, calibration, outcome, log.path(), gpu_note());
}

}  // namespace

void add_calibrate_command(CLI::App& program) {
  const auto options = std::make_shared<CalibrateOptions>();
  CLI::App* command = program.add_subcommand(
      "calibrate",
      "Make a cost profile of this machine: measure its kernels, warm and cold, for a few minutes; "
      "may be interrupted and taken up");
  command->add_option("--out", options->out, "write the profile to this file")->required();
  command->add_option("--log", options->log,
                      "the samples, a table that thermoe cost --csv reads; default: "
                      "the profile's name with .rows.csv");
  command
      ->add_option("--shapes", options->shapes,
                   "what to measure instead of the default: 256x64e32k4 (hidden, intermediate, "
                   "experts, top k) or 256x4096 (inputs, outputs of a dense product)")
      ->delimiter(',');
  command->add_option("--tokens", options->tokens, "token counts; default: 1 to 256")
      ->delimiter(',')
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 16));
  command->add_option("--threads", options->threads, "0: one per hardware thread")
      ->check(CLI::Range(0, 4096));
  command
      ->add_option("--budget-s", options->budget_s,
                   "how long to measure, about; default: 180, with --quick 8")
      ->check(CLI::PositiveNumber);
  command->add_flag("--quick", options->quick, "few shapes and token counts, for a first look");
  command->add_option("--json", options->json,
                      "write the result as JSON to this file; - for stdout");
  command->callback([options] { run_calibrate(*options); });
}

}  // namespace thermoe::app
