// In place of route_on_stream.cpp where thermoe is built without the CUDA code.
#include "c_api/boundary.h"
#include "kernels/cuda/devices.h"

namespace thermoe::c_api {
namespace {

thermoe_status no_cuda() noexcept {
  try {
    return fail(THERMOE_NO_CUDA, cuda_device_list().problem.c_str());
  } catch (...) {
    return status_of_exception();
  }
}

}  // namespace
}  // namespace thermoe::c_api

int32_t thermoe_has_cuda(void) { return 0; }

thermoe_status thermoe_route_on_stream(const thermoe_device_batch*, void*) {
  return thermoe::c_api::no_cuda();
}

thermoe_status thermoe_route_workspace_bytes(const thermoe_device_batch*, size_t*) {
  return thermoe::c_api::no_cuda();
}
