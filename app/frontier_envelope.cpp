#include "frontier_envelope.h"

#include <algorithm>
#include <utility>

namespace thermoe::app {
namespace {

// Whether `middle` lies on or above the line from `left` to `right`.
bool above(const FrontierSample& left, const FrontierSample& middle, const FrontierSample& right) {
  return (middle.loss_nats - left.loss_nats) * (right.read_frac - left.read_frac) >=
         (right.loss_nats - left.loss_nats) * (middle.read_frac - left.read_frac);
}

}  // namespace

FrontierEnvelope::FrontierEnvelope(std::vector<FrontierSample> samples) {
  std::stable_sort(
      samples.begin(), samples.end(), [](const FrontierSample& a, const FrontierSample& b) {
        return std::pair(a.read_frac, a.loss_nats) < std::pair(b.read_frac, b.loss_nats);
      });
  double least_loss_nats = 0;
  for (FrontierSample& sample : samples) {
    if (!settings_.empty() && sample.loss_nats >= least_loss_nats) continue;
    least_loss_nats = sample.loss_nats;
    while (settings_.size() >= 2 &&
           above(settings_[settings_.size() - 2], settings_.back(), sample))
      settings_.pop_back();
    settings_.push_back(std::move(sample));
  }
}

std::optional<FrontierValue> FrontierEnvelope::at(double read_frac) const {
  const auto next = std::upper_bound(
      settings_.begin(), settings_.end(), read_frac,
      [](double level, const FrontierSample& sample) { return level < sample.read_frac; });
  if (next == settings_.begin()) return std::nullopt;
  const FrontierSample& left = *(next - 1);
  if (next == settings_.end()) return FrontierValue{left.loss_nats, left.standard_error_nats};
  const double share = (read_frac - left.read_frac) / (next->read_frac - left.read_frac);
  return FrontierValue{left.loss_nats + share * (next->loss_nats - left.loss_nats),
                       (1 - share) * left.standard_error_nats + share * next->standard_error_nats};
}

}  // namespace thermoe::app
