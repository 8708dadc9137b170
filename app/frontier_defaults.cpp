// The sweep of a frontier that is not told what to sweep.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <string>
#include <vector>

#include "frontier_sweep.h"

namespace thermoe::app {
namespace {

// Whole numbers from first to last in at most `most` equal steps, the last one always; empty where
// there are none.
std::string whole_numbers(int first, int last, int most) {
  std::string text;
  const int step = std::max(1, (last - first + most - 1) / most);
  for (int value = last; value >= first; value -= step)
    text.insert(0, text.empty() ? std::to_string(value) : std::to_string(value) + ',');
  return text;
}

// Opening prices from nearly free to closing half of the experts. An expert that serves more tokens
// is worth more; how much more, the square root says well enough.
std::string open_prices(int batch) {
  constexpr std::array kAtBatch16{0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.25, 0.4, 0.6};
  const double scale = std::max(1.0, std::sqrt(batch / 16.0));
  std::string text;
  for (const double price : kAtBatch16)
    text += fmt::format("{}{:.3g}", text.empty() ? "" : ",", price * scale);
  return text;
}

// Distinct experts of a batch, were each expert as likely as the next: a little more than a trained
// gate's.
int likely_distinct(int experts, int k, int batch) {
  const double missed = std::pow(1.0 - static_cast<double>(k) / experts, batch);
  return std::clamp(static_cast<int>(std::lround(experts * (1.0 - missed))), k, experts);
}

// "name:knob=values", nothing where there is no value.
void add(std::vector<std::string>& lines, const std::string& knob, const std::string& values) {
  if (!values.empty()) lines.push_back(knob + "=" + values);
}

std::vector<std::string> default_lines(int experts, int k, int batch, bool calibrated,
                                       bool precisions) {
  const int distinct = likely_distinct(experts, k, batch);
  const int half = std::max(1, distinct / 2);
  const std::string fewer = whole_numbers(1, k - 1, 8), sets = whole_numbers(half, distinct, 8);
  std::vector<std::string> lines;
  // Alone a token saves by using fewer experts only.
  add(lines, "adaptive:min_k=1,open", open_prices(batch));
  if (batch > 1) {
    add(lines, "adaptive:open", open_prices(batch));
    add(lines, "adaptive:utility=gate,power=1,open", open_prices(batch));
  }
  add(lines, "fewer:k", fewer);
  add(lines, "topp:p", "0.4,0.5,0.6,0.7,0.8,0.9,0.95");
  add(lines, "minp:p", "0.05,0.1,0.2,0.3,0.4,0.5,0.7");
  add(lines, "oea:k0", fewer);
  add(lines, "xshare:warm=0,1,budget", sets);
  add(lines, "lynx:alpha", "0.125,0.25,0.5,1,2,4,8");
  add(lines, "lynx:keep", whole_numbers(std::max(half, k), std::max(distinct, k), 8));
  if (calibrated) add(lines, "sere:primary", fewer);
  add(lines, "cacheprior:lambda=0.2,0.5,1,size", whole_numbers(half, distinct, 3));
  add(lines, "capdrop:factor", "0.5,0.75,1,1.5");
  add(lines, "capexpand:factor", "0.5,0.75,1,1.5");
  // Where an expert has less than one token, rounding to tiles leaves nothing.
  if (batch * k >= experts) add(lines, "tileround:round=nearest,down,tile", "2,4,8,16");
  if (precisions) {
    add(lines, "staticmix:frac", "0.1,0.25,0.5,0.75");
    add(lines, "threshold:close=0,0.02,0.05,0.1,theta", "0.02,0.05,0.1,0.2,0.5,1");
  }
  return lines;
}

}  // namespace

std::vector<SweptPolicy> default_sweep(int experts, int k, int batch, bool calibrated,
                                       bool precisions) {
  std::vector<std::string> lines;
  for (const std::string& line : default_lines(experts, k, batch, calibrated, precisions)) {
    const std::string name = policy_name(line);
    for (const PolicyInfo& info : known_policies())
      if (info.name == name) lines.push_back(line);
  }
  return read_sweep(lines);
}

}  // namespace thermoe::app
