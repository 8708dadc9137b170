#include <cuda_runtime_api.h>

#include "c_api/boundary.h"
#include "kernels/cuda/cuda_resources.h"
#include "kernels/cuda/routing.h"

namespace thermoe::c_api {
namespace {

// The kernel writes the library's report through the caller's pointer.
static_assert(sizeof(thermoe_device_report) == sizeof(cuda::GpuRoutingReport));
static_assert(offsetof(thermoe_device_report, rounds) == offsetof(cuda::GpuRoutingReport, rounds));
static_assert(offsetof(thermoe_device_report, cost) == offsetof(cuda::GpuRoutingReport, cost));

template <typename Enum>
Enum code_of(int32_t code, int32_t last, const char* name) {
  check_code(code, last, name);
  return static_cast<Enum>(code);
}

cuda::RouterInput input_of(const thermoe_device_batch& batch) {
  require(batch.scores, "device batch: scores");
  check_count(batch.experts, cuda::RoutingLaunch::kMostExperts, "device batch: experts");
  check_count(batch.tokens, cuda::RoutingLaunch::kMostTokens, "device batch: tokens");
  check_count(batch.k, std::min(batch.experts, cuda::RoutingLaunch::kMostSlots), "device batch: k");
  if (batch.row_stride != 0 && batch.row_stride < batch.experts)
    throw InvalidArgument(fmt::format(
        "device batch: row_stride is {}: rows of {} scores must be at least as far apart",
        batch.row_stride, batch.experts));
  cuda::RouterInput input;
  input.scores = batch.scores;
  input.row_stride = batch.row_stride;
  input.tokens = batch.tokens;
  input.experts = batch.experts;
  input.k = batch.k;
  input.type = code_of<cuda::ScoreType>(batch.score_type, 1, "device batch: score_type");
  input.gate = code_of<cuda::Gate>(batch.gate, 2, "device batch: gate");
  input.renormalize = batch.keep_probabilities == 0;
  input.bias = batch.bias;
  return input;
}

cuda::RouterOutput output_of(const thermoe_device_batch& batch) {
  require(batch.ids, "device batch: ids");
  require(batch.plan_instances, "device batch: plan_instances");
  require(batch.weights, "device batch: weights");
  require(batch.changed, "device batch: changed");
  require(batch.offsets, "device batch: offsets");
  require(batch.packed, "device batch: packed");
  require(batch.report, "device batch: report");
  cuda::RouterOutput output;
  output.ids = batch.ids;
  output.instances = batch.plan_instances;
  output.weights = batch.weights;
  output.changed = batch.changed;
  output.offsets = batch.offsets;
  output.packed = batch.packed;
  output.report = reinterpret_cast<cuda::GpuRoutingReport*>(batch.report);
  return output;
}

cuda::RoutingLaunch launch_of(const thermoe_device_batch& batch) {
  cuda::RoutingLaunch launch;
  launch.input = input_of(batch);
  if (batch.instances != 0)
    check_count(batch.instances, cuda::RoutingLaunch::kMostInstances, "device batch: instances");
  if (batch.first != nullptr) require(batch.expert, "device batch: expert");
  launch.instances = {.count = batch.instances,
                      .first = batch.first,
                      .expert = batch.expert,
                      .kept_best = batch.kept_best,
                      .kept_instance = batch.kept_instance,
                      .kept_even = batch.kept_uneven == 0};
  launch.prices = {.open = batch.open, .slope = batch.slope, .marginal = batch.marginal};
  launch.mode = code_of<cuda::RoutingMode>(batch.mode, 2, "device batch: mode");
  if (launch.mode == cuda::RoutingMode::kBatch)
    check_count(batch.tokens, cuda::RoutingLaunch::kMostBatchTokens, "device batch: tokens");
  if (batch.utility_power != 0) launch.utility_power = static_cast<float>(batch.utility_power);
  launch.utility_scale = batch.utility_scale;
  return launch;
}

thermoe_device_batch read_batch(const thermoe_device_batch* given) {
  return read_struct(given, THERMOE_THROUGH(thermoe_device_batch, workspace_bytes), "device batch");
}

}  // namespace
}  // namespace thermoe::c_api

namespace c = thermoe::c_api;

int32_t thermoe_has_cuda(void) { return 1; }

thermoe_status thermoe_route_on_stream(const thermoe_device_batch* batch, void* stream) {
  return c::guarded([&] {
    const thermoe_device_batch given = c::read_batch(batch);
    thermoe::cuda::RoutingLaunch launch = c::launch_of(given);
    launch.output = c::output_of(given);
    const size_t needed = thermoe::cuda::routing_workspace_bytes(launch);
    if (needed > given.workspace_bytes || (needed > 0 && given.workspace == nullptr))
      throw thermoe::InvalidArgument(
          fmt::format("device batch: a workspace of {} bytes, the launch needs {}",
                      given.workspace_bytes, needed));
    thermoe::cuda::check(
        thermoe::cuda::launch_routing(launch, given.workspace, given.workspace_bytes,
                                      static_cast<cudaStream_t>(stream)),
        "routing on a stream");
  });
}

thermoe_status thermoe_route_workspace_bytes(const thermoe_device_batch* batch, size_t* bytes) {
  return c::guarded([&] {
    c::require(bytes, "bytes");
    *bytes = thermoe::cuda::routing_workspace_bytes(c::launch_of(c::read_batch(batch)));
  });
}
