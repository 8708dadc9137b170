#include "model/cuda_instances.h"

#include <fmt/format.h>

#include "routing/utility.h"
#include "thermoe/error.h"

namespace thermoe {
namespace {

bool same_instances(const ExpertLayout& a, const ExpertLayout& b) {
  const auto same_instance = [](const ExpertInstance& x, const ExpertInstance& y) {
    return x.expert == y.expert && x.variant == y.variant && x.device == y.device;
  };
  const auto same_variant = [](const ExpertVariant& x, const ExpertVariant& y) {
    return x.name == y.name && x.error_frac == y.error_frac && x.read_frac == y.read_frac;
  };
  return a.experts == b.experts && a.error_frac == b.error_frac &&
         std::equal(a.instances.begin(), a.instances.end(), b.instances.begin(), b.instances.end(),
                    same_instance) &&
         std::equal(a.variants.begin(), a.variants.end(), b.variants.begin(), b.variants.end(),
                    same_variant);
}

cuda::DeviceExpert finest(const CudaExperts& experts, int expert) {
  const Precision precision =
      experts.held(expert, Precision::kStored) ? Precision::kStored : Precision::kInt8;
  return experts.forms[static_cast<size_t>(expert)][static_cast<size_t>(precision)];
}

std::vector<cuda::DeviceExpert> table_of(int layer, const CudaExperts& experts,
                                         const ExpertLayout* layout) {
  const int count = static_cast<int>(experts.forms.size());
  std::vector<cuda::DeviceExpert> table;
  if (layout == nullptr) {
    for (int e = 0; e < count; ++e) table.push_back(finest(experts, e));
    return table;
  }
  if (layout->experts != count)
    throw InvalidArgument(fmt::format("layer {}: the layout is of {} experts, the layer has {}",
                                      layer, layout->experts, count));
  if (layout->count() > cuda::kMostInstances)
    throw InvalidArgument(
        fmt::format("layer {}: {} instances of experts are more than the GPU's "
                    "{}: use fewer --variants",
                    layer, layout->count(), cuda::kMostInstances));
  for (const ExpertInstance& instance : layout->instances) {
    const std::string& name = layout->variants[static_cast<size_t>(instance.variant)].name;
    const Precision precision = precision_of(name);
    if (!experts.held(instance.expert, precision))
      throw InvalidArgument(fmt::format(
          "layer {}: expert {} is not held in {}: leave the variant out, or use a checkpoint that "
          "has it",
          layer, instance.expert, name));
    table.push_back(
        experts.forms[static_cast<size_t>(instance.expert)][static_cast<size_t>(precision)]);
  }
  return table;
}

std::vector<float> scale_of(const UtilityModel& utility, int layer) {
  const size_t l = static_cast<size_t>(layer);
  return l < utility.scale.size() ? utility.scale[l] : std::vector<float>();
}

}  // namespace

bool CudaInstances::same(const ExpertLayout* layout, const UtilityModel& utility) const {
  if (!built_ || layout_.has_value() != (layout != nullptr)) return false;
  return layout == nullptr ||
         (same_instances(*layout_, *layout) && error_weight_ == utility.variant_error_weight);
}

// What the routing kernel asks of the instances.
void CudaInstances::build_choice(const UtilityModel& utility) {
  std::vector<int32_t> expert;
  for (const ExpertInstance& instance : layout_->instances) expert.push_back(instance.expert);
  KeptUtility kept;
  kept.read(utility, &*layout_, layout_->experts);
  first_ = cuda::DeviceArray<int32_t>(layout_->first);
  expert_ = cuda::DeviceArray<int32_t>(expert);
  kept_best_ = cuda::DeviceArray<double>(kept.best);
  kept_instance_ = cuda::DeviceArray<double>(kept.instance);
  kept_even_ = kept.even;
}

bool CudaInstances::read(int layer, const CudaExperts& experts, const ExpertLayout* layout,
                         const UtilityModel& utility) {
  bool changed = false;
  if (std::vector<float> scale = scale_of(utility, layer); scale != host_scale_) {
    host_scale_ = std::move(scale);
    scale_ = CudaFloats(host_scale_);
    changed = true;
  }
  if (same(layout, utility)) return changed;
  const std::vector<cuda::DeviceExpert> table = table_of(layer, experts, layout);
  table_ = cuda::DeviceArray<cuda::DeviceExpert>(table);
  forms_ = {};
  for (const cuda::DeviceExpert& expert : table) forms_.add(expert.form);
  layout_ = layout != nullptr ? std::optional(*layout) : std::nullopt;
  error_weight_ = utility.variant_error_weight;
  built_ = true;
  if (choice()) build_choice(utility);
  return true;
}

cuda::RouterInstances CudaInstances::router() const {
  if (!choice()) return {};
  return {count(),           first_.data(),         expert_.data(),
          kept_best_.data(), kept_instance_.data(), kept_even_};
}

}  // namespace thermoe
