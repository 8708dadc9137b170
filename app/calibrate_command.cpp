// thermoe calibrate: a cost profile of this machine, measured.
#include <fmt/chrono.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <hwy/highway.h>
#include <CLI/CLI.hpp>
#include <algorithm>
#include <csignal>
#include <ctime>
#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>

#include "calibration.h"
#include "commands.h"
#include "cpu_sweep.h"
#include "device_peaks.h"
#include "gpu_sweep.h"
#include "interrupt.h"
#include "kernels/cuda/devices.h"
#include "paths.h"
#include "progress.h"
#include "sweep_log.h"
#include "sweep_points.h"
#include "thermoe/error.h"
#include "thermoe/expert_kernels.h"
#include "thermoe/gpu_system_monitor.h"
#include "thermoe/version.h"

namespace thermoe::app {
namespace {

constexpr double kBudgetS = 180, kQuickBudgetS = 8;

struct CalibrateOptions {
  std::string device, out, log, json;
  std::vector<std::string> shapes;
  std::vector<int64_t> tokens;
  int threads = 0;
  double budget_s = 0;  // 0: the default
  bool quick = false, all_kernels = false;
};

// What is measured, and its peaks, with what the profile says of both.
struct Bench {
  std::unique_ptr<SweepBackend> backend;
  std::vector<SweepPoint> points;
  MeasuredPeaks peaks;
  std::string power_profile;  // beside the profile; empty: none
  std::string note;           // for people; empty: none
  std::map<std::string, std::string> provenance;
};

SweepPlan plan_of(const CalibrateOptions& options, bool gpu) {
  SweepPlan plan = gpu ? default_gpu_sweep(options.quick) : default_sweep(options.quick);
  if (!options.tokens.empty()) {
    plan.tokens = options.tokens;
    if (gpu) plan.power_tokens = options.tokens;
  }
  if (options.shapes.empty()) return plan;
  plan.shapes.clear();
  for (const std::string& shape : options.shapes)
    plan.shapes.push_back(gpu ? parse_shape(shape, kMostGpuWeightsLog2) : parse_shape(shape));
  return plan;
}

// Without names of files, which say nothing to others.
std::string command_of(const CalibrateOptions& options) {
  std::string command = "thermoe calibrate";
  if (!options.device.empty()) command += " --device " + options.device;
  if (options.quick) command += " --quick";
  if (options.all_kernels) command += " --all-kernels";
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
          {"thermoe", kVersion}};
}

// Whether --device, or where it isn't given what is here, means the GPU. Throws InvalidArgument.
bool on_gpu(const CalibrateOptions& options) {
  if (options.device == "cpu") return false;
  const CudaDeviceList list = cuda_device_list();
  if (options.device.empty()) return !list.devices.empty() && options.threads == 0;
  if (list.devices.empty())
    throw InvalidArgument(
        fmt::format("--device cuda: no CUDA device here ({}); use --device cpu", list.problem));
  if (options.threads > 0)
    throw InvalidArgument("--threads is for the CPU's kernels: leave it out, or use --device cpu");
  return true;
}

// Empty where there is no GPU.
std::string cpu_note() {
  const TelemetryProbe probe = probe_nvml();
  if (probe.devices.empty()) return "";
  const bool usable = !cuda_device_list().devices.empty();
  return fmt::format(
      "{} is here, but only the CPU is calibrated: {}.", probe.devices.front().name,
      usable ? "--device cuda calibrates the GPU" : "this build has no CUDA code that runs on it");
}

Bench cpu_bench(const CalibrateOptions& options) {
  if (options.all_kernels)
    throw InvalidArgument("--all-kernels is for a GPU: the CPU has one kernel for experts");
  Bench bench;
  bench.points = points_of(plan_of(options, false));
  auto cpu = std::make_unique<CpuSweep>(options.threads);
  bench.peaks = cpu->peaks();
  bench.backend = std::move(cpu);
  bench.note = cpu_note();
  bench.provenance = provenance_of(options, *bench.backend);
  bench.provenance["simd"] = simd_target();
  bench.provenance["threads"] = fmt::format("{}", bench.backend->threads());
  return bench;
}

// The device's shipped peaks, if there are any, so that its kernels' rooflines refer to the same
// ones as those of other tables; its power profile where it stands beside the profile.
void set_peaks(Bench& bench, const std::filesystem::path& folder) {
  try {
    const DevicePeaks shipped = device_peaks(bench.backend->device(), "");
    bench.peaks = {shipped.memory_bytes_per_s, shipped.bf16_flops_per_s};
    if (std::filesystem::exists(folder / shipped.file_name))
      bench.power_profile = shipped.file_name;
  } catch (const ProfileMiss&) {  // of an unknown device: the nominal ones
  }
}

// Those that are not there yet.
void add(std::vector<SweepPoint>& points, const SweepPlan& plan) {
  for (const SweepPoint& more : points_of(plan)) {
    const bool there = std::any_of(points.begin(), points.end(), [&](const SweepPoint& p) {
      return p.kernel == more.kernel && p.dtype == more.dtype && p.tokens == more.tokens &&
             p.cold == more.cold && p.shape == more.shape;
    });
    if (!there) points.push_back(more);
  }
}

// Points of the other kernels, and of the first at their token counts.
void add_kernels(std::vector<SweepPoint>& points, const GpuSweep& gpu, bool quick) {
  const std::string first = name_of(ExpertKernel::kCudaDecode);
  const std::string prefill = name_of(ExpertKernel::kCudaPrefill);
  for (const std::string dtype : kGpuDtypes) {
    std::vector<std::string> kernels = gpu.kernels(dtype);
    const bool of_its_own = dtype == "bf16" || dtype == "fp8";  // int8 and int4 it unpacks to bf16
    if (of_its_own && std::find(kernels.begin(), kernels.end(), prefill) != kernels.end())
      add(points, gpu_prefill_sweep(quick, dtype, prefill));
    for (std::string& kernel : kernels)
      if (kernel == first) kernel.clear();  // takes all points, by the name that it always has
    if (!kernels.empty()) add(points, gpu_kernel_sweep(quick, dtype, kernels));
  }
}

Bench gpu_bench(const CalibrateOptions& options) {
  Bench bench;
  bench.points = points_of(plan_of(options, true));
  std::unique_ptr<GpuSweep> gpu = make_gpu_sweep();
  if (options.all_kernels) add_kernels(bench.points, *gpu, options.quick);
  gpu->check(bench.points);
  bench.peaks = gpu->peaks();
  bench.backend = std::move(gpu);
  set_peaks(bench, std::filesystem::path(options.out).parent_path());
  if (options.device.empty())
    bench.note = fmt::format("Calibrated {}; --device cpu calibrates the processor.",
                             bench.backend->device());
  bench.provenance = provenance_of(options, *bench.backend);
  return bench;
}

SweepOutcome sweep(const Bench& bench, SweepLog& log, double budget_s) {
  const auto points = static_cast<double>(bench.points.size());
  Progress progress("calibrate", points, "points");
  SweepSettings settings;
  settings.budget_s = budget_s;
  const Interrupt interrupt;
  settings.stop = [] { return Interrupt::raised(); };
  settings.step = [&](double done_frac) { progress.update(done_frac * points); };
  return run_sweep(*bench.backend, bench.points, log, settings);
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
    json["device_kind"] = calibration.profile.provenance.count("threads") > 0 ? "cpu" : "cuda";
    json["measured_points"] = outcome.measured;
    json["resumed_points"] = outcome.resumed;
    json["note"] = note.empty() ? nlohmann::ordered_json() : nlohmann::ordered_json(note);
    write_file(options.json, json.dump(2) + "\n");
  }
  if (options.json == "-") return;
  const cost::KernelProfile& profile = calibration.profile;
  if (!note.empty()) fmt::print("{}\n", note);
  const auto& provenance = profile.provenance;
  const std::string how =
      provenance.count("threads") > 0
          ? fmt::format("{} threads, {}", provenance.at("threads"), provenance.at("simd"))
          : provenance.at("driver");
  fmt::print("{}, {}: reads {:.1f} GB/s, multiplies {:.0f} GFLOP/s\n\n{}\n", profile.device, how,
             profile.memory_bytes_per_s * 1e-9, profile.bf16_flops_per_s * 1e-9,
             to_table(calibration));
  fmt::print("{} points measured, {} taken from {}. Wrote {}.\n", outcome.measured, outcome.resumed,
             log, options.out);
}

void run_calibrate(const CalibrateOptions& options) {
  const std::filesystem::path folder = std::filesystem::path(options.out).parent_path();
  if (!folder.empty() && !std::filesystem::is_directory(folder))
    throw IoError(options.out, "its folder doesn't exist: make it, or give another --out");
  const Bench bench = on_gpu(options) ? gpu_bench(options) : cpu_bench(options);
  SweepLog log(options.log.empty() ? options.out + ".rows.csv" : options.log, *bench.backend);
  const double budget_s = options.budget_s > 0 ? options.budget_s
                          : options.quick      ? kQuickBudgetS
                                               : kBudgetS;
  const SweepOutcome outcome = sweep(bench, log, budget_s);
  if (outcome.left > 0) return give_up(outcome, log.path());
  auto progress = std::make_unique<Progress>("fit", 1, "profiles");
  Calibration calibration =
      calibrate(log.rows(), bench.peaks, [&](double done_frac) { progress->update(done_frac); });
  progress.reset();
  calibration.profile.power_profile = bench.power_profile;
  calibration.profile.provenance = bench.provenance;
  cost::write_kernel_profile(calibration.profile, options.out);
  report(options, calibration, outcome, log.path(), bench.note);
}

}  // namespace

void add_calibrate_command(CLI::App& program) {
  const auto options = std::make_shared<CalibrateOptions>();
  CLI::App* command = program.add_subcommand(
      "calibrate",
      "Make a cost profile of this machine: measure its kernels, warm and cold, for a few minutes; "
      "may be interrupted and taken up");
  command
      ->add_option("--device", options->device,
                   "cpu, or cuda: a GPU's kernels, with its power; default: cuda where this build "
                   "and machine have it (and --threads isn't given)")
      ->check(CLI::IsMember({"cpu", "cuda"}));
  command->add_option("--out", options->out, "write the profile to this file")->required();
  command->add_option("--log", options->log,
                      "the samples, a table that thermoe cost --csv reads; default: "
                      "the profile's name with .rows.csv");
  command
      ->add_option("--shapes", options->shapes,
                   "what to measure instead of the default: 256x64e32k4 (hidden, intermediate, "
                   "experts, top k) or, on the CPU, 256x4096 (inputs, outputs of a dense product)")
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
  command->add_flag("--all-kernels", options->all_kernels,
                    "on a GPU: also the other kernels that run experts, at some shapes: what "
                    "--kernels auto chooses by");
  command->add_flag("--quick", options->quick, "few shapes and token counts, for a first look");
  command->add_option("--json", options->json,
                      "write the result as JSON to this file; - for stdout");
  command->callback([options] { run_calibrate(*options); });
}

}  // namespace thermoe::app
