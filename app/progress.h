// A progress bar on a terminal; nothing where standard error is not one.
#pragma once

#include <chrono>
#include <string>

namespace thermoe::app {

// True where standard error is a terminal that understands cursor movement.
bool interactive();

// The bar's text alone: `width` cells filled to `fraction`.
std::string bar(double fraction, int width);

class Progress {
 public:
  // `label` stands before the bar; `unit` names what is counted ("tokens").
  Progress(std::string label, double total, std::string unit);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  // Redraws at most ten times a second.
  void update(double done);

 private:
  std::string label_, unit_;
  double total_;
  bool shown_ = false;
  std::chrono::steady_clock::time_point start_, last_;
};

}  // namespace thermoe::app
