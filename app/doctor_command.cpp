// thermoe doctor: what is found on this machine, what is missing and how to get it.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>
#include <thread>

#include "commands.h"
#include "cpu_sensors.h"
#include "device_peaks.h"
#include "kernels/cuda/devices.h"
#include "kernels/triton/compiled_kernels.h"
#include "paths.h"
#include "prometheus_export.h"
#include "table.h"
#include "thermoe/checkpoint.h"
#include "thermoe/error.h"
#include "thermoe/gpu_system_monitor.h"
#include "thermoe/kernel_cost_model.h"

namespace thermoe::app {
namespace {

// One thing looked for: found or not, what, and what to do about it.
struct Finding {
  std::string subject;
  bool found = false;
  std::string detail;
  std::string remedy;  // empty where nothing need be done
};

Finding find_cpu() {
  std::string features;
  const auto add = [&features](bool has, const char* name) {
    if (has) features += (features.empty() ? "" : " ") + std::string(name);
  };
#if defined(__x86_64__)
  add(__builtin_cpu_supports("sse4.2") != 0, "sse4.2");
  add(__builtin_cpu_supports("avx2") != 0, "avx2");
  add(__builtin_cpu_supports("fma") != 0, "fma");
  add(__builtin_cpu_supports("avx512f") != 0, "avx512f");
  const bool fast = __builtin_cpu_supports("avx2") != 0 && __builtin_cpu_supports("fma") != 0;
#else
  add(true, "portable SIMD");
  const bool fast = true;
#endif
  return {"CPU", true,
          fmt::format("{}, {} threads, {}", CpuSensors().name(),
                      std::thread::hardware_concurrency(), features),
          fast ? "" : "no AVX2 and FMA: the CPU runtime works, several times slower"};
}

Finding find_cuda() {
  const CudaDeviceList list = cuda_device_list();
  std::string detail = list.compiled_in ? "compiled in" : "this build is without the CUDA code";
  for (const CudaDevice& device : list.devices)
    detail += fmt::format("; {} (sm_{}{}, {} SMs, {:.0f} GiB)", device.name, device.compute_major,
                          device.compute_minor, device.multiprocessors,
                          static_cast<double>(device.memory_bytes) / (1 << 30));
  return {"CUDA", list.compiled_in && !list.devices.empty(), detail, list.problem};
}

Finding find_triton() {
  try {
    const triton::KernelSet& set = triton::kernels_in_use();
    if (set.kernels.empty()) return {"Triton", false, "no compiled kernels", set.problem};
    const auto arch = [&](int which) {
      return std::count_if(set.kernels.begin(), set.kernels.end(),
                           [which](const auto& kernel) { return kernel.arch == which; });
    };
    return {"Triton", true,
            fmt::format("kernels compiled by {}: {} for sm_80, {} for sm_90 (sources {})",
                        set.triton_version, arch(80), arch(90), set.sources_crc32),
            ""};
  } catch (const Error& error) {
    return {"Triton", false, "THERMOE_TRITON_DIR's kernels can't be used", error.what()};
  }
}

std::vector<Finding> find_telemetry() {
  const TelemetryProbe probe = probe_nvml();
  std::vector<Finding> findings;
  findings.push_back({"NVML", probe.library_found && !probe.devices.empty(),
                      probe.library_found
                          ? fmt::format("{}, driver {}", probe.library, probe.driver_version)
                          : fmt::format("{} not found", probe.library),
                      probe.problem});
  for (const TelemetryProbe::Device& device : probe.devices)
    findings.push_back(
        {"GPU", true,
         fmt::format("{}; reads {}", device.name, fmt::join(device.available_fields, ", ")),
         device.missing_fields.empty() ? ""
                                       : fmt::format("not offered by this board: {}",
                                                     fmt::join(device.missing_fields, ", "))});
  return findings;
}

Finding find_prometheus() {
  if (PrometheusExport::available())
    return {"metrics", true, "monitor --prometheus is compiled in", ""};
  return {"metrics", false, "this build can't serve Prometheus",
          "install prometheus-cpp-dev and libcpp-httplib-dev and build again"};
}

Finding find_profiles() {
  try {
    std::vector<std::string> names;
    for (const std::filesystem::path& file : shipped_profiles())
      names.push_back(file.stem().string());
    return {"profiles", !names.empty(), fmt::format("{}", fmt::join(names, ", ")), ""};
  } catch (const Error& error) {
    return {"profiles", false, error.what(), "run from a checkout or an install tree"};
  }
}

Finding find_model() {
  try {
    const Checkpoint checkpoint(shipped("models/nano"));
    const ModelConfig& config = checkpoint.config();
    return {"model", true,
            fmt::format("nano: {}, {} layers, {} experts, top {}", name_of(config.family),
                        config.layers, config.experts, config.top_k),
            ""};
  } catch (const Error& error) {
    return {"model", false, error.what(), "clone the repository again"};
  }
}

void run_doctor(const std::string& json_file) {
  std::vector<Finding> findings{find_cpu(), find_cuda(), find_triton()};
  for (Finding& finding : find_telemetry()) findings.push_back(std::move(finding));
  findings.push_back(find_prometheus());
  findings.push_back(find_profiles());
  findings.push_back(find_model());
  if (!json_file.empty()) {
    auto json = nlohmann::ordered_json::array();
    for (const Finding& finding : findings)
      json.push_back({{"subject", finding.subject},
                      {"found", finding.found},
                      {"detail", finding.detail},
                      {"remedy", finding.remedy}});
    write_file(json_file, nlohmann::ordered_json{{"findings", json}}.dump(2) + "\n");
  }
  if (json_file == "-") return;
  for (const Finding& finding : findings) {
    fmt::print("{} {:9} {}\n", finding.found ? "+" : "-", finding.subject, finding.detail);
    if (!finding.remedy.empty()) fmt::print("            {}\n", finding.remedy);
  }
  const bool gpu = std::any_of(findings.begin(), findings.end(),
                               [](const Finding& finding) { return finding.subject == "GPU"; });
  fmt::print("\n{}\n", gpu ? "thermoe run also uses this GPU's telemetry."
                           : "No GPU here: thermoe run uses the digital twin of one.");
}

}  // namespace

void add_doctor_command(CLI::App& program) {
  const auto json = std::make_shared<std::string>();
  CLI::App* command = program.add_subcommand(
      "doctor", "What is found on this machine, what is missing and how to get it");
  command->add_option("--json", *json, "write the findings as JSON to this file; - for stdout");
  command->callback([json] { run_doctor(*json); });
}

}  // namespace thermoe::app
