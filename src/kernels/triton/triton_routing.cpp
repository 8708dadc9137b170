#include "kernels/triton/triton_routing.h"

#include "kernels/cuda/cuda_resources.h"
#include "thermoe/error.h"

namespace thermoe::triton {
namespace {

using cuda::RoutingLaunch;
using cuda::RoutingMode;

// routing.py, route_tokens: pointers from scores to bad, row_stride, experts to flags
constexpr const char* kRouteParameters =
    "pppppppppppppp"
    "l"
    "iiiiii";
// plan_instances, offsets, packed, pairs, instances
constexpr const char* kPackParameters = "pppii";
// bad, changed, offsets, first, report, tokens, experts, count, flags
constexpr const char* kReportParameters = "pppppiiii";
constexpr int kSmallBound = 128;  // of experts, or instances where there are prices

// Flags of routing.py.
enum : int {
  kHalf = 1,
  kRenormalize = 2,
  kBias = 4,
  kLayout = 8,
  kSlope = 16,
  kMarginal = 32,
  kScale = 64,
  kKeptBest = 128,
  kKeptInstance = 256,
  kKeptUneven = 512
};

int flags_of(const RoutingLaunch& l) {
  const auto flag = [](bool given, int value) { return given ? value : 0; };
  return flag(l.input.type == cuda::ScoreType::kBf16, kHalf) |
         flag(l.input.renormalize, kRenormalize) | flag(l.input.bias != nullptr, kBias) |
         flag(l.instances.first != nullptr, kLayout) | flag(l.prices.slope != nullptr, kSlope) |
         flag(l.prices.marginal != nullptr, kMarginal) | flag(l.utility_scale != nullptr, kScale) |
         flag(l.instances.kept_best != nullptr, kKeptBest) |
         flag(l.instances.kept_instance != nullptr, kKeptInstance) |
         flag(!l.instances.kept_even, kKeptUneven);
}

bool valid(const RoutingLaunch& l, size_t workspace_bytes) {
  const cuda::RouterInput& in = l.input;
  const cuda::RouterOutput& out = l.output;
  return in.scores != nullptr && in.tokens >= 1 && in.tokens <= RoutingLaunch::kMostTokens &&
         in.experts >= 1 && in.experts <= RoutingLaunch::kMostExperts && in.k >= 1 &&
         in.k <= in.experts && in.k <= RoutingLaunch::kMostSlots &&
         l.instance_count() >= in.experts && l.instance_count() <= RoutingLaunch::kMostInstances &&
         (in.row_stride == 0 || in.row_stride >= in.experts) && out.ids != nullptr &&
         out.instances != nullptr && out.weights != nullptr && out.changed != nullptr &&
         out.offsets != nullptr && out.packed != nullptr && out.report != nullptr &&
         workspace_bytes >= TritonRouting::workspace_bytes(l);
}

}  // namespace

TritonRouting::Kernel TritonRouting::load(const KernelSet& set, const char* name,
                                          const char* parameters) {
  const int device = current_device();
  Kernel kernel;
  kernel.compiled = &find_kernel(set, name, device_arch(device), parameters);
  kernel.loaded = LoadedKernel(*kernel.compiled, device);
  return kernel;
}

bool TritonRouting::available(const KernelSet& set, int device_arch) {
  try {
    for (const char* name : {"route_128", "route_512", "route_priced_128", "route_priced_1024"})
      find_kernel(set, name, device_arch, kRouteParameters);
    find_kernel(set, "pack_plan", device_arch, kPackParameters);
    find_kernel(set, "route_report", device_arch, kReportParameters);
  } catch (const InvalidArgument&) {
    return false;
  }
  return true;
}

TritonRouting::TritonRouting(const KernelSet& set)
    : small_(load(set, "route_128", kRouteParameters)),
      large_(load(set, "route_512", kRouteParameters)),
      small_priced_(load(set, "route_priced_128", kRouteParameters)),
      large_priced_(load(set, "route_priced_1024", kRouteParameters)),
      pack_(load(set, "pack_plan", kPackParameters)),
      report_(load(set, "route_report", kReportParameters)) {}

size_t TritonRouting::workspace_bytes(const RoutingLaunch& launch) {
  return static_cast<size_t>(launch.input.tokens) * sizeof(int32_t);
}

const TritonRouting::Kernel& TritonRouting::route_kernel(const RoutingLaunch& launch) const {
  if (launch.mode == RoutingMode::kTopK)
    return launch.input.experts <= kSmallBound ? small_ : large_;
  return launch.instance_count() <= kSmallBound ? small_priced_ : large_priced_;
}

cudaError_t TritonRouting::route(const RoutingLaunch& l, void* bad, cudaStream_t stream) const {
  const void* scores = l.input.scores;
  const void* bias = l.input.bias;
  const void* first = l.instances.first;
  const void* expert = l.instances.expert;
  const void* slope = l.prices.slope;
  const void* marginal = l.prices.marginal;
  const void* scale = l.utility_scale;
  const void* kept_best = l.instances.kept_best;
  const void* kept_instance = l.instances.kept_instance;
  void *ids = l.output.ids, *instances = l.output.instances, *weights = l.output.weights,
       *changed = l.output.changed;
  int64_t row_stride = l.input.row_stride > 0 ? l.input.row_stride : l.input.experts;
  int experts = l.input.experts, count = l.instance_count(), k = l.input.k;
  int gate = static_cast<int>(l.input.gate);
  int power_halves = static_cast<int>(2 * l.utility_power), flags = flags_of(l);
  void* const arguments[] = {
      &scores,     &bias,          &first, &expert,    &slope,   &marginal,     &scale,
      &kept_best,  &kept_instance, &ids,   &instances, &weights, &changed,      &bad,
      &row_stride, &experts,       &count, &k,         &gate,    &power_halves, &flags};
  return route_kernel(l).loaded.launch({static_cast<unsigned>(l.input.tokens)}, arguments, stream);
}

cudaError_t TritonRouting::run(const RoutingLaunch& launch, void* workspace, size_t bytes,
                               cudaStream_t stream) const {
  if (launch.mode == RoutingMode::kBatch) return cudaErrorNotSupported;
  if (workspace == nullptr || !valid(launch, bytes)) return cudaErrorInvalidValue;
  cudaError_t status = route(launch, workspace, stream);
  if (status != cudaSuccess) return status;
  const void* plan_instances = launch.output.instances;
  void *offsets = launch.output.offsets, *packed = launch.output.packed;
  int pairs = launch.input.tokens * launch.input.k, count = launch.instance_count();
  void* const pack[] = {&plan_instances, &offsets, &packed, &pairs, &count};
  status = pack_.loaded.launch({static_cast<unsigned>(count)}, pack, stream);
  if (status != cudaSuccess) return status;
  void *bad = workspace, *changed = launch.output.changed, *report = launch.output.report;
  const void* first = launch.instances.first;
  int tokens = launch.input.tokens, experts = launch.input.experts, flags = flags_of(launch);
  void* const last[] = {&bad,    &changed, &offsets, &first, &report,
                        &tokens, &experts, &count,   &flags};
  return report_.loaded.launch({1}, last, stream);
}

}  // namespace thermoe::triton
