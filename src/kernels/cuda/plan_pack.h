// The packed order of plans that were made apart: of several groups' tokens, of the host's.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

namespace thermoe::cuda {

// Fills offsets [I + 1] and packed [used pairs] of a plan's instances [pairs] (unused slots -1), as
// thermoe::pack does: the pairs of each instance by rising number. instances 1 to 1024. Everything
// but the sizes is read on the device; capturable.
cudaError_t pack_plan(const int32_t* plan_instances, int64_t pairs, int instances, int32_t* offsets,
                      int32_t* packed, cudaStream_t stream);

// instances [rows] = 0, weights = 1, offsets = (0, rows), packed = 0 .. rows - 1: everybody to one
// expert.
cudaError_t plan_of_one(int rows, int32_t* instances, float* weights, int32_t* offsets,
                        int32_t* packed, cudaStream_t stream);

}  // namespace thermoe::cuda
