// How the families name the tensors of their experts.
#pragma once

#include <string>

#include "thermoe/model_config.h"

namespace thermoe {

// "model.layers.3.mlp." or, for Mixtral, "model.layers.3.block_sparse_moe."
std::string moe_prefix(const ModelConfig& config, int layer);
// "<moe prefix>experts.7."
std::string expert_prefix(const ModelConfig& config, int layer, int expert);

// An expert's three matrices, without their ".weight": below expert_prefix.
struct ExpertNames {
  const char *gate, *up, *down;
};
ExpertNames expert_names(ModelFamily family);
// The same of a dense feed-forward block, below "model.layers.3.mlp.".
inline constexpr ExpertNames kDenseNames = {"gate_proj", "up_proj", "down_proj"};

// A matrix as nested planes: "<expert prefix>gate_up" and "down", followed by these. Planes and
// scales are U8 [row blocks, column blocks, bytes of a block], the base is F32 [1].
inline constexpr const char* kNestedGateUp = "gate_up";
inline constexpr const char* kNestedDown = "down";
inline constexpr const char* kHiSuffix = ".hi";
inline constexpr const char* kLoSuffix = ".lo";
inline constexpr const char* kScalesSuffix = ".scales";
inline constexpr const char* kBaseSuffix = ".base";
// The measured errors of a layer's experts, F32 [E], below moe_prefix; 0 for those kept dense.
inline constexpr const char* kInt8Error = "experts.int8_error";
inline constexpr const char* kInt4Error = "experts.int4_error";

}  // namespace thermoe
