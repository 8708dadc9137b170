// What every subcommand that runs a model needs, opened in the right order.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "charge.h"
#include "kernel_choice.h"
#include "thermoe/checkpoint.h"
#include "thermoe/expert_calibration.h"
#include "thermoe/language_model.h"
#include "thermoe/routing_policies.h"
#include "thermoe/thread_pool.h"
#include "thermoe/tokenizer.h"

namespace CLI {
class App;
}

namespace thermoe::app {

// The calibration of a model's experts, where it lies in the model's directory.
constexpr const char* kCalibrationFile = "thermoe-experts.json";

// The name of a model's directory, for people, however its path is written ("./models/nano/").
std::string model_name(const std::filesystem::path& directory);

struct EngineOptions {
  std::string model;           // directory; empty: the shipped nano model
  std::string cost_shape;      // name; empty: the first known
  std::string profile;         // file; empty: the shipped H100 profile
  std::string calibration;     // file; empty: the model's own, if it has one
  bool calibrated = true;      // false: no calibration is read
  std::string variants;        // --variants; empty: what the checkpoint holds
  std::string device = "cpu";  // where the model runs: cpu or cuda
  bool fp8 = false;  // on a GPU: experts in fp8 as well; where `variants` names it they are anyway
  KernelOptions kernels;  // on a GPU
  int threads = 0;        // 0: one per hardware thread

  void add_to(CLI::App& command);
  // --variants, for commands that run one list of them.
  void add_variants_to(CLI::App& command);
  // --device and --kernels, for commands that run on a GPU too.
  void add_device_to(CLI::App& command);
  // Only what a command needs that charges no costs and routes by top-k.
  void add_model_to(CLI::App& command);
};

// A loaded model, its tokenizer, its experts' calibration if there is one, the precisions that its
// experts run in, and the cost model that its steps are charged to.
class Engine {
 public:
  // Throws IoError, InvalidArgument or ProfileMiss, each naming the file and the remedy.
  explicit Engine(const EngineOptions& options);

  // What make_routing_policy wants to know; valid as long as the engine.
  PolicyContext policy_context() const {
    return {.calibration = calibration ? &*calibration : nullptr, .on_gpu = on_gpu()};
  }
  bool on_gpu() const { return on_gpu_; }

  ThreadPool pool;
  Checkpoint checkpoint;
  std::optional<ExpertCalibration> calibration;
  Tokenizer tokenizer;
  KernelCostModel cost;

 private:
  bool on_gpu_;
  std::unique_ptr<LanguageModel> owned_;

 public:
  LanguageModel& model;
  Variants variants;
  Charge charge;             // of `variants`
  KernelChoiceMade kernels;  // on a GPU; else nothing
};

// Chooses the experts' kernels of a model on the current GPU, and tells it.
KernelChoiceMade choose_gpu_kernels(const KernelOptions& options, LanguageModel& model);

}  // namespace thermoe::app
