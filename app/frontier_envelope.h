// What a policy reaches with its best knobs: loss as a function of the bytes it may read.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

namespace thermoe::app {

// One measured setting of a policy.
struct FrontierSample {
  double read_frac = 0;  // bytes of experts read, of the reference's
  double loss_nats = 0;  // cross-entropy minus the reference's
  double standard_error_nats = 0;
  std::string specification, variants = "bf16";
};

struct FrontierValue {
  double loss_nats = 0;
  double standard_error_nats = 0;  // an upper bound: as if the two ends erred together
};

// The lower envelope of a policy's samples: those that no other one beats in both bytes and loss,
// and of these the lower convex hull, linear in between. A value between two settings is what
// taking turns between them gives, so no policy suffers from knobs that are coarse.
class FrontierEnvelope {
 public:
  explicit FrontierEnvelope(std::vector<FrontierSample> samples);
  // The settings on the envelope, by rising read_frac (and falling loss).
  std::span<const FrontierSample> settings() const { return settings_; }
  // The least loss with at most `read_frac` of the reference's bytes; nothing where the policy
  // never reads so few.
  std::optional<FrontierValue> at(double read_frac) const;

 private:
  std::vector<FrontierSample> settings_;
};

}  // namespace thermoe::app
