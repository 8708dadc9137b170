#include "cost/moe_load.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <map>
#include <mutex>
#include <numeric>
#include <optional>
#include <random>
#include <span>
#include <tuple>
#include <vector>

#include "thermoe/error.h"

namespace thermoe::cost {
namespace {

// Draws of a load, more of few experts, whose numbers vary more from draw to draw: the mean
// distinct experts are good to about two hundredths.
int draws_of(int experts) { return std::clamp(2048 / experts, 12, 64); }
constexpr const char* kPowerLaw = "power_law_";
constexpr double kMostExponent = 16;  // all on one expert long before; above, samples overflow

using Counts = std::vector<int64_t>;

Counts balanced_counts(int64_t tokens, int experts, int top_k) {
  const int64_t stride = (experts + top_k - 1) / top_k;
  // `experts` tokens in a row give each expert top_k.
  Counts counts(static_cast<size_t>(experts), tokens / experts * top_k);
  for (int64_t t = 0; t < tokens % experts; ++t)
    for (int64_t i = 0; i < top_k; ++i) {
      const int64_t first = tokens >= stride ? t : t * stride / tokens;
      ++counts[static_cast<size_t>(first + i * stride) % counts.size()];
    }
  return counts;
}

// Adds one to the least of `counts`, `amount` times; sorts them.
void raise_least(std::span<int64_t> counts, int64_t amount) {
  std::sort(counts.begin(), counts.end());
  size_t low = 1;  // so many stand at the lowest level
  for (; low < counts.size(); ++low) {
    const int64_t needed = (counts[low] - counts[low - 1]) * static_cast<int64_t>(low);
    if (needed > amount) break;
    amount -= needed;
  }
  const int64_t n = static_cast<int64_t>(low), level = counts[low - 1] + amount / n;
  for (size_t i = 0; i < low; ++i)
    counts[i] = level + (static_cast<int64_t>(i) < amount % n ? 1 : 0);
}

// How many of `left` each device takes, one after the other in turn while they have room.
std::vector<int64_t> take_turns(const std::vector<int64_t>& room, int64_t left) {
  std::vector<int64_t> taken(room.size());
  while (left > 0) {
    int64_t open = 0;
    for (size_t d = 0; d < room.size(); ++d) open += taken[d] < room[d] ? 1 : 0;
    if (open == 0) break;
    const int64_t rounds = std::max<int64_t>(left / open, 1);
    for (size_t d = 0; d < room.size(); ++d) {
      const int64_t more = std::min({rounds, room[d] - taken[d], left});
      taken[d] += more;
      left -= more;
    }
  }
  return taken;
}

// One at a time, the devices in turn: to a device's least busy expert (none gets more than
// `tokens`), or where `change` is negative from its busiest. Experts change places within a device.
void repair(Counts& counts, int64_t tokens, int64_t change, int ep) {
  if (change == 0) return;
  const size_t local = counts.size() / static_cast<size_t>(ep);
  const int64_t sign = change > 0 ? 1 : -1;
  std::vector<int64_t> room(static_cast<size_t>(ep));
  for (size_t e = 0; e < counts.size(); ++e)
    room[e / local] += change > 0 ? tokens - counts[e] : counts[e];
  const std::vector<int64_t> taken = take_turns(room, std::abs(change));
  for (int64_t& count : counts) count *= sign;  // the busiest is the least of the negated
  for (size_t d = 0; d < room.size(); ++d)
    raise_least(std::span(counts).subspan(d * local, local), taken[d]);
  for (int64_t& count : counts) count *= sign;
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
  int64_t overflow = 0, missing = sum;
  for (size_t e = 0; e < sample.size(); ++e) {
    const int64_t share = std::llrint(sample[e] / total * static_cast<double>(sum));
    counts[e] = std::min(share, tokens);
    overflow += share - counts[e];
    missing -= share;
  }
  repair(counts, tokens, overflow, ep);
  repair(counts, tokens, missing, ep);
  // Where nearly every expert is full, not all that was over found room before the rest was taken.
  repair(counts, tokens, sum - std::accumulate(counts.begin(), counts.end(), int64_t{0}), ep);
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
  bool operator<(const LoadKey& other) const {
    return std::tie(tokens, experts, top_k, ep, exponent) <
           std::tie(other.tokens, other.experts, other.top_k, other.ep, other.exponent);
  }
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

std::vector<Counts> power_law_draws(const LoadKey& key) {
  std::mt19937_64 random(static_cast<uint64_t>(key.tokens) * 1000003U +
                         static_cast<uint64_t>(key.experts) * 1009U +
                         static_cast<uint64_t>(key.top_k));
  std::vector<Counts> draws;
  draws.reserve(static_cast<size_t>(draws_of(key.experts)));
  for (int draw = 0; draw < draws_of(key.experts); ++draw)
    draws.push_back(
        power_law_counts(random, key.tokens, key.experts, key.top_k, key.ep, key.exponent));
  return draws;
}

MoeLoad compute_load(const LoadKey& key) {
  const size_t local = static_cast<size_t>(key.experts / key.ep);
  if (key.exponent == 0)
    return load_of(balanced_counts(key.tokens, key.experts, key.top_k), 0, local);
  MoeLoad mean;
  const std::vector<Counts> all = power_law_draws(key);
  const auto draws = static_cast<double>(all.size());
  for (const Counts& counts : all) {
    const MoeLoad load = load_of(counts, busiest_first(counts, local), local);
    mean.assignments += load.assignments / draws;
    mean.distinct += load.distinct / draws;
    mean.tile_rows += load.tile_rows / draws;
  }
  return mean;
}

// The draw that is nearest to their mean.
Counts middle_draw(const std::vector<Counts>& draws, const MoeLoad& mean) {
  const auto distance = [&](const Counts& counts) {
    const MoeLoad load = load_of(counts, 0, counts.size());
    return std::pair(std::abs(load.distinct - mean.distinct),
                     std::abs(load.tile_rows - mean.tile_rows));
  };
  return *std::min_element(draws.begin(), draws.end(), [&](const Counts& a, const Counts& b) {
    return distance(a) < distance(b);
  });
}

// How far the mean of `loads` loads that sum to `sum` is from `mean`, in parts of it.
double distance(const MoeLoad& sum, double loads, const MoeLoad& mean) {
  return std::abs(sum.distinct / loads / mean.distinct - 1) +
         std::abs(sum.tile_rows / loads / mean.tile_rows - 1);
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
    if (whole && value > 0 && value != 1 && value <= kMostExponent) return value;
  }
  throw InvalidArgument(fmt::format(
      "load distribution \"{}\" is not known; use balanced or power_law_<exponent>, the exponent "
      "positive, at most {:.0f} and not 1",
      distribution, kMostExponent));
}

std::string distribution_name(double exponent) {
  return exponent == 0 ? "balanced" : fmt::format("{}{}", kPowerLaw, exponent);
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

std::vector<int64_t> representative_counts(int64_t tokens, int experts, int top_k,
                                           double exponent) {
  const MoeLoad mean = expected_load(tokens, experts, top_k, 1, exponent);
  Counts counts = exponent == 0
                      ? balanced_counts(tokens, experts, top_k)
                      : middle_draw(power_law_draws({tokens, experts, top_k, 1, exponent}), mean);
  // The balanced recipe names an expert twice for a token where top_k doesn't divide the experts.
  int64_t missing = 0;
  for (int64_t& count : counts) {
    missing += std::max<int64_t>(count - tokens, 0);
    count = std::min(count, tokens);
  }
  repair(counts, tokens, missing, 1);
  return counts;
}

std::vector<std::vector<int64_t>> representative_loads(int64_t tokens, int experts, int top_k,
                                                       double exponent, int loads) {
  if (exponent == 0) return {representative_counts(tokens, experts, top_k, exponent)};
  const MoeLoad mean = expected_load(tokens, experts, top_k, 1, exponent);
  std::vector<Counts> draws = power_law_draws({tokens, experts, top_k, 1, exponent}), chosen;
  MoeLoad sum;
  while (static_cast<int>(chosen.size()) < loads && !draws.empty()) {
    const auto with = [&](const Counts& counts) {
      const MoeLoad one = load_of(counts, 0, counts.size());
      return MoeLoad{0, sum.distinct + one.distinct, sum.tile_rows + one.tile_rows};
    };
    const double count = static_cast<double>(chosen.size() + 1);
    const auto best =
        std::min_element(draws.begin(), draws.end(), [&](const Counts& a, const Counts& b) {
          return distance(with(a), count, mean) < distance(with(b), count, mean);
        });
    sum = with(*best);
    chosen.push_back(std::move(*best));
    draws.erase(best);
  }
  return chosen;
}

}  // namespace thermoe::cost
