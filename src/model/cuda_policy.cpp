#include "model/cuda_policy.h"

#include <algorithm>
#include <cmath>

namespace thermoe {
namespace {

bool none(const std::vector<float>& values) {
  return std::all_of(values.begin(), values.end(), [](float v) { return v == 0.0f; });
}

std::vector<float> sum_of(const std::vector<float>& a, const std::vector<float>& b, size_t count) {
  std::vector<float> sum(count, 0.0f);
  for (size_t i = 0; i < count; ++i) sum[i] = (a.empty() ? 0 : a[i]) + (b.empty() ? 0 : b[i]);
  return sum;
}

bool fits(const std::vector<float>& prices, size_t count) {
  return (prices.empty() || prices.size() == count) &&
         std::all_of(prices.begin(), prices.end(),
                     [](float price) { return std::isfinite(price) && price >= 0; });
}

// Others are the host's to refuse.
bool fits(const ExpertPrices& prices, size_t count) {
  return fits(prices.open, count) && fits(prices.slope, count) && fits(prices.device_open, count) &&
         fits(prices.device_slope, count);
}

bool takes(const AdaptiveRouterSettings& settings) {
  const float power = settings.utility.power;
  return settings.search == AdaptiveRouterSettings::Search::kClimb &&
         settings.goal.kind == RoutingGoal::Kind::kPrices && settings.min_k == 0 &&
         (power == 1.0f || power == 1.5f || power == 2.0f);
}

const ExpertLayout* layout_of(const RoutingContext& context, size_t layer) {
  return context.layouts.empty() ? nullptr : &context.layouts[layer];
}

}  // namespace

std::optional<CudaPolicy> CudaPolicy::of(const RoutingContext& context, const ModelConfig& config) {
  CudaPolicy policy;
  if (dynamic_cast<const TopKPolicy*>(context.policy) != nullptr) return policy;
  const auto* router = dynamic_cast<const AdaptiveRouter*>(context.policy);
  if (router == nullptr || !takes(router->settings())) return std::nullopt;
  const AdaptiveRouterSettings& settings = router->settings();
  policy.utility = settings.utility;
  bool decided = true;  // nothing to decide: top-k's own bits
  for (size_t l = 0; l < static_cast<size_t>(config.layers); ++l) {
    policy.open.emplace_back();
    policy.slope.emplace_back();
    if (!config.sparse[l]) continue;
    const ExpertLayout* layout = layout_of(context, l);
    if (layout != nullptr && (layout->devices != 1 || !layout->capacity.empty()))
      return std::nullopt;
    const size_t count = static_cast<size_t>(layout != nullptr ? layout->count() : config.experts);
    const ExpertPrices own =
        layout != nullptr
            ? ExpertPrices::of_layout(*layout, settings.open_price, settings.slope_price)
            : ExpertPrices::uniform(config.experts, settings.open_price, settings.slope_price);
    const ExpertPrices& prices = context.prices.empty() ? own : context.prices[l];
    if (!fits(prices, count)) return std::nullopt;
    policy.open.back() = sum_of(prices.open, prices.device_open, count);
    policy.slope.back() = sum_of(prices.slope, prices.device_slope, count);
    const bool choice = layout != nullptr && !layout->one_each();
    decided = decided && none(policy.open.back()) && none(policy.slope.back()) && !choice;
  }
  policy.mode = decided ? cuda::RoutingMode::kTopK : cuda::RoutingMode::kBatch;
  return policy;
}

CudaPrices::CudaPrices(int layers, int instances)
    : layers_(static_cast<size_t>(layers)),
      instances_(static_cast<size_t>(instances)),
      host_(2 * layers_ * instances_),
      values_(host_.size()) {}

void CudaPrices::write(const CudaPolicy& policy, cudaStream_t stream) {
  std::fill(host_.begin(), host_.end(), 0.0f);
  for (size_t l = 0; l < policy.open.size(); ++l) {
    std::copy(policy.open[l].begin(), policy.open[l].end(),
              host_.begin() + static_cast<std::ptrdiff_t>(l * instances_));
    std::copy(policy.slope[l].begin(), policy.slope[l].end(),
              host_.begin() + static_cast<std::ptrdiff_t>((layers_ + l) * instances_));
  }
  // From pageable memory: the driver has its own copy once this returns.
  cuda::check(cudaMemcpyAsync(values_.data(), host_.data(), host_.size() * sizeof(float),
                              cudaMemcpyHostToDevice, stream),
              "writing prices");
}

}  // namespace thermoe
