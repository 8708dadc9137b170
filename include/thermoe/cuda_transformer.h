// The GPU runtime of a checkpoint. Free of CUDA headers: a build without CUDA has it too, and
// refuses.
#pragma once

#include <memory>

#include "thermoe/checkpoint.h"
#include "thermoe/language_model.h"

namespace thermoe {

struct CudaModelOptions {
  // Experts that are stored in bf16 can run with fp8 arithmetic, too (a copy of half their bytes):
  // weights in e4m3 with a scale a row, activations quantised on the way, 128 values a scale. Needs
  // compute capability 9.0.
  bool fp8 = false;
};

// Relative squared error of an expert's output in fp8, against bf16's, of random weights and inputs
// (tests/kernels/cuda/prefill_experts_test.cpp): what the router is told.
constexpr float kFp8ErrorFrac = 0.0041f;

// The checkpoint on the current CUDA device: weights in bf16 (f32 and f16 are rounded) or nested
// planes, residuals in f32, products in bf16 with f32 sums. The checkpoint is not needed
// afterwards.
//
// Many rows run their experts on Hopper's warpgroup products (kernels/cuda/prefill_experts.h), few
// rows on the decode kernel; experts in fp8 always on the former. Nested planes become bf16 for the
// former, a layer at a time.
//
// TopKPolicy, and AdaptiveRouter where it is set to climb, are applied on the device, in batches of
// up to 256 rows; larger groups take each row's best at slope prices. Decode steps are CUDA graphs:
// captured once for a batch size, they see new prices. Any other policy, and a goal or layout that
// the routing kernel does not know, is asked on the host, which waits for every layer's scores.
//
// forward() takes up to 16384 rows. An observer gets no layer passes (on_layer), and of a plan made
// on the device no bound but what every token's own top-k is worth.
//
// Throws InvalidArgument: no CUDA in this build, no device, a model that does not fit its memory
// (saying how much it needs) or that the kernels can't run (a head_dim other than 32, 64, 96, 128;
// experts' sizes that are no multiples of 32; more than 512 experts or 16 a token). Throws
// CudaError where a call fails, IoError where a tensor is missing.
std::unique_ptr<LanguageModel> make_cuda_transformer(const Checkpoint& checkpoint,
                                                     const CudaModelOptions& options = {});

}  // namespace thermoe
