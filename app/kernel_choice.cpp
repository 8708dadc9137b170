#include "kernel_choice.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>

#include "cost/kernel_profile.h"
#include "device_peaks.h"
#include "table.h"
#include "thermoe/error.h"

namespace thermoe::app {
namespace {

constexpr double kExplainS = 0.05;  // a sample

// The shipped profile in which thermoe measured its own kernels on the device; empty: none.
std::filesystem::path own_profile_of(const std::string& device) {
  for (const std::filesystem::path& file : shipped_profiles()) {
    if (is_power_profile(file)) continue;
    const cost::KernelProfile profile = cost::read_kernel_profile(file);
    if (profile.device != device) continue;
    for (const cost::MeasuredKernel& kernel : profile.kernels)
      if (kernel.kernel == profile_name(ExpertKernel::kCudaDecode)) return file;
  }
  return {};
}

KernelChoiceMade by_thresholds(std::string why) { return {nullptr, nullptr, std::move(why)}; }

KernelChoiceMade by_cost(const std::filesystem::path& file, const ModelConfig& config) {
  auto chooser = std::make_shared<CostKernelChooser>(file, layer_shape_of(config));
  return {chooser, chooser, fmt::format("by what {} predicts", file.filename().string())};
}

ExpertWork work_of(const ModelConfig& config, const std::string& dtype, int64_t tokens) {
  ExpertWork work;
  work.tokens = tokens;
  work.k = config.top_k;
  work.instances = config.experts;
  work.bf16 = dtype == "bf16";
  work.int8 = dtype == "int8";
  work.int4 = dtype == "int4";
  work.fp8 = dtype == "fp8";
  return work;
}

std::string us_text(const std::optional<double>& us) {
  return us ? fmt::format("{:.1f}", *us) : "-";
}

}  // namespace

void KernelOptions::add_to(CLI::App& command) {
  command
      .add_option("--kernels", kernels,
                  "on a GPU, what runs the experts: auto (what the profile of the GPU says is "
                  "fastest), cuda (by the number of tokens), triton")
      ->check(CLI::IsMember({"auto", "cuda", "triton"}))
      ->capture_default_str();
  command.add_option("--kernel-profile", profile,
                     "the profile that auto goes by, from thermoe calibrate --device cuda "
                     "--all-kernels; default: the shipped one of the GPU");
}

CostShape layer_shape_of(const ModelConfig& config) {
  CostShape shape;
  shape.name = "the model";
  shape.hidden_size = config.hidden_size;
  shape.expert_inter_size = config.expert_inter_size;
  shape.experts = config.experts;
  shape.top_k = config.top_k;
  shape.layers = 1;
  return shape;
}

KernelChoiceMade choose_kernels(const KernelOptions& options, const ModelConfig& config,
                                const std::string& device) {
  if (!options.profile.empty() && options.kernels != "auto")
    throw InvalidArgument("--kernel-profile is for --kernels auto");
  if (options.kernels == "triton")
    return {std::make_shared<TritonChooser>(), nullptr, "Triton's, as was asked for"};
  if (options.kernels == "cuda") return by_thresholds("by tokens an expert, as was asked for");
  if (!options.profile.empty()) return by_cost(options.profile, config);
  const std::filesystem::path file = own_profile_of(device);
  if (file.empty())
    return by_thresholds(fmt::format("by tokens an expert: no profile of {}", device));
  try {
    return by_cost(file, config);
  } catch (const ProfileMiss&) {
    return by_thresholds(
        fmt::format("by tokens an expert: {} measured only one kernel", file.filename().string()));
  }
}

std::vector<ExplainedKernel> explain_kernels(SweepBackend& backend,
                                             const std::vector<std::string>& kernels,
                                             const ModelConfig& config, const std::string& dtype,
                                             const std::vector<int64_t>& tokens,
                                             const KernelChoiceMade& choice) {
  ExpertKernelSet able;
  for (const std::string& name : kernels)
    if (const auto kernel = expert_kernel_of(name)) able.add(*kernel);
  const ThresholdChooser thresholds;
  const ExpertKernelChooser& chooser = choice.chooser ? *choice.chooser : thresholds;
  std::vector<ExplainedKernel> explained;
  for (const int64_t count : tokens) {
    const ExpertWork work = work_of(config, dtype, count);
    const auto predicted =
        choice.by_cost ? choice.by_cost->predict(work, able) : std::vector<PredictedKernel>();
    for (const std::string& name : kernels) {
      ExplainedKernel row{name, dtype, count, {}, {}, kernels.size() == 1};
      const auto kernel = expert_kernel_of(name);
      if (kernel) row.chosen = chooser.choose(work, able) == *kernel;
      for (const PredictedKernel& p : predicted)
        if (kernel && p.kernel == *kernel) row.predicted_us = p.cost.latency_us;
      SweepPoint point;
      point.shape = {cost::Operation::kExperts,
                     config.hidden_size,
                     config.expert_inter_size,
                     config.experts,
                     config.top_k,
                     1,
                     1,
                     0};
      point.tokens = count;
      point.cold = true;
      point.dtype = dtype;
      if (kernel) point.kernel = name;
      row.measured_us = backend.run(point, kExplainS).latency_us;
      explained.push_back(std::move(row));
    }
  }
  return explained;
}

std::string to_table(const std::vector<ExplainedKernel>& explained) {
  Table table;
  table.header = {"tokens", "weights", "kernel", "predicted us", "measured us", "chosen"};
  for (const ExplainedKernel& row : explained)
    table.rows.push_back({fmt::format("{}", row.tokens), row.dtype, row.kernel,
                          us_text(row.predicted_us), us_text(row.measured_us),
                          row.chosen ? "yes" : ""});
  return table.text();
}

nlohmann::ordered_json to_json(const std::vector<ExplainedKernel>& explained) {
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  const auto number = [](const std::optional<double>& value) {
    return value ? nlohmann::ordered_json(*value) : nlohmann::ordered_json();
  };
  for (const ExplainedKernel& row : explained)
    list.push_back({{"tokens", row.tokens},
                    {"dtype", row.dtype},
                    {"kernel", row.kernel},
                    {"predicted_us", number(row.predicted_us)},
                    {"measured_us", number(row.measured_us)},
                    {"chosen", row.chosen}});
  return list;
}

}  // namespace thermoe::app
