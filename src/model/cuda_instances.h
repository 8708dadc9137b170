// What the instances of a layer's layout run, as tables in device memory.
#pragma once

#include <optional>

#include "kernels/cuda/routing.h"
#include "model/cuda_expert_runner.h"
#include "model/cuda_weights.h"
#include "thermoe/expert_layout.h"
#include "thermoe/utility_model.h"

namespace thermoe {

// Of one layer; built again when the layout or what the router thinks of errors changes.
class CudaInstances {
 public:
  // Throws InvalidArgument for a layout of other experts, or with a precision that an expert is not
  // held in (naming it). `layout` null: each expert in its finest. True where anything was built:
  // a graph that was captured before has old pointers.
  bool read(int layer, const CudaExperts& experts, const ExpertLayout* layout,
            const UtilityModel& utility);

  int count() const { return static_cast<int>(table_.size()); }
  // Those that some instance runs in.
  const ExpertForms& forms() const { return forms_; }
  // Several instances of some expert: the router has something to choose.
  bool choice() const { return layout_.has_value() && !layout_->one_each(); }
  const cuda::DeviceExpert* table() const { return table_.data(); }
  cuda::RouterInstances router() const;
  const float* utility_scale() const { return scale_.size() > 0 ? scale_.data() : nullptr; }

 private:
  bool same(const ExpertLayout* layout, const UtilityModel& utility) const;
  void build_choice(const UtilityModel& utility);

  bool built_ = false;
  ExpertForms forms_;
  std::optional<ExpertLayout> layout_;
  float error_weight_ = 1;
  std::vector<float> host_scale_;
  cuda::DeviceArray<cuda::DeviceExpert> table_;  // [I]
  cuda::DeviceArray<int32_t> first_, expert_;    // where there is a choice
  cuda::DeviceArray<double> kept_best_, kept_instance_;
  CudaFloats scale_;  // [E]
  bool kept_even_ = true;
};

}  // namespace thermoe
