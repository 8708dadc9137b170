// What one measured kernel costs at any shape and token count of its operation.
#pragma once

#include <mutex>
#include <optional>
#include <string>

#include "cost/kernel_profile.h"
#include "cost/residual_field.h"
#include "thermoe/kernel_cost_model.h"

namespace thermoe::cost {

struct KernelReading {
  double latency_us = 0;
  double power_w = 0;  // mean of the board while it runs; 0: the kernel has no measured power
  CostSource source = CostSource::kInterpolated;
  BoundBy bound_by = BoundBy::kMemory;
  double uncertainty_frac = 0;        // of latency_us, one standard deviation
  double power_uncertainty_frac = 0;  // of power_w
  double clock_bound_frac = 0;        // part of the time that goes as 1 / SM clock
  KernelLoad load;
  KernelWork work;
};

// One shape of a kernel, ready to be read at any token count. Belongs to its model.
class KernelCurve {
 public:
  // 1 <= tokens <= 1e7, else throws InvalidArgument. At a measured point exactly what was measured.
  KernelReading at(double tokens) const;
  bool measured() const { return index_.has_value(); }
  const KernelShape& shape() const { return shape_; }

 private:
  friend class KernelModel;
  const class KernelModel* model_ = nullptr;
  KernelShape shape_;
  std::optional<size_t> measured_at(double tokens) const;  // index into the kernel's tokens
  void set_latency(KernelReading& out, const RooflineTime& time) const;
  void set_power(KernelReading& out) const;

  std::optional<size_t> index_;                 // among the kernel's curves
  std::optional<Kriging::Prediction> latency_;  // where it isn't among them
};

// Constant to its users, thread-safe. What compares curves is made when it is first needed, which
// takes up to a second for a few hundred MoE curves; a measured point needs none of it.
class KernelModel {
 public:
  // Peaks as in the profile. Throws InvalidArgument on an unknown type.
  KernelModel(MeasuredKernel kernel, const KernelPeaks& peaks);
  // Neither copied nor moved: curves point to it.
  KernelModel(const KernelModel&) = delete;
  KernelModel& operator=(const KernelModel&) = delete;

  const MeasuredKernel& kernel() const { return kernel_; }
  const KernelPeaks& peaks() const { return peaks_; }
  KernelCurve curve(const KernelShape& shape) const;
  // What curve `index` reads at grid point `grid`, had that one not been measured; for held-out
  // errors.
  double latency_without(size_t index, size_t grid) const;
  // ResidualField::held_out_error() of the latencies, each shape with all its loads a group.
  double unseen_shape_error() const;

 private:
  friend class KernelCurve;
  struct PowerField {
    ResidualField field;
    std::vector<size_t> curves;  // of each of its points
  };
  double log_roofline(const KernelShape& shape, double tokens) const;
  KrigingPoint point_of(const KernelShape& shape) const;
  const ResidualField& latency() const;
  const std::optional<PowerField>& power() const;
  ResidualField make_latency() const;
  std::optional<PowerField> make_power() const;

  MeasuredKernel kernel_;
  KernelPeaks peaks_;
  mutable std::once_flag latency_once_, power_once_;
  mutable std::optional<ResidualField> latency_;
  mutable std::optional<PowerField> power_;
};

// Where the fit of a kernel's covariance starts, chosen by cross-validation over the shipped
// tables.
Covariance covariance_start(Operation op);

// Mean power of work that takes latency_us: idle plus the shares of the two peaks that it uses,
// levelling off at the limit. Parameters: MeasuredKernel::power_parameters.
double kernel_power_w(const std::vector<double>& parameters, double limit_w, const KernelWork& work,
                      double latency_us, const KernelPeaks& peaks);

}  // namespace thermoe::cost
