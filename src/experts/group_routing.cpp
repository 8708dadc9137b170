#include "experts/group_routing.h"

#include <fmt/format.h>

#include <algorithm>

#include "thermoe/error.h"

namespace thermoe {
namespace {

// Slots of every token, ids in range, unused ones (-1) last: what run_experts and combine rely on.
// With a layout, every used slot has an instance of its expert.
bool well_formed(const RoutingPlan& plan, int64_t tokens, int experts, int top_k,
                 const ExpertLayout* layout) {
  if (plan.k < top_k) return false;
  const size_t k = static_cast<size_t>(plan.k), pairs = static_cast<size_t>(tokens) * k;
  if (plan.tokens != tokens || plan.ids.size() != pairs || plan.weights.size() != pairs)
    return false;
  if (layout != nullptr && plan.instances.size() != pairs) return false;
  bool unused = false;
  for (size_t pair = 0; pair < pairs; ++pair) {
    const int32_t id = plan.ids[pair];
    if (id < -1 || id >= experts) return false;
    if (layout != nullptr && id >= 0) {
      const int32_t i = plan.instances[pair];
      if (i < 0 || i >= layout->count() || layout->instances[static_cast<size_t>(i)].expert != id)
        return false;
    }
    const bool follows_unused = unused && pair % k != 0;
    unused = id < 0;
    if (follows_unused && !unused) return false;
  }
  return true;
}

// Rows of k values, filled up with `fill` to rows of `wide` values.
template <typename T>
void widen_rows(std::vector<T>& values, size_t k, size_t wide, T fill) {
  const size_t rows = values.size() / k;
  values.resize(rows * wide);
  for (size_t row = rows; row-- > 0;) {
    const auto begin = values.begin() + static_cast<std::ptrdiff_t>(row * k);
    const auto end = values.begin() + static_cast<std::ptrdiff_t>(row * wide);
    std::copy_backward(begin, begin + static_cast<std::ptrdiff_t>(k),
                       end + static_cast<std::ptrdiff_t>(k));
    std::fill(end + static_cast<std::ptrdiff_t>(k), end + static_cast<std::ptrdiff_t>(wide), fill);
  }
}

// Appends a group's plan; both get as many slots as the wider needs.
void append(RoutingPlan& group, RoutingPlan& all) {
  RoutingPlan& narrow = group.k < all.k ? group : all;
  const int wide = std::max(group.k, all.k);
  if (narrow.k < wide) {
    const size_t k = static_cast<size_t>(narrow.k), to = static_cast<size_t>(wide);
    widen_rows(narrow.ids, k, to, int32_t{-1});
    widen_rows(narrow.instances, k, to, int32_t{-1});
    widen_rows(narrow.weights, k, to, 0.0f);
    narrow.k = wide;
  }
  all.ids.insert(all.ids.end(), group.ids.begin(), group.ids.end());
  all.instances.insert(all.instances.end(), group.instances.begin(), group.instances.end());
  all.weights.insert(all.weights.end(), group.weights.begin(), group.weights.end());
}

}  // namespace

void route_groups(ConstMatrix scores, std::span<const RowGroup> groups, const MoeSettings& settings,
                  const GroupRouting& routing, RoutingPlan& group_plan, RoutingPlan& all) {
  const int experts = static_cast<int>(scores.cols);
  // With one instance of each expert, instance and expert have one number.
  const ExpertLayout* layout =
      routing.layout != nullptr && routing.layout->one_each() ? nullptr : routing.layout;
  all.tokens = static_cast<int>(scores.rows);
  all.experts = experts;
  all.k = settings.top_k;
  all.ids.clear();
  all.instances.clear();
  all.weights.clear();
  for (const RowGroup& group : groups) {
    RoutingRequest request;
    request.scores = scores.rows_from(group.first, group.count);
    request.k = settings.top_k;
    request.renormalize = settings.renormalize;
    request.prices = routing.prices;
    request.layer = settings.layer;
    request.layout = layout;
    routing.policy.route(request, group_plan);
    if (!well_formed(group_plan, group.count, experts, settings.top_k, layout))
      throw InvalidArgument(
          fmt::format("layer {}: policy {} made no plan for {} rows of {} experts", settings.layer,
                      routing.policy.name(), group.count, experts));
    if (layout == nullptr) group_plan.instances = group_plan.ids;
    if (routing.observer != nullptr) routing.observer->on_plan(settings.layer, group_plan);
    append(group_plan, all);
  }
}

}  // namespace thermoe
