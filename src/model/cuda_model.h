// A model of given weights on the GPU: what makes a checkpoint's and a synthetic one's runtime.
#pragma once

#include <memory>
#include <vector>

#include "model/cuda_weights.h"
#include "thermoe/language_model.h"
#include "thermoe/synthetic_model.h"

namespace thermoe {

// `routing`, where not empty, is where router logits are drawn from.
std::unique_ptr<LanguageModel> make_cuda_model(const ModelConfig& config, CudaWeights weights,
                                               std::vector<LayerVariants> variants,
                                               const LogitTable& routing = {});

// Experts that are stored can run in fp8, too. Throws InvalidArgument where the GPU can't.
void add_fp8(const ModelConfig& config, std::vector<LayerVariants>& variants);

// Throws InvalidArgument where there is no GPU.
void check_cuda_device();

}  // namespace thermoe
