#include <memory>
#include <tuple>
#include <utility>
#include <vector>

#include "c_api/boundary.h"
#include "c_api/handles.h"

namespace thermoe::c_api {
namespace {

std::vector<ExpertVariant> variants_of(const thermoe_layout_options& options) {
  check_count(options.variants, ExpertLayout::kMaxInstances, "layout options: variants");
  require(options.variant_names, "layout options: variant_names");
  std::vector<ExpertVariant> variants(static_cast<size_t>(options.variants));
  for (size_t v = 0; v < variants.size(); ++v) {
    require(options.variant_names[v], "layout options: a name of variant_names");
    variants[v].name = options.variant_names[v];
    if (options.variant_error_frac != nullptr)
      variants[v].error_frac = options.variant_error_frac[v];
    if (options.variant_read_frac != nullptr) variants[v].read_frac = options.variant_read_frac[v];
    if (options.variant_compute_frac != nullptr)
      variants[v].compute_frac = options.variant_compute_frac[v];
    if (!(variants[v].compute_frac >= 0.0f && variants[v].compute_frac < 1e6f))
      throw InvalidArgument(
          fmt::format("compute_frac of variant {} is {}: it must be finite and not negative",
                      variants[v].name, variants[v].compute_frac));
  }
  return variants;
}

ExpertLayout layout_of(const thermoe_layout_options& options) {
  check_count(options.experts, kMostExperts, "layout options: experts");
  const int devices = options.devices == 0 ? 1 : options.devices;
  check_count(devices, kMostExperts, "layout options: devices");
  std::vector<ExpertVariant> variants = variants_of(options);
  if (options.instances == 0) {
    ExpertLayout layout = ExpertLayout::with_variants(options.experts, std::move(variants));
    layout.devices = devices;
    return layout;
  }
  check_count(options.instances, kMostExperts * ExpertLayout::kMaxInstances,
              "layout options: instances");
  require(options.expert, "layout options: expert");
  std::vector<ExpertInstance> instances(static_cast<size_t>(options.instances));
  for (size_t i = 0; i < instances.size(); ++i)
    instances[i] = {.expert = options.expert[i],
                    .variant = options.variant != nullptr ? options.variant[i] : 0,
                    .device = options.device != nullptr ? options.device[i] : 0};
  // Capacities are told by place, so instances must stand where they stay.
  for (size_t i = 1; i < instances.size(); ++i) {
    const auto& a = instances[i - 1];
    const auto& b = instances[i];
    if (std::tuple(a.expert, a.variant, a.device) >= std::tuple(b.expert, b.variant, b.device))
      throw InvalidArgument(fmt::format(
          "layout options: instance {} does not come after instance {}: give them by expert, then "
          "variant, then device, each once",
          i, i - 1));
  }
  return ExpertLayout::of_instances(options.experts, devices, std::move(variants),
                                    std::move(instances));
}

}  // namespace
}  // namespace thermoe::c_api

namespace c = thermoe::c_api;

thermoe_status thermoe_layout_create(const thermoe_layout_options* options, thermoe_layout** out) {
  return c::guarded([&] {
    c::require(out, "out");
    *out = nullptr;
    const thermoe_layout_options given = c::read_struct(
        options, THERMOE_THROUGH(thermoe_layout_options, variant_names), "layout options");
    auto layout = std::make_unique<thermoe_layout>(thermoe_layout{c::layout_of(given)});
    if (given.capacity != nullptr)
      layout->layout.capacity.assign(given.capacity, given.capacity + layout->layout.count());
    *out = layout.release();
  });
}

void thermoe_layout_close(thermoe_layout* layout) { delete layout; }

int32_t thermoe_layout_instances(const thermoe_layout* layout) {
  return layout == nullptr ? 0 : layout->layout.count();
}
