#include "cost/moe_load.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <compare>
#include <cstdlib>
#include <map>
#include <mutex>
#include <numeric>
#include <optional>
#include <random>
#include <vector>

#include "thermoe/error.h"

namespace thermoe::cost {
namespace {

constexpr int kDraws = 12;  // the mean distinct experts are then good to two hundredths
constexpr const char* kPowerLaw = "power_law_";

using Counts = std::vector<int64_t>;

Counts balanced_counts(int64_t tokens, int experts, int top_k) {
  const int64_t stride = (experts + top_k - 1) / top_k;
  const double step =
      tokens >= stride ? 1.0 : static_cast<double>(stride) / static_cast<double>(tokens);
  // `experts` tokens in a row give each expert top_k.
  Counts counts(static_cast<size_t>(experts), tokens / experts * top_k);
  for (int64_t t = 0; t < tokens % experts; ++t)
    for (int64_t i = 0; i < top_k; ++i) {
      const double place = static_cast<double>(t) * step + static_cast<double>(i * stride);
      ++counts[static_cast<size_t>(place) % counts.size()];
    }
  return counts;
}

// Experts by falling count; among equals one of each device in turn.
std::vector<size_t> repair_order(const Counts& counts, int ep) {
  const size_t local = counts.size() / static_cast<size_t>(ep);
  std::vector<size_t> order(counts.size());
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    if (counts[a] != counts[b]) return counts[a] > counts[b];
    return std::pair(a % local, a / local) < std::pair(b % local, b / local);
  });
  return order;
}

// Adds to (or takes from) one expert after the other, the busiest first, until the sum is right.
void repair(Counts& counts, int64_t tokens, int64_t missing, int ep) {
  const std::vector<size_t> order = repair_order(counts, ep);
  const int64_t change = missing > 0 ? 1 : -1;
  for (size_t i = 0; missing != 0; i = (i + 1) % order.size()) {
    int64_t& count = counts[order[i]];
    if (change > 0 ? count >= tokens : count <= 0) continue;
    count += change;
    missing -= change;
  }
}

Counts power_law_counts(std::mt19937_64& random, int64_t tokens, int experts, int top_k, int ep,
                        double exponent) {
  const int64_t sum = tokens * top_k;
  const double low = sum > experts ? 1.0 : 0.01;
  const double high = sum > experts ? 0.8 * static_cast<double>(tokens) : 2.0;
  const double power = 1 - exponent;
  const double a = std::pow(low, power), b = std::pow(high, power);
  std::vector<double> sample(static_cast<size_t>(experts));
  double total = 0;
  for (double& x : sample) {
    const double uniform = static_cast<double>(random() >> 11) * 0x1.0p-53;
    x = std::pow(a + (b - a) * uniform, 1 / power);
    total += x;
  }
  Counts counts(sample.size());
  int64_t missing = sum;
  for (size_t e = 0; e < sample.size(); ++e) {
    const double share = sample[e] / total * static_cast<double>(sum);
    counts[e] = std::min<int64_t>(std::llrint(share), tokens);
    missing -= counts[e];
  }
  repair(counts, tokens, missing, ep);
  return counts;
}

// The load of experts [first, first + local).
MoeLoad load_of(const Counts& counts, size_t first, size_t local) {
  MoeLoad load;
  for (size_t e = first; e < first + local; ++e) {
    const double count = static_cast<double>(counts[e]);
    load.assignments += count;
    load.distinct += count > 0 ? 1 : 0;
    load.tile_rows += std::ceil(count / kLoadTileRows) * kLoadTileRows;
  }
  return load;
}

size_t busiest_first(const Counts& counts, size_t local) {
  size_t best = 0;
  int64_t most = -1;
  for (size_t first = 0; first < counts.size(); first += local) {
    const auto begin = counts.begin() + static_cast<std::ptrdiff_t>(first);
    const int64_t sum =
        std::accumulate(begin, begin + static_cast<std::ptrdiff_t>(local), int64_t{0});
    if (sum > most) best = first;
    most = std::max(most, sum);
  }
  return best;
}

struct LoadKey {
  int64_t tokens;
  int experts, top_k, ep;
  double exponent;
  auto operator<=>(const LoadKey&) const = default;
};

// Remembers what was computed: a model asks for the same few thousand loads again and again.
class LoadCache {
 public:
  std::optional<MoeLoad> find(const LoadKey& key) {
    const std::lock_guard lock(mutex_);
    const auto found = loads_.find(key);
    return found == loads_.end() ? std::nullopt : std::optional(found->second);
  }
  void add(const LoadKey& key, const MoeLoad& load) {
    const std::lock_guard lock(mutex_);
    if (loads_.size() >= kMost) loads_.clear();
    loads_.emplace(key, load);
  }

 private:
  static constexpr size_t kMost = 1 << 16;  // some megabytes
  std::mutex mutex_;
  std::map<LoadKey, MoeLoad> loads_;
};

MoeLoad compute_load(const LoadKey& key) {
  const size_t local = static_cast<size_t>(key.experts / key.ep);
  if (key.exponent == 0)
    return load_of(balanced_counts(key.tokens, key.experts, key.top_k), 0, local);
  std::mt19937_64 random(static_cast<uint64_t>(key.tokens) * 1000003U +
                         static_cast<uint64_t>(key.experts) * 1009U +
                         static_cast<uint64_t>(key.top_k));
  MoeLoad mean;
  for (int draw = 0; draw < kDraws; ++draw) {
    const Counts counts =
        power_law_counts(random, key.tokens, key.experts, key.top_k, key.ep, key.exponent);
    const MoeLoad load = load_of(counts, busiest_first(counts, local), local);
    mean.assignments += load.assignments / kDraws;
    mean.distinct += load.distinct / kDraws;
    mean.tile_rows += load.tile_rows / kDraws;
  }
  return mean;
}

}  // namespace

double load_exponent(const std::string& distribution) {
  if (distribution == "balanced") return 0;
  const std::string prefix = kPowerLaw;
  if (distribution.rfind(prefix, 0) == 0) {
    const std::string text = distribution.substr(prefix.size());
    char* end = nullptr;
    const double value = std::strtod(text.c_str(), &end);
    const bool whole = end != nullptr && *end == '\0' && !text.empty();
    if (whole && std::isfinite(value) && value > 0 && value != 1) return value;
  }
  throw InvalidArgument(fmt::format(
      "load distribution \"{}\" is not known; use balanced or power_law_<exponent>, the exponent "
      "positive and not 1",
      distribution));
}

MoeLoad expected_load(int64_t tokens, int experts, int top_k, int ep, double exponent) {
  if (tokens < 1 || experts < 1 || top_k < 1 || top_k > experts || ep < 1 || experts % ep != 0)
    throw InvalidArgument(fmt::format(
        "a load of {} tokens on {} experts, top {}, over {} devices: sizes must be at least 1, "
        "top_k at most the experts, and the devices must divide the experts",
        tokens, experts, top_k, ep));
  const LoadKey key{tokens, experts, top_k, ep, exponent};
  static LoadCache cache;
  if (const std::optional<MoeLoad> known = cache.find(key)) return *known;
  const MoeLoad load = compute_load(key);
  cache.add(key, load);
  return load;
}

}  // namespace thermoe::cost
