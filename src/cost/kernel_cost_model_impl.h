// What a KernelCostModel holds; shared by the files that implement it.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "cost/kernel_model.h"
#include "cost/latency_surface.h"
#include "thermoe/digital_twin.h"
#include "thermoe/kernel_cost_model.h"

namespace thermoe {

struct KernelCostModel::Impl {
  Impl(const std::filesystem::path& file, const CostShape& shape, const KernelChoice& choice);

  // Scales an estimate at the maximum clock to the state's, and charges its energy: by the measured
  // mean power where there is one (0: none), else by the power model.
  void finish(CostEstimate& estimate, const HardwareState* state, double measured_w = 0) const;
  CostEstimate estimate_of(const cost::KernelReading& reading, const HardwareState* state) const;
  double moe_bytes(const MoeWork& work) const;
  double moe_flops(const MoeWork& work) const;
  // Measured mean power of the layer, 0 where the table's can't be trusted for single points.
  double layer_power_w(const MoeWork& work) const;
  double expert_params() const;
  // A dense product measured on another device, on this one: by its efficiency there.
  double linear_on_own_device_us(const cost::KernelShape& shape,
                                 const cost::KernelReading& reading) const;

  CostShape shape;
  std::string device;
  std::optional<TwinParameters> power;  // none: energies are 0, and no state changes a time
  std::optional<cost::KernelModel> experts;
  std::optional<cost::KernelModel> linear;
  bool linear_transferred = false;  // measured on another device, whose peaks it refers to
  cost::KernelPeaks own_peaks;      // of this device, in bf16
  bool layer_measured = false;      // the shape's balanced curve is in the table
  double layer_uncertainty_frac = 0;
  std::optional<cost::KernelCurve> layer_power;  // of the shape's balanced load, for its power
  std::optional<cost::LatencySurface> surface;
};

}  // namespace thermoe
