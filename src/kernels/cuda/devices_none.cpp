// In place of devices.cpp where thermoe is built without the CUDA code.
#include "kernels/cuda/devices.h"

namespace thermoe {

CudaDeviceList cuda_device_list() {
  CudaDeviceList list;
  list.problem =
      "this build has no CUDA code; configure with -DTHERMOE_CUDA=ON and nvcc on PATH to have it";
  return list;
}

}  // namespace thermoe
