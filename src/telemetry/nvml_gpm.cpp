#include "telemetry/nvml_gpm.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace thermoe::nvml {
namespace {

constexpr double kPerCent = 1e-2;

std::optional<double> fraction(const GpmMetric& metric) {
  if (metric.result != kSuccess || !std::isfinite(metric.value)) return std::nullopt;
  // The counters of an interval are not read all at one moment: it may come out a little above.
  return std::clamp(metric.value * kPerCent, 0.0, 1.0);
}

}  // namespace

Gpm::Gpm(const Api& api, Device device, double now_s) : api_(api), device_(device) {
  if (api.gpm_support == nullptr || api.gpm_sample_alloc == nullptr ||
      api.gpm_sample_free == nullptr || api.gpm_sample_get == nullptr ||
      api.gpm_metrics_get == nullptr)
    return;
  GpmSupport support{kGpmSupportVersion, 0};
  result_ = api.gpm_support(device, &support);
  if (result_ == kSuccess && support.is_supported == 0) result_ = kErrorNotSupported;
  for (Sample* sample : {&last_, &next_}) {
    GpmSample allocated = nullptr;
    if (result_ == kSuccess) result_ = api.gpm_sample_alloc(&allocated);
    *sample = Sample(allocated, Free{api.gpm_sample_free});
  }
  if (result_ != kSuccess) return;
  request_ = std::make_unique<GpmMetricsGet>();
  has_last_ = take(last_);
  last_s_ = now_s;
}

bool Gpm::take(Sample& sample) {
  result_ = api_.gpm_sample_get(device_, sample.get());
  return result_ == kSuccess;
}

bool Gpm::ready(double now_s) const {
  return request_ != nullptr && (!has_last_ || now_s - last_s_ >= kLeastIntervalS);
}

std::optional<Gpm::Activity> Gpm::read(double now_s) {
  if (!take(next_)) {
    has_last_ = false;
    return std::nullopt;
  }
  const std::optional<Activity> activity = has_last_ ? between() : std::nullopt;
  std::swap(last_, next_);
  has_last_ = true;
  last_s_ = now_s;
  return activity;
}

std::optional<Gpm::Activity> Gpm::between() {
  constexpr std::array<unsigned, 3> kWanted{kGpmSmActive, kGpmTensorActive, kGpmDramActive};
  request_->version = kGpmMetricsGetVersion;
  request_->count = kWanted.size();
  request_->from = last_.get();
  request_->to = next_.get();
  for (size_t i = 0; i < kWanted.size(); ++i)
    request_->metrics[i] = {kWanted[i], kErrorUnknown, 0.0, nullptr, nullptr, nullptr};
  result_ = api_.gpm_metrics_get(request_.get());
  if (result_ != kSuccess) return std::nullopt;
  return Activity{fraction(request_->metrics[0]), fraction(request_->metrics[1]),
                  fraction(request_->metrics[2])};
}

}  // namespace thermoe::nvml
