// What the readings of one source were before: since when each is what it is.
#pragma once

#include <array>
#include <optional>

#include "thermoe/hardware_state.h"

namespace thermoe {

// Completes the status of each reading that the source left open: validity by whether the value is
// there, the usual scope, and for how long the value has been the same. An energy counter that
// was read again, should have moved and did not is stale. Not thread-safe.
class ReadingHistory {
 public:
  // A board refreshes its counter about ten times a second (H100, driver 580).
  static constexpr double kEnergyDueS = 1.0;
  // Below this it may stand still in truth: no board with memory draws less.
  static constexpr double kLeastPowerW = 1.0;

  // `state` is the source's next sample. Where its time is not later than the last one's, nothing
  // is taken to have passed.
  void complete(HardwareState& state);

 private:
  struct Seen {
    std::optional<double> value;
    double since_s = 0;
  };
  std::array<Seen, kReadings> seen_{};
  double last_s_ = 0;
};

// A duration as a ReadingStatus keeps it: whole milliseconds, at least 0, at most kLongestMs.
uint16_t status_ms(double duration_s);

}  // namespace thermoe
