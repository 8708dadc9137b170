// quantize_checkpoint: a checkpoint whose experts are nested planes (nested_view.h), made of one
// whose experts are dense.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <utility>
#include <vector>

#include "thermoe/checkpoint.h"
#include "thermoe/thread_pool.h"

namespace thermoe {

struct QuantizeSettings {
  int64_t context = 512;  // tokens of a window of calibration text; the model's most, if fewer
  int plane_ratio = 12;   // nested_view.h; 16 leaves the int4 plane no freedom
  // Experts that stay as they are stored: (layer, expert).
  std::vector<std::pair<int, int>> keep;
  // Called from the pool's threads, one at a time; may be null.
  std::function<void(int64_t experts_done, int64_t experts)> progress;
};

// One MoE layer's experts that were quantised. Errors: squared error of the output relative to its
// square, on calibration tokens that the rounding did not see, or without a calibration on normally
// distributed inputs.
struct QuantizedLayer {
  int layer = 0, experts = 0;
  float int8_error_mean = 0, int8_error_max = 0;
  float int4_error_mean = 0, int4_error_max = 0;
};

struct QuantizeResult {
  std::vector<QuantizedLayer> layers;
  int64_t calibration_tokens = 0;
  int64_t experts = 0, kept_experts = 0;
  // Of all experts, before and after (kept ones included), and of the whole checkpoint after.
  uint64_t stored_expert_bytes = 0, expert_bytes = 0, checkpoint_bytes = 0;
};

// Writes `source` to `out` with every expert as planes, everything else as it is, with its
// tokenizer and whatever else lies beside it. `texts`: tokens that the model runs over with its own
// top-k, all at once, layer by layer: each layer's experts are rounded for the inputs that they get
// there, and written, before the next layer runs. Empty: the rounding knows no inputs, and no error
// is measured. Memory: a layer's planes and the pass over the texts (nothing of other layers but
// their keys and values); weights are read through the mapping. Nothing stands at `out` before all
// does. The result depends on the thread count in no bit. Throws IoError where `out` is there
// already or can't be written, InvalidArgument where the source is quantised already, a kept expert
// doesn't exist, or a setting is out of range.
QuantizeResult quantize_checkpoint(const Checkpoint& source,
                                   std::span<const std::vector<int32_t>> texts,
                                   const std::filesystem::path& out, ThreadPool& pool,
                                   const QuantizeSettings& settings = {});

}  // namespace thermoe
