// --kernels: which kernels run the experts on a GPU, who says so, and what that rests on.
#pragma once

#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "sweep.h"
#include "thermoe/cost_kernel_chooser.h"
#include "thermoe/model_config.h"

namespace CLI {
class App;
}

namespace thermoe::app {

struct KernelOptions {
  std::string kernels = "auto";
  std::string profile;  // file; empty: the shipped one of the device, if there is one

  void add_to(CLI::App& command);
};

// What was decided, in words for people.
struct KernelChoiceMade {
  std::shared_ptr<const ExpertKernelChooser> chooser;  // null: the model's own thresholds
  std::shared_ptr<CostKernelChooser> by_cost;          // the same, where costs decide
  std::string why;
};

// auto: by a profile of `device` in which thermoe calibrate --all-kernels measured several kernels,
// else by thresholds; cuda: by thresholds; triton. Throws IoError or ProfileMiss for a profile that
// was given and doesn't do.
KernelChoiceMade choose_kernels(const KernelOptions& options, const ModelConfig& config,
                                const std::string& device);

// A layer of the model as a cost shape.
CostShape layer_shape_of(const ModelConfig& config);

// One kernel at one batch: what was predicted, and measured on this device with random weights.
struct ExplainedKernel {
  std::string kernel, dtype;
  int64_t tokens = 0;
  std::optional<double> predicted_us, measured_us;
  bool chosen = false;
};

// Measures every kernel of the backend that takes the type, tokens spread evenly; `chooser` may be
// null (a CPU has one kernel).
std::vector<ExplainedKernel> explain_kernels(SweepBackend& backend,
                                             const std::vector<std::string>& kernels,
                                             const ModelConfig& config, const std::string& dtype,
                                             const std::vector<int64_t>& tokens,
                                             const KernelChoiceMade& choice);
std::string to_table(const std::vector<ExplainedKernel>& explained);
nlohmann::ordered_json to_json(const std::vector<ExplainedKernel>& explained);

}  // namespace thermoe::app
