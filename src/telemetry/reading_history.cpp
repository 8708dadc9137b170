#include "telemetry/reading_history.h"

#include <algorithm>
#include <cmath>

#include "telemetry/readings.h"

namespace thermoe {
uint16_t status_ms(double duration_s) {
  const double ms = std::round(1e3 * duration_s);
  if (!(ms > 0.0)) return 0;
  return static_cast<uint16_t>(std::min(ms, static_cast<double>(ReadingStatus::kLongestMs)));
}

void ReadingHistory::complete(HardwareState& state) {
  const double now_s = std::max(state.time_s, last_s_);
  last_s_ = now_s;
  size_t n = 0;
  for_each_reading(state, [&](const char*, const auto& reading) {
    ReadingStatus& status = state.status[n];
    Seen& seen = seen_[n];
    const auto which = static_cast<Reading>(n++);
    if (status.scope == Scope::kUnknown) status.scope = usual_scope(which);
    if (!reading) {
      seen.value.reset();
      return;
    }
    const auto value = static_cast<double>(*reading);
    if (seen.value != value) seen = {value, now_s};
    status.unchanged_ms = status_ms(now_s - seen.since_s);
    if (status.validity == Validity::kUnknown) status.validity = Validity::kValid;
    const double read_s = now_s - 1e-3 * status.age_ms;
    if (which == Reading::kEnergy && read_s - seen.since_s >= kEnergyDueS &&
        state.power_w().value_or(0.0) > kLeastPowerW)
      status.validity = Validity::kStale;
  });
}

}  // namespace thermoe
