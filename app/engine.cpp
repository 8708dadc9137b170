#include "engine.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>

#include "kernels/cuda/devices.h"
#include "paths.h"
#include "thermoe/calibrate_experts.h"
#include "thermoe/cuda_transformer.h"
#include "thermoe/error.h"
#include "thermoe/synthetic_model.h"
#include "thermoe/transformer.h"

namespace thermoe::app {
namespace {

std::filesystem::path model_directory(const EngineOptions& options) {
  if (options.model.starts_with(kSyntheticPrefix))
    throw InvalidArgument(fmt::format(
        "{}: random weights have no text to say: time them with thermoe sustain", options.model));
  return options.model.empty() ? shipped("models/nano") : std::filesystem::path(options.model);
}

const CostShape& shape_of(const EngineOptions& options) {
  return options.cost_shape.empty() ? known_cost_shapes().front() : cost_shape(options.cost_shape);
}

// The file to read the calibration from; empty: there is none.
std::filesystem::path calibration_file(const EngineOptions& options) {
  if (!options.calibrated) return {};
  if (!options.calibration.empty()) return options.calibration;
  const std::filesystem::path own = model_directory(options) / kCalibrationFile;
  std::error_code ignored;
  return std::filesystem::exists(own, ignored) ? own : std::filesystem::path();
}

std::optional<ExpertCalibration> open_calibration(const EngineOptions& options,
                                                  const ModelConfig& config) {
  const std::filesystem::path file = calibration_file(options);
  if (file.empty()) return std::nullopt;
  ExpertCalibration calibration = ExpertCalibration::load(file);
  try {
    check_calibration(calibration, config);
  } catch (const InvalidArgument& error) {
    throw IoError(file.string(), error.what());
  }
  return calibration;
}

// Damaged weights are refused before they are copied anywhere.
std::unique_ptr<LanguageModel> load(const Checkpoint& checkpoint, ThreadPool& pool, bool on_gpu,
                                    bool fp8) {
  checkpoint.check_finite();
  if (on_gpu) return make_cuda_transformer(checkpoint, {.fp8 = fp8});
  return std::make_unique<Transformer>(checkpoint, pool);
}

}  // namespace

std::string model_name(const std::filesystem::path& directory) {
  return std::filesystem::weakly_canonical(directory).filename().string();
}

void EngineOptions::add_model_to(CLI::App& command) {
  command.add_option("--model", model,
                     "Hugging Face model directory (Qwen3-MoE, OLMoE or Mixtral); default: the "
                     "shipped nano model; thermoe sustain takes synthetic:NAME too, a shape of "
                     "--cost-shape");
  command.add_option("--threads", threads, "CPU threads; default: one per core")
      ->check(CLI::Range(0, 1024));
}

void EngineOptions::add_to(CLI::App& command) {
  add_model_to(command);
  std::string shapes;
  for (const CostShape& shape : known_cost_shapes())
    shapes += (shapes.empty() ? "" : ", ") + shape.name;
  command.add_option("--cost-shape", cost_shape,
                     "charge experts at the size of: " + shapes + "; default: the first");
  command.add_option("--profile", profile, "cost profile of a device; default: the shipped H100's");
  command.add_option(
      "--calibration", calibration,
      std::string("what thermoe calibrate-experts measured of this model; default: ") +
          kCalibrationFile + " in the model's directory, where there is one");
}

void EngineOptions::add_device_to(CLI::App& command) {
  command.add_option("--device", device, "where the model runs: cpu or cuda (a GPU)")
      ->check(CLI::IsMember({"cpu", "cuda"}))
      ->capture_default_str();
  kernels.add_to(command);
}

void EngineOptions::add_variants_to(CLI::App& command) {
  command.add_option("--variants", variants, kVariantsHelp);
}

Engine::Engine(const EngineOptions& options)
    : pool(options.threads),
      checkpoint(model_directory(options)),
      calibration(open_calibration(options, checkpoint.config())),
      tokenizer(model_directory(options)),
      cost(options.profile.empty() ? shipped(kDefaultProfile)
                                   : std::filesystem::path(options.profile),
           shape_of(options)),
      on_gpu_(options.device == "cuda"),
      owned_(load(checkpoint, pool, on_gpu_,
                  options.fp8 || options.variants.find("fp8") != std::string::npos)),
      model(*owned_),
      variants(model.variants(), options.variants, checkpoint.directory().string()),
      charge(cost, checkpoint.config(), variants) {
  if (on_gpu_) kernels = choose_gpu_kernels(options.kernels, model);
}

KernelChoiceMade choose_gpu_kernels(const KernelOptions& options, LanguageModel& model) {
  const CudaDeviceList list = cuda_device_list();
  KernelChoiceMade made = choose_kernels(options, model.config(),
                                         list.devices.empty() ? "" : list.devices.front().name);
  model.set_expert_kernels(made.chooser);
  return made;
}

}  // namespace thermoe::app
