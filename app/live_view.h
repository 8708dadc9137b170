// The live view of a run: a panel on a terminal; nothing where standard error is not one.
#pragma once

#include <chrono>
#include <deque>

#include "simulation.h"

namespace thermoe::app {

class LiveView {
 public:
  LiveView() = default;
  ~LiveView();
  LiveView(const LiveView&) = delete;
  LiveView& operator=(const LiveView&) = delete;
  // Redraws at most ten times a second.
  void update(const LiveStatus& status);
  void clear();

 private:
  std::chrono::steady_clock::time_point last_{};
  std::deque<double> temperatures_;  // recent, for the sparkline
  bool shown_ = false;
};

}  // namespace thermoe::app
