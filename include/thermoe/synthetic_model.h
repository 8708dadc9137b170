// A model of a published shape with random weights, for timing alone.
#pragma once

#include <array>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "thermoe/kernel_cost_model.h"
#include "thermoe/language_model.h"

namespace thermoe {

// Router logits of tokens that ran through a real model, [layers, rows, experts].
struct LogitTable {
  int layers = 0, rows = 0, experts = 0;
  std::vector<float> logits;
};

struct SyntheticModel {
  CostShape shape;
  int layers = 0;                     // of them so many; 0: all
  std::vector<Precision> precisions;  // that experts are held in, the most accurate first
  // Measured errors of the precisions in a real model: relative squared, by Precision.
  std::array<float, kPrecisions> error_frac{};
  LogitTable routing;

  // "synthetic:NAME" or "synthetic:NAME:layers=N" of a known cost shape. Throws InvalidArgument,
  // listing the names.
  static SyntheticModel parse(const std::string& text);
};

constexpr std::string_view kSyntheticPrefix = "synthetic:";

// On the current CUDA device. What it computes means nothing; what it moves and multiplies is what
// a model of that shape does: attention, router and experts of their sizes, each token sent where
// the recorded logits say. Shared experts, biases and attention sinks are left out. Throws
// InvalidArgument: no CUDA in this build, no device, a shape that the kernels don't take, or that
// doesn't fit the GPU's memory (saying how many layers would).
std::unique_ptr<LanguageModel> make_synthetic_model(const SyntheticModel& model);

}  // namespace thermoe
