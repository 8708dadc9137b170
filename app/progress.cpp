#include "progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <string_view>
#include <utility>

namespace thermoe::app {

bool interactive() {
  const char* terminal = std::getenv("TERM");
  return isatty(STDERR_FILENO) != 0 && terminal != nullptr && std::string_view(terminal) != "dumb";
}

std::string bar(double fraction, int width) {
  const int filled = static_cast<int>(std::lround(std::clamp(fraction, 0.0, 1.0) * width));
  std::string cells;
  for (int i = 0; i < width; ++i) cells += i < filled ? "█" : "░";
  return cells;
}

Progress::Progress(std::string label, double total, std::string unit)
    : label_(std::move(label)),
      unit_(std::move(unit)),
      total_(total),
      start_(std::chrono::steady_clock::now()),
      last_(start_) {}

Progress::~Progress() {
  if (shown_) fmt::print(stderr, "\r\033[K");
}

void Progress::update(double done) {
  const auto now = std::chrono::steady_clock::now();
  if (!interactive() || now - last_ < std::chrono::milliseconds(100)) return;
  last_ = now;
  shown_ = true;
  const double elapsed_s = std::chrono::duration<double>(now - start_).count();
  const double fraction = total_ > 0 ? done / total_ : 0.0;
  const double left_s = fraction > 0 ? elapsed_s * (1 - fraction) / fraction : 0.0;
  fmt::print(stderr, "\r\033[K{} {} {:3.0f} %  {:.0f} {}/s  {:.0f} s left", label_,
             bar(fraction, 30), 100 * fraction, done / elapsed_s, unit_, left_s);
  std::fflush(stderr);
}

}  // namespace thermoe::app
