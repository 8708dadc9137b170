#include "model/tensor_names.h"

#include <fmt/format.h>

namespace thermoe {

std::string moe_prefix(const ModelConfig& config, int layer) {
  return fmt::format("model.layers.{}.{}.", layer,
                     config.family == ModelFamily::kMixtral ? "block_sparse_moe" : "mlp");
}

std::string expert_prefix(const ModelConfig& config, int layer, int expert) {
  return fmt::format("{}experts.{}.", moe_prefix(config, layer), expert);
}

ExpertNames expert_names(ModelFamily family) {
  if (family == ModelFamily::kMixtral) return {"w1", "w3", "w2"};
  return kDenseNames;
}

}  // namespace thermoe
