// The routing program of a whole batch in one launch.
//
// In: scores [T, E], T <= 256, E <= 512; prices [I], I <= 1024. Out: RouterOutput.
// Grid: one block of a warp a token, 4 to 32 warps (16 above 128 experts). The search is
// sequential: a closing is two barriers and a handful of warp reductions, so more blocks would only
// add latency. Shared memory: 8 bytes a token and instance and 4 a token and expert, where that
// fits (T = 64 at E = 128: 96 KiB), else in the workspace, which the L2 holds; and about 300 bytes
// a token. Bytes: T E scores read once, about 12 bytes a token and slot written. Exact: equals
// AdaptiveRouter with search kClimb bit for bit on given scores (the reference).
#include "kernels/cuda/routing_launch.h"
#include "kernels/cuda/routing_program.cuh"

namespace thermoe::cuda {
namespace {

// Where a lane has more than four experts their scores take too many registers for 32 warps.
constexpr int most_batch_warps(int slots) { return slots > 4 ? 16 : 32; }

template <int kSlots, bool kSingle, bool kShared>
__global__ void __launch_bounds__(most_batch_warps(kSlots) * 32, 1)
    routing_batch_kernel(const __grid_constant__ RoutingLaunch launch,
                         const __grid_constant__ ClimbShape shape, unsigned char* workspace) {
  extern __shared__ __align__(16) unsigned char shared[];
  route_batch<kSlots, kSingle, kShared>(launch, shape, shared, workspace);
}

ClimbShape climb_shape(const RoutingLaunch& launch) {
  ClimbShape shape;
  const int most = most_batch_warps(slots_of_launch(launch));
  for (shape.warps = 4; shape.warps < most && shape.warps < launch.input.tokens;) shape.warps *= 2;
  shape.rows = (launch.instance_count() + 31) / 32;
  shape.words = (launch.input.tokens + 31) / 32;
  return shape;
}

// On the current device.
cudaError_t most_shared_bytes(size_t& bytes) {
  int device = 0, most = 0;
  cudaError_t status = cudaGetDevice(&device);
  if (status == cudaSuccess)
    status = cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  bytes = static_cast<size_t>(most);
  return status;
}

template <int kSlots, bool kSingle, bool kShared>
cudaError_t enqueue_batch(const RoutingLaunch& launch, const ClimbShape& shape, size_t bytes,
                          void* workspace, cudaStream_t stream) {
  const auto kernel = routing_batch_kernel<kSlots, kSingle, kShared>;
  const cudaError_t status = cudaFuncSetAttribute(
      kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
  if (status != cudaSuccess) return status;
  kernel<<<1, shape.warps * 32, bytes, stream>>>(launch, shape,
                                                 static_cast<unsigned char*>(workspace));
  return cudaGetLastError();
}

template <bool kSingle, bool kShared>
cudaError_t enqueue_batch_of(const RoutingLaunch& launch, const ClimbShape& shape, size_t bytes,
                             void* workspace, cudaStream_t stream) {
  return slots_of_launch(launch) == 4
             ? enqueue_batch<4, kSingle, kShared>(launch, shape, bytes, workspace, stream)
             : enqueue_batch<16, kSingle, kShared>(launch, shape, bytes, workspace, stream);
}

}  // namespace

// Whatever the device's shared memory holds, so that it need not be asked.
size_t batch_workspace_bytes(const RoutingLaunch& launch) {
  const size_t bytes = table_bytes(climb_shape(launch), launch.input);
  constexpr size_t kAlwaysShared = 64 << 10;
  return bytes <= kAlwaysShared ? 0 : bytes;
}

cudaError_t launch_batch(const RoutingLaunch& launch, void* workspace, cudaStream_t stream) {
  size_t most = 0;
  const cudaError_t status = most_shared_bytes(most);
  if (status != cudaSuccess) return status;
  ClimbShape shape = climb_shape(launch);
  size_t bytes = carve_climb(nullptr, nullptr, shape, launch.input, nullptr);
  shape.shared = bytes <= most;
  if (!shape.shared) bytes = carve_climb(nullptr, nullptr, shape, launch.input, nullptr);
  if (bytes > most) return cudaErrorInvalidConfiguration;
  const bool single = launch.instances.first == nullptr;
  const auto enqueue =
      single ? (shape.shared ? enqueue_batch_of<true, true> : enqueue_batch_of<true, false>)
             : (shape.shared ? enqueue_batch_of<false, true> : enqueue_batch_of<false, false>);
  return enqueue(launch, shape, bytes, workspace, stream);
}

}  // namespace thermoe::cuda
