#include "model/cuda_router.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "experts/group_routing.h"
#include "kernels/cpu/elementwise.h"
#include "kernels/cuda/plan_pack.h"
#include "routing/top_k.h"
#include "routing/utility.h"
#include "thermoe/error.h"

namespace thermoe {
namespace {

template <typename T>
void download(std::vector<T>& to, const T* from, size_t count, cudaStream_t stream) {
  to.resize(count);
  cuda::check(cudaMemcpyAsync(to.data(), from, count * sizeof(T), cudaMemcpyDeviceToHost, stream),
              "reading a plan");
}

template <typename T>
void upload(const std::vector<T>& from, T* to, cudaStream_t stream) {
  cuda::check(
      cudaMemcpyAsync(to, from.data(), from.size() * sizeof(T), cudaMemcpyHostToDevice, stream),
      "writing a plan");
}

cuda::RoutingMode mode_of(const CudaPolicy& policy, const RowGroup& group) {
  const bool fits = group.count <= cuda::RoutingLaunch::kMostBatchTokens;
  return policy.mode == cuda::RoutingMode::kBatch && !fits ? cuda::RoutingMode::kPerToken
                                                           : policy.mode;
}

[[noreturn]] void refuse_logit(int layer, int64_t row, int expert) {
  throw InvalidArgument(fmt::format(
      "layer {}: router logit of row {}, expert {} is not finite: the checkpoint's weights or "
      "activations are damaged; download the checkpoint again",
      layer, row, expert));
}

int64_t rows_of(const CudaRouting& routing) {
  return routing.groups.back().first + routing.groups.back().count;
}

}  // namespace

cuda::RoutingLaunch CudaRouter::launch_of(const CudaPolicy& policy, const CudaRouting& routing,
                                          size_t group) const {
  const RowGroup& rows = routing.groups[group];
  const int64_t pairs = rows.first * routing.settings.top_k;
  cuda::RoutingLaunch launch;
  launch.input.scores = routing.to.logits + rows.first * routing.experts;
  launch.input.tokens = static_cast<int32_t>(rows.count);
  launch.input.experts = routing.experts;
  launch.input.k = routing.settings.top_k;
  launch.input.gate = cuda::Gate::kSoftmax;
  launch.input.renormalize = routing.settings.renormalize;
  launch.instances = routing.instances->router();
  launch.mode = mode_of(policy, rows);
  launch.utility_power = policy.utility.power;
  launch.utility_scale = routing.instances->utility_scale();
  launch.output = routing.to.plan;
  launch.output.ids += pairs;
  launch.output.instances += pairs;
  launch.output.weights += pairs;
  launch.output.changed += rows.first;
  launch.output.report += group;
  return launch;
}

bool CudaRouter::reserve(const CudaPolicy& policy, const CudaRouting& routing) {
  size_t bytes = 0;
  for (size_t g = 0; g < routing.groups.size(); ++g)
    bytes = std::max(bytes, cuda::routing_workspace_bytes(launch_of(policy, routing, g)));
  if (bytes <= workspace_.bytes()) return false;
  workspace_ = cuda::DeviceBytes(bytes);
  return true;
}

void CudaRouter::route_on_device(const CudaPolicy& policy, const CudaPrices& prices,
                                 const CudaRouting& routing, const CudaPlans& plans,
                                 cudaStream_t stream) {
  const bool several = routing.groups.size() > 1;
  for (size_t g = 0; g < routing.groups.size(); ++g) {
    cuda::RoutingLaunch launch = launch_of(policy, routing, g);
    launch.prices = {prices.open(routing.settings.layer), prices.slope(routing.settings.layer),
                     nullptr};
    if (several) {
      launch.output.offsets = plans.group_offsets();
      launch.output.packed = plans.group_packed();
    }
    cuda::check(cuda::launch_routing(launch, workspace_.data(), workspace_.bytes(), stream),
                "routing");
  }
  if (several)
    cuda::check(
        cuda::pack_plan(routing.to.plan.instances, rows_of(routing) * routing.settings.top_k,
                        routing.instances->count(), routing.to.plan.offsets, routing.to.plan.packed,
                        stream),
        "packing a plan");
}

// Probabilities of some rows, on the host.
ConstMatrix CudaRouter::scores_of(const CudaRouting& routing, const RowGroup& rows,
                                  cudaStream_t stream) {
  const int64_t experts = routing.experts;
  download(scores_, routing.to.logits + rows.first * experts,
           static_cast<size_t>(rows.count * experts), stream);
  cuda::check(cudaStreamSynchronize(stream), "waiting for router logits");
  for (int64_t r = 0; r < rows.count; ++r) {
    float* row = scores_.data() + r * experts;
    for (int64_t e = 0; e < experts; ++e)
      if (!std::isfinite(row[e]))
        refuse_logit(routing.settings.layer, rows.first + r, static_cast<int>(e));
    cpu::softmax(row, experts);
  }
  return ConstMatrix(scores_.data(), rows.count, experts);
}

int CudaRouter::route_on_host(const RoutingContext& context, const CudaRouting& routing,
                              int most_slots, cudaStream_t stream) {
  const size_t layer = static_cast<size_t>(routing.settings.layer);
  const ConstMatrix scores = scores_of(routing, {0, rows_of(routing)}, stream);
  const GroupRouting group{
      *context.policy, context.prices.empty() ? nullptr : &context.prices[layer],
      context.layouts.empty() ? nullptr : &context.layouts[layer], context.observer};
  route_groups(scores, routing.groups, routing.settings, group, group_plan_, plan_);
  if (plan_.k > most_slots)
    throw InvalidArgument(fmt::format(
        "layer {}: policy {} gives a token {} experts, the GPU takes {}: use --device cpu",
        routing.settings.layer, context.policy->name(), plan_.k, most_slots));
  pack(plan_, routing.instances->count());
  upload(plan_.instances, routing.to.plan.instances, stream);
  upload(plan_.weights, routing.to.plan.weights, stream);
  upload(plan_.offsets, routing.to.plan.offsets, stream);
  upload(plan_.packed, routing.to.plan.packed, stream);
  cuda::check(cudaStreamSynchronize(stream), "writing a plan");  // before plan_ changes
  return plan_.k;
}

void CudaRouter::finish(const CudaPolicy& policy, const CudaRouting& routing,
                        PlanObserver* observer, cudaStream_t stream) {
  download(reports_, routing.to.plan.report, routing.groups.size(), stream);
  cuda::check(cudaStreamSynchronize(stream), "waiting for a plan");
  for (size_t g = 0; g < routing.groups.size(); ++g) {
    const cuda::GpuRoutingReport report = reports_[g];
    if (report.bad_token >= 0)
      refuse_logit(routing.settings.layer, routing.groups[g].first + report.bad_token,
                   report.bad_expert);
    if (observer != nullptr) observe(policy, routing, g, report, *observer);
  }
}

// Fills the group's plan and what the report of a host's router says, and tells.
void CudaRouter::observe(const CudaPolicy& policy, const CudaRouting& routing, size_t group,
                         const cuda::GpuRoutingReport& report, PlanObserver& observer) {
  const RowGroup& rows = routing.groups[group];
  const MoeSettings& settings = routing.settings;
  const size_t pairs = static_cast<size_t>(rows.count * settings.top_k);
  const cuda::RouterOutput from = launch_of(policy, routing, group).output;
  RoutingRequest request;
  request.scores = scores_of(routing, rows, nullptr);
  request.k = settings.top_k;
  request.renormalize = settings.renormalize;
  RoutingPlan& own = group_plan_;  // the tokens' top-k
  fill_top_k(request, own, masses_);
  double worth = 0;
  for (int t = 0; t < own.tokens; ++t)
    worth += top_k_utility(policy.utility, settings.layer, request.scores.row_span(t),
                           own.token_ids(t), masses_[static_cast<size_t>(t)]);
  const int top_k_distinct = count_distinct(own, seen_);
  RoutingPlan& plan = own;
  download(plan.ids, from.ids, pairs, nullptr);
  download(plan.instances, from.instances, pairs, nullptr);
  download(plan.weights, from.weights, pairs, nullptr);
  download(plan.changed, from.changed, static_cast<size_t>(rows.count), nullptr);
  cuda::check(cudaStreamSynchronize(nullptr), "reading a plan");
  double kept = 0;
  for (int t = 0; t < plan.tokens; ++t) {
    if (plan.changed[static_cast<size_t>(t)] == 0) {
      kept += 1;
      continue;
    }
    for (const int32_t id : plan.token_ids(t))
      if (id >= 0) kept += request.scores(t, id) / masses_[static_cast<size_t>(t)];
  }
  plan.report = RoutingReport{};
  plan.report.utility =
      launch_of(policy, routing, group).mode == cuda::RoutingMode::kTopK ? worth : report.utility;
  plan.report.cost = report.cost;
  plan.report.objective = plan.report.utility - report.cost;
  plan.report.bound = worth;
  plan.report.gap_frac = std::abs(worth - plan.report.objective) / std::max(std::abs(worth), 1e-12);
  plan.report.gate_mass_frac = kept / plan.tokens;
  plan.report.distinct_experts = report.distinct_experts;
  plan.report.distinct_instances = report.distinct_instances;
  plan.report.changed_tokens = report.changed_tokens;
  plan.report.top_k_distinct_experts = top_k_distinct;
  pack(plan, routing.instances->count());
  observer.on_plan(settings.layer, plan);
}

}  // namespace thermoe
