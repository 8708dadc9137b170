#include <algorithm>
#include <bit>
#include <cmath>
#include <memory>
#include <optional>
#include <vector>

#include "c_api/boundary.h"
#include "c_api/handles.h"
#include "kernels/cpu/elementwise.h"
#include "thermoe/routing_policies.h"

struct thermoe_router {  // NOLINT(readability-identifier-naming): C
  int32_t experts = 0, k = 0, min_k = 0;
  bool renormalize = true;
  std::optional<thermoe::ExpertLayout> layout;
  std::unique_ptr<thermoe::RoutingPolicy> policy;
  // Kept from call to call, so that nothing is allocated in the steady state.
  thermoe::ExpertPrices prices;
  thermoe::RoutingPlan plan;
  std::vector<float> converted;  // scores that were bf16 or logits

  int32_t instances() const { return layout ? layout->count() : experts; }
};

namespace thermoe::c_api {
namespace {

constexpr size_t kLeastReport = THERMOE_THROUGH(thermoe_report, gap_frac);

std::unique_ptr<thermoe_router> create_router(const thermoe_router_options* given) {
  const thermoe_router_options options =
      read_struct(given, THERMOE_THROUGH(thermoe_router_options, k), "router options");
  check_count(options.experts, kMostExperts, "router options: experts");
  check_count(options.k, options.experts, "router options: k");
  auto router = std::make_unique<thermoe_router>();
  router->experts = options.experts;
  router->k = options.k;
  router->min_k = options.min_k;
  router->renormalize = options.keep_probabilities == 0;
  if (options.layout != nullptr) {
    router->layout = options.layout->layout;
    if (router->layout->experts != options.experts)
      throw InvalidArgument(fmt::format("the layout is for {} experts, the scores are for {}",
                                        router->layout->experts, options.experts));
  }
  if (options.min_k < 0 || options.min_k > options.k)
    throw InvalidArgument(fmt::format("router options: min_k is {}: it must be 0 to k, {}",
                                      options.min_k, options.k));
  router->policy = make_routing_policy(options.policy != nullptr ? options.policy : "adaptive");
  return router;
}

int64_t stride_of(const thermoe_router& router, const thermoe_batch& batch) {
  const int64_t stride = batch.row_stride != 0 ? batch.row_stride : router.experts;
  constexpr int64_t kMost = int64_t{1} << 40;
  if (stride > kMost || stride < -kMost || (stride < router.experts && -stride < router.experts))
    throw InvalidArgument(
        fmt::format("batch: row_stride is {}: rows of {} scores must be at least as far apart",
                    stride, router.experts));
  return stride;
}

void check_logits(const float* row, int64_t token, int32_t experts) {
  for (int32_t e = 0; e < experts; ++e)
    if (!std::isfinite(row[e]))
      throw InvalidArgument(
          fmt::format("logit of token {}, expert {} is {}: logits must be finite; look for damaged "
                      "weights or an "
                      "overflow before the router",
                      token, e, row[e]));
}

// [tokens, experts] in the router's own memory.
ConstMatrix convert(thermoe_router& router, const thermoe_batch& batch, int64_t stride) {
  const size_t experts = static_cast<size_t>(router.experts);
  router.converted.resize(static_cast<size_t>(batch.tokens) * experts);
  for (int64_t t = 0; t < batch.tokens; ++t) {
    float* to = router.converted.data() + static_cast<size_t>(t) * experts;
    if (batch.score_type == THERMOE_BF16)
      std::transform(
          static_cast<const uint16_t*>(batch.scores) + t * stride,
          static_cast<const uint16_t*>(batch.scores) + t * stride + experts, to,
          [](uint16_t bf16) { return std::bit_cast<float>(static_cast<uint32_t>(bf16) << 16); });
    else
      std::copy_n(static_cast<const float*>(batch.scores) + t * stride, experts, to);
    if (batch.gate != THERMOE_GATE_NONE) check_logits(to, t, router.experts);
    if (batch.gate == THERMOE_GATE_SOFTMAX) cpu::softmax(to, router.experts);
    if (batch.gate == THERMOE_GATE_SIGMOID)
      std::transform(to, to + experts, to, [](float x) { return 1.0f / (1.0f + std::exp(-x)); });
  }
  return {router.converted.data(), batch.tokens, router.experts};
}

ConstMatrix read_scores(thermoe_router& router, const thermoe_batch& batch) {
  require(batch.scores, "batch: scores");
  check_count(batch.tokens, kMostTokens, "batch: tokens");
  if (batch.tokens * router.experts > kMostPairs)
    throw InvalidArgument(fmt::format("batch: {} tokens of {} experts: at most {} scores at once",
                                      batch.tokens, router.experts, kMostPairs));
  const int64_t stride = stride_of(router, batch);
  check_code(batch.score_type, THERMOE_BF16, "batch: score_type");
  check_code(batch.gate, THERMOE_GATE_SIGMOID, "batch: gate");
  if (batch.score_type != THERMOE_F32 || batch.gate != THERMOE_GATE_NONE)
    return convert(router, batch, stride);
  return {static_cast<const float*>(batch.scores), batch.tokens, router.experts, stride};
}

const ExpertPrices* read_prices(thermoe_router& router, const thermoe_batch& batch) {
  const auto copy = [](std::vector<float>& to, const float* from, int32_t count) {
    if (from == nullptr)
      to.clear();
    else
      to.assign(from, from + count);
    return from != nullptr;
  };
  const int32_t count = router.instances();
  ExpertPrices& prices = router.prices;
  bool any = copy(prices.open, batch.open, count);
  any |= copy(prices.slope, batch.slope, count);
  any |= copy(prices.device_open, batch.device_open, count);
  any |= copy(prices.device_slope, batch.device_slope, count);
  any |= copy(prices.device_base, batch.device_base, router.layout ? router.layout->devices : 1);
  // Where no price is given the policy's own count (adaptive:open=0.05).
  return any ? &prices : nullptr;
}

RoutingRequest read_request(thermoe_router& router, const thermoe_batch& batch) {
  RoutingRequest request;
  request.scores = read_scores(router, batch);
  request.k = router.k;
  request.min_k = router.min_k;
  request.renormalize = router.renormalize;
  request.prices = read_prices(router, batch);
  request.layer = batch.layer;
  if (router.layout) request.layout = &*router.layout;
  check_code(batch.goal, THERMOE_GOAL_BEST_QUALITY, "batch: goal");
  if (batch.goal == THERMOE_GOAL_LEAST_COST)
    request.goal = {RoutingGoal::Kind::kLeastCost, batch.goal_limit};
  else if (batch.goal == THERMOE_GOAL_BEST_QUALITY)
    request.goal = {RoutingGoal::Kind::kBestQuality, batch.goal_limit};
  return request;
}

// Rows of `from` columns to rows of `to`, the rest filled.
template <typename T>
void copy_rows(const std::vector<T>& values, int32_t from, T* out, int32_t to, T fill) {
  if (out == nullptr) return;
  if (from == to) {
    std::copy(values.begin(), values.end(), out);
    return;
  }
  const size_t rows = values.size() / static_cast<size_t>(from);
  for (size_t row = 0; row < rows; ++row) {
    T* end = std::copy_n(values.data() + row * static_cast<size_t>(from), from,
                         out + row * static_cast<size_t>(to));
    std::fill_n(end, to - from, fill);
  }
}

void write_plan(const RoutingPlan& plan, const thermoe_plan& out, int32_t slots) {
  if (plan.k > slots)
    throw InvalidArgument(fmt::format(
        "plan: the policy gives a token up to {} experts: give arrays of so many slots, not {}",
        plan.k, slots));
  copy_rows(plan.ids, plan.k, out.ids, slots, int32_t{-1});
  copy_rows(plan.instances, plan.k, out.instances, slots, int32_t{-1});
  copy_rows(plan.weights, plan.k, out.weights, slots, 0.0f);
  if (out.changed != nullptr) std::copy(plan.changed.begin(), plan.changed.end(), out.changed);
  if (out.offsets != nullptr) std::copy(plan.offsets.begin(), plan.offsets.end(), out.offsets);
  if (out.packed == nullptr) return;
  std::transform(plan.packed.begin(), plan.packed.end(), out.packed,
                 [&](int32_t pair) { return pair / plan.k * slots + pair % plan.k; });
}

thermoe_report report_of(const RoutingPlan& plan) {
  const RoutingReport& r = plan.report;
  return {.struct_size = sizeof(thermoe_report),
          .infeasible = r.status == RoutingStatus::kInfeasible ? 1 : 0,
          .distinct_experts = r.distinct_experts,
          .distinct_instances = r.distinct_instances,
          .top_k_distinct_experts = r.top_k_distinct_experts,
          .changed_tokens = r.changed_tokens,
          .used_pairs = static_cast<int32_t>(plan.packed.size()),
          .objective = r.objective,
          .bound = r.bound,
          .gap_frac = r.gap_frac,
          .utility = r.utility,
          .cost = r.cost,
          .limit_excess = r.limit_excess,
          .gate_mass_frac = r.gate_mass_frac};
}

}  // namespace
}  // namespace thermoe::c_api

namespace c = thermoe::c_api;

thermoe_status thermoe_router_create(const thermoe_router_options* options, thermoe_router** out) {
  return c::guarded([&] {
    c::require(out, "out");
    *out = nullptr;
    *out = c::create_router(options).release();
  });
}

void thermoe_router_close(thermoe_router* router) { delete router; }

thermoe_status thermoe_router_plan(thermoe_router* router, const thermoe_batch* batch,
                                   const thermoe_plan* plan, thermoe_report* report) {
  return c::guarded([&] {
    c::require(router, "router");
    const thermoe_batch in = c::read_struct(batch, THERMOE_THROUGH(thermoe_batch, slope), "batch");
    const thermoe_plan out = c::read_struct(plan, THERMOE_THROUGH(thermoe_plan, weights), "plan");
    const int32_t slots = out.slots != 0 ? out.slots : router->k;
    c::check_count(slots, router->experts, "plan: slots");
    if (in.tokens > c::kMostPairs / slots)
      throw thermoe::InvalidArgument(
          fmt::format("batch: {} tokens of {} slots: at most {} pairs at once", in.tokens, slots,
                      c::kMostPairs));
    router->policy->route(c::read_request(*router, in), router->plan);
    c::write_plan(router->plan, out, slots);
    if (report != nullptr)
      c::write_struct(c::report_of(router->plan), report, c::kLeastReport, "report");
  });
}

int32_t thermoe_router_experts(const thermoe_router* router) {
  return router == nullptr ? 0 : router->experts;
}
int32_t thermoe_router_k(const thermoe_router* router) { return router == nullptr ? 0 : router->k; }
int32_t thermoe_router_instances(const thermoe_router* router) {
  return router == nullptr ? 0 : router->instances();
}
