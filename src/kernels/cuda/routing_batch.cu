// The routing program of a whole batch in one launch.
//
// In: scores [T, E], T <= 256, E <= 512; prices [I], I <= 1024. Out: RouterOutput.
// Grid: one block of a warp a token, 4 to 32 warps (16 above 128 experts). The search is a chain of
// rounds, each two barriers and a handful of warp reductions, so more blocks would only add
// latency. Shared memory: 12 bytes a token and expert, where that fits (T = 128 at E = 128: 192
// KiB), else in the workspace, which the L2 holds; and about 200 bytes a token. Bytes: T E scores
// read once, about 12 bytes a token and slot written. Exact: equals AdaptiveRouter with search
// kClimb bit for bit on given scores (the reference).
#include "kernels/cuda/routing_launch.h"
#include "kernels/cuda/routing_program.cuh"

namespace thermoe::cuda {
namespace {

// Where a lane has more than four experts their scores take too many registers for 32 warps.
constexpr int most_batch_warps(int slots) { return slots > 4 ? 16 : 32; }

template <int kSlots, bool kSingle, TokenPlace kPlace>
__global__ void __launch_bounds__(most_batch_warps(kSlots) * 32, 1)
    routing_batch_kernel(const __grid_constant__ RoutingLaunch launch,
                         const __grid_constant__ BatchShape shape, unsigned char* workspace) {
  extern __shared__ __align__(16) unsigned char shared[];
  route_batch<kSlots, kSingle, kPlace>(launch, shape, shared, workspace);
}

BatchShape batch_shape(const RoutingLaunch& launch) {
  BatchShape shape;
  const int most = most_batch_warps(slots_of_launch(launch));
  for (shape.warps = 4; shape.warps < most && shape.warps < launch.input.tokens;) shape.warps *= 2;
  shape.rows = (launch.instance_count() + 31) / 32;
  shape.words = (launch.input.tokens + 31) / 32;
  const int tokens = launch.input.tokens;
  shape.place = tokens <= shape.warps       ? TokenPlace::kRegisters
                : tokens <= 2 * shape.warps ? TokenPlace::kPairs
                                            : TokenPlace::kShared;
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

template <int kSlots, bool kSingle, TokenPlace kPlace>
cudaError_t enqueue_batch(const RoutingLaunch& launch, const BatchShape& shape, size_t bytes,
                          void* workspace, cudaStream_t stream) {
  const auto kernel = routing_batch_kernel<kSlots, kSingle, kPlace>;
  const cudaError_t status = cudaFuncSetAttribute(
      kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
  if (status != cudaSuccess) return status;
  kernel<<<1, shape.warps * 32, bytes, stream>>>(launch, shape,
                                                 static_cast<unsigned char*>(workspace));
  return cudaGetLastError();
}

template <int kSlots, bool kSingle>
cudaError_t enqueue_batch_of(const RoutingLaunch& launch, const BatchShape& shape, size_t bytes,
                             void* workspace, cudaStream_t stream) {
  switch (shape.place) {
    case TokenPlace::kRegisters:
      return enqueue_batch<kSlots, kSingle, TokenPlace::kRegisters>(launch, shape, bytes, workspace,
                                                                    stream);
    case TokenPlace::kPairs:
      return enqueue_batch<kSlots, kSingle, TokenPlace::kPairs>(launch, shape, bytes, workspace,
                                                                stream);
    case TokenPlace::kShared:
      return enqueue_batch<kSlots, kSingle, TokenPlace::kShared>(launch, shape, bytes, workspace,
                                                                 stream);
    case TokenPlace::kWorkspace:
      return enqueue_batch<kSlots, kSingle, TokenPlace::kWorkspace>(launch, shape, bytes, workspace,
                                                                    stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace

// Whatever the device's shared memory holds, so that it need not be asked.
size_t batch_workspace_bytes(const RoutingLaunch& launch) {
  return tokens_in_registers(batch_shape(launch).place) > 0 ? 0 : table_bytes(launch.input);
}

cudaError_t launch_batch(const RoutingLaunch& launch, void* workspace, cudaStream_t stream) {
  size_t most = 0;
  const cudaError_t status = most_shared_bytes(most);
  if (status != cudaSuccess) return status;
  BatchShape shape = batch_shape(launch);
  size_t bytes = carve_batch(nullptr, nullptr, shape, launch.input, nullptr);
  if (bytes > most && shape.place == TokenPlace::kShared) {
    shape.place = TokenPlace::kWorkspace;
    bytes = carve_batch(nullptr, nullptr, shape, launch.input, nullptr);
  }
  if (bytes > most) return cudaErrorInvalidConfiguration;
  const bool few = slots_of_launch(launch) == 4;
  const auto enqueue = launch.instances.first == nullptr
                           ? (few ? enqueue_batch_of<4, true> : enqueue_batch_of<16, true>)
                           : (few ? enqueue_batch_of<4, false> : enqueue_batch_of<16, false>);
  return enqueue(launch, shape, bytes, workspace, stream);
}

}  // namespace thermoe::cuda
