#include "engine.h"

#include <CLI/CLI.hpp>

#include "paths.h"

namespace thermoe::app {
namespace {

// The profile that a newcomer's run is charged to: the H100 under vLLM's bf16 kernel.
constexpr const char* kDefaultProfile = "data/profiles/h100-sxm-bf16.json";

std::filesystem::path model_directory(const EngineOptions& options) {
  return options.model.empty() ? shipped("models/nano") : std::filesystem::path(options.model);
}

const CostShape& shape_of(const EngineOptions& options) {
  return options.cost_shape.empty() ? known_cost_shapes().front() : cost_shape(options.cost_shape);
}

Checkpoint open_checked(const std::filesystem::path& directory) {
  Checkpoint checkpoint(directory);
  checkpoint.check_finite();
  return checkpoint;
}

}  // namespace

void EngineOptions::add_to(CLI::App& command) {
  std::string shapes;
  for (const CostShape& shape : known_cost_shapes())
    shapes += (shapes.empty() ? "" : ", ") + shape.name;
  command.add_option("--model", model,
                     "Hugging Face model directory (Qwen3-MoE, OLMoE or Mixtral); default: the "
                     "shipped nano model");
  command.add_option("--cost-shape", cost_shape,
                     "charge experts at the size of: " + shapes + "; default: the first");
  command.add_option("--profile", profile, "cost profile of a device; default: the shipped H100's");
  command.add_option("--threads", threads, "CPU threads; default: one per core")
      ->check(CLI::Range(0, 1024));
}

Engine::Engine(const EngineOptions& options)
    : pool(options.threads),
      checkpoint(open_checked(model_directory(options))),
      tokenizer(model_directory(options)),
      cost(options.profile.empty() ? shipped(kDefaultProfile)
                                   : std::filesystem::path(options.profile),
           shape_of(options)),
      charge(cost, checkpoint.config()),
      model(checkpoint, pool) {}

}  // namespace thermoe::app
