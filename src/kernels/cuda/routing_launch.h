// Between the routing kernels' launchers: which shape a launch takes. Private to this folder.
#pragma once

#include "kernels/cuda/routing.h"

namespace thermoe::cuda {

// Experts a lane: what the kernels are compiled for.
inline int slots_of_launch(const RoutingLaunch& launch) {
  return launch.input.experts <= 128 ? 4 : 16;
}

// The launchers of one mode each; the launch has been checked.
size_t token_workspace_bytes(const RoutingLaunch& launch);
cudaError_t launch_tokens(const RoutingLaunch& launch, void* workspace, cudaStream_t stream);
size_t batch_workspace_bytes(const RoutingLaunch& launch);
cudaError_t launch_batch(const RoutingLaunch& launch, void* workspace, cudaStream_t stream);

}  // namespace thermoe::cuda
