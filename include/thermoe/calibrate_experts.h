// calibrate_experts: measures a model's experts by running it forward over a little text.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "thermoe/expert_calibration.h"
#include "thermoe/language_model.h"
#include "thermoe/thread_pool.h"

namespace thermoe {

struct CalibrationSettings {
  int64_t context = 512;  // tokens that a window of text has at most; windows don't see each other
  // Every expert runs on so many of the tokens, evenly spread, for the similarity: that part costs
  // E / k times a forward pass's experts and E^2 * hidden products a token and layer.
  int64_t similarity_tokens = 256;
  std::function<void(int64_t tokens_done, int64_t tokens)> progress;  // may be null
};

// Runs `texts` (tokens, one text after the other) through the model with its own top-k and measures
// every MoE layer's experts: loads and norms over all tokens, similarity over some. Beside the
// forward pass's own buffers it needs [layers, E, E] doubles and some 64 MB. The result depends on
// the thread count in no bit, and has no `model` name yet. `model` runs on the CPU, on `pool`.
// Throws InvalidArgument where there is no token, a token is outside the vocabulary, or a setting
// is below 1.
ExpertCalibration calibrate_experts(LanguageModel& model,
                                    std::span<const std::vector<int32_t>> texts, ThreadPool& pool,
                                    const CalibrationSettings& settings = {});

// Throws InvalidArgument saying what differs where the calibration is not of such a model: another
// number of layers, experts or top-k, or other layers sparse.
void check_calibration(const ExpertCalibration& calibration, const ModelConfig& config);

}  // namespace thermoe
