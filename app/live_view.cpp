#include "live_view.h"

#include <fmt/format.h>

#include <algorithm>

#include "progress.h"

namespace thermoe::app {
namespace {

constexpr size_t kSparkWidth = 40;
constexpr int kLines = 3;

std::string sparkline(const std::deque<double>& values) {
  static constexpr const char* kLevels[] = {"▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
  if (values.empty()) return "";
  const auto [low, high] = std::minmax_element(values.begin(), values.end());
  const double span = std::max(*high - *low, 1.0);
  std::string line;
  for (const double value : values)
    line += kLevels[std::clamp(static_cast<int>((value - *low) / span * 7.999), 0, 7)];
  return line;
}

}  // namespace

LiveView::~LiveView() { clear(); }

void LiveView::clear() {
  if (shown_) fmt::print(stderr, "\r\033[{}A\033[J", kLines);
  shown_ = false;
}

void LiveView::update(const LiveStatus& status) {
  const auto now = std::chrono::steady_clock::now();
  if (!interactive() || now - last_ < std::chrono::milliseconds(100)) return;
  last_ = now;
  temperatures_.push_back(status.sample.temperature_c);
  if (temperatures_.size() > kSparkWidth) temperatures_.pop_front();
  clear();
  const Sample& s = status.sample;
  fmt::print(stderr, "{:8} {} {:3.0f} %  {:5.1f} s  {}{}\n", status.policy,
             bar(status.fraction, 30), 100 * status.fraction, s.time_s, status.phase,
             status.throttled ? "  [throttled]" : "");
  fmt::print(stderr, "  {:5.1f} °C  {:4.0f} W  {:5.0f} MHz  {}\n", s.temperature_c, s.power_w,
             s.clock_mhz, sparkline(temperatures_));
  fmt::print(stderr, "  price {:.4f}  distinct experts {:5.2f}  {:5.0f} tokens/s\n", s.open_price,
             s.distinct_experts, s.tokens_per_s);
  std::fflush(stderr);
  shown_ = true;
}

}  // namespace thermoe::app
