// In place of gpu_work.cpp where thermoe is built without the CUDA code.
#include <fmt/format.h>

#include "gpu_work.h"
#include "kernels/cuda/devices.h"
#include "thermoe/error.h"

namespace thermoe::app {

std::unique_ptr<GpuWork> make_gpu_work() {
  throw InvalidArgument(fmt::format("--device cuda: no CUDA device here ({}); use --device cpu",
                                    cuda_device_list().problem));
}

}  // namespace thermoe::app
