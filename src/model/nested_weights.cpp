#include "model/nested_weights.h"

#include <fmt/format.h>

#include <algorithm>

#include "kernels/cpu/nested_pack.h"
#include "model/tensor_names.h"
#include "thermoe/error.h"

namespace thermoe {
namespace {

NestedView bind_matrix(const Checkpoint& checkpoint, const std::string& name, int64_t rows,
                       int64_t cols) {
  NestedView view;
  view.rows = rows;
  view.cols = cols;
  view.plane_ratio = checkpoint.config().plane_ratio;
  const auto blocks = [&](const char* suffix, int64_t bytes) {
    return checkpoint.bytes(name + suffix, {view.row_blocks(), view.col_blocks(), bytes});
  };
  view.hi = blocks(kHiSuffix, NestedView::kPlaneBlockBytes);
  view.lo = blocks(kLoSuffix, NestedView::kPlaneBlockBytes);
  view.scales = blocks(kScalesSuffix, NestedView::kScaleBlockBytes);
  view.base = checkpoint.vector(name + kBaseSuffix, 1)[0];
  return view;
}

std::vector<float> read_errors(const Checkpoint& checkpoint, const std::string& name, int experts) {
  std::vector<float> errors = checkpoint.vector(name, experts);
  // A routing program can't weigh an output that is all error.
  if (std::any_of(errors.begin(), errors.end(), [](float e) { return !(e >= 0 && e < 1); }))
    throw IoError(checkpoint.directory().string(),
                  fmt::format("tensor '{}' holds an error outside [0, 1): quantise the model again "
                              "with thermoe quantize",
                              name));
  return errors;
}

}  // namespace

bool holds_nested_expert(const Checkpoint& checkpoint, int layer, int expert) {
  return checkpoint.config().plane_ratio > 0 &&
         checkpoint.contains(expert_prefix(checkpoint.config(), layer, expert) + kNestedGateUp +
                             kHiSuffix);
}

QuantizedExpert bind_nested_expert(const Checkpoint& checkpoint, int layer, int expert) {
  const ModelConfig& config = checkpoint.config();
  const std::string at = expert_prefix(config, layer, expert);
  const int64_t hidden = config.hidden_size, inter = config.expert_inter_size;
  try {
    return QuantizedExpert(
        bind_matrix(checkpoint, at + kNestedGateUp, cpu::gate_up_rows(inter), hidden),
        bind_matrix(checkpoint, at + kNestedDown, hidden, inter));
  } catch (const InvalidArgument& error) {
    throw IoError(checkpoint.directory().string(),
                  fmt::format("expert {} of layer {}: {}: quantise the model again", expert, layer,
                              error.what()));
  }
}

LayerVariants read_variants(const Checkpoint& checkpoint, int layer, const MoeLayer& moe) {
  LayerVariants variants;
  const QuantizedExpert* quantized = nullptr;
  for (int e = 0; e < moe.experts(); ++e) {
    const ExpertWeights& expert = moe.expert(e);
    variants.stored.push_back(expert.has(Precision::kStored));
    variants.quantized.push_back(expert.has(Precision::kInt8));
    if (expert.quantized) quantized = &*expert.quantized;
  }
  constexpr double kMatrices = 3, kBf16Bytes = 2;
  const ExpertWeights& any = moe.expert(0);
  variants.stored_bytes = kMatrices * kBf16Bytes * static_cast<double>(any.hidden_size()) *
                          static_cast<double>(any.inter_size());
  if (quantized == nullptr) return variants;
  const std::string at = moe_prefix(checkpoint.config(), layer);
  variants.int8_error_frac = read_errors(checkpoint, at + kInt8Error, moe.experts());
  variants.int4_error_frac = read_errors(checkpoint, at + kInt4Error, moe.experts());
  variants.int8_bytes = static_cast<double>(quantized->weight_bytes(Planes::kBoth));
  variants.int4_bytes = static_cast<double>(quantized->weight_bytes(Planes::kHi));
  return variants;
}

}  // namespace thermoe
