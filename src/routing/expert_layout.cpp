#include "thermoe/expert_layout.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <tuple>

#include "thermoe/error.h"
#include "thermoe/expert_prices.h"

namespace thermoe {
namespace {

auto key(const ExpertInstance& i) { return std::tuple(i.expert, i.variant, i.device); }

void check_variants(const std::vector<ExpertVariant>& variants) {
  if (variants.empty()) throw InvalidArgument("a layout needs at least one variant");
  for (const ExpertVariant& variant : variants) {
    if (!(variant.error_frac >= 0.0f && variant.error_frac < 1.0f))
      throw InvalidArgument(fmt::format("error_frac of variant {} is {}: it must be in [0, 1)",
                                        variant.name, variant.error_frac));
    if (!(variant.read_frac >= 0.0f) || !std::isfinite(variant.read_frac))
      throw InvalidArgument(
          fmt::format("read_frac of variant {} is {}: it must be finite and not negative",
                      variant.name, variant.read_frac));
  }
}

void check_ids(const ExpertLayout& layout) {
  const auto in = [](int32_t id, int64_t count) { return id >= 0 && id < count; };
  for (size_t i = 0; i < layout.instances.size(); ++i) {
    const ExpertInstance& instance = layout.instances[i];
    if (!in(instance.expert, layout.experts) || !in(instance.device, layout.devices) ||
        !in(instance.variant, static_cast<int64_t>(layout.variants.size())))
      throw InvalidArgument(fmt::format(
          "instance {} is expert {}, variant {}, device {}: there are {} experts, {} variants, {} "
          "devices",
          i, instance.expert, instance.variant, instance.device, layout.experts,
          layout.variants.size(), layout.devices));
  }
}

void check_counts(const ExpertLayout& layout) {
  for (int e = 0; e < layout.experts; ++e) {
    const auto own = layout.of(e);
    if (own.empty() || own.size() > static_cast<size_t>(ExpertLayout::kMaxInstances))
      throw InvalidArgument(fmt::format("expert {} has {} instances: it must have 1 to {}", e,
                                        own.size(), ExpertLayout::kMaxInstances));
    for (size_t i = 1; i < own.size(); ++i)
      if (key(own[i]) == key(own[i - 1]))
        throw InvalidArgument(fmt::format("expert {} has variant {} twice on device {}", e,
                                          own[i].variant, own[i].device));
  }
}

}  // namespace

bool ExpertLayout::plain() const {
  if (!one_each() || !capacity.empty()) return false;
  for (int i = 0; i < count(); ++i)
    if (error_of(i) != 0.0f) return false;
  return true;
}

ExpertPrices ExpertPrices::of_layout(const ExpertLayout& layout, float open_price,
                                     float slope_price) {
  ExpertPrices prices = uniform(layout.count(), open_price, slope_price);
  for (int i = 0; i < layout.count(); ++i) {
    prices.open[static_cast<size_t>(i)] *= layout.variant_of(i).read_frac;
    prices.slope[static_cast<size_t>(i)] *= layout.variant_of(i).compute_frac;
  }
  return prices;
}

ExpertLayout ExpertLayout::single(int experts) {
  return with_variants(experts, {{.name = "exact", .error_frac = 0}});
}

ExpertLayout ExpertLayout::with_variants(int experts, std::vector<ExpertVariant> variants) {
  std::vector<ExpertInstance> instances;
  for (int32_t e = 0; e < experts; ++e)
    for (int32_t v = 0; v < static_cast<int32_t>(variants.size()); ++v)
      instances.push_back({.expert = e, .variant = v, .device = 0});
  return of_instances(experts, 1, std::move(variants), std::move(instances));
}

ExpertLayout ExpertLayout::of_instances(int experts, int devices,
                                        std::vector<ExpertVariant> variants,
                                        std::vector<ExpertInstance> instances) {
  ExpertLayout layout;
  layout.experts = experts;
  layout.devices = devices;
  layout.variants = std::move(variants);
  layout.instances = std::move(instances);
  if (experts < 1 || devices < 1)
    throw InvalidArgument(fmt::format(
        "a layout of {} experts on {} devices: both must be 1 or more", experts, devices));
  check_variants(layout.variants);
  check_ids(layout);
  std::sort(layout.instances.begin(), layout.instances.end(),
            [](const ExpertInstance& a, const ExpertInstance& b) { return key(a) < key(b); });
  layout.first.assign(static_cast<size_t>(experts) + 1, 0);
  for (const ExpertInstance& i : layout.instances)
    ++layout.first[static_cast<size_t>(i.expert) + 1];
  for (size_t e = 0; e < static_cast<size_t>(experts); ++e) layout.first[e + 1] += layout.first[e];
  check_counts(layout);
  return layout;
}

}  // namespace thermoe
