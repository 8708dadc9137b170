// In place of cuda_transformer.cpp where thermoe is built without the CUDA code.
#include "kernels/cuda/devices.h"
#include "thermoe/cuda_transformer.h"
#include "thermoe/error.h"
#include "thermoe/synthetic_model.h"

namespace thermoe {

std::unique_ptr<LanguageModel> make_cuda_transformer(const Checkpoint&, const CudaModelOptions&) {
  throw InvalidArgument("there is no GPU to run on: " + cuda_device_list().problem +
                        "; or use --device cpu");
}

std::unique_ptr<LanguageModel> make_synthetic_model(const SyntheticModel&) {
  throw InvalidArgument("there is no GPU to run on: " + cuda_device_list().problem);
}

}  // namespace thermoe
