#include "routing/costs.h"

#include <algorithm>
#include <climits>

namespace thermoe {
namespace {

void read_prices(const std::vector<float>* prices, size_t count, float otherwise,
                 std::vector<double>& out) {
  out.resize(count);
  for (size_t i = 0; i < count; ++i) {
    const float price = prices == nullptr ? otherwise : prices->empty() ? 0.0f : (*prices)[i];
    out[i] = price_to_grid(static_cast<double>(price));
  }
}

bool none(const std::vector<double>& prices) {
  return std::all_of(prices.begin(), prices.end(), [](double price) { return price == 0.0; });
}

int64_t beyond(int load, int capacity) { return std::max(0, load - capacity); }

}  // namespace

void Costs::read(const RoutingRequest& request, int instances, float open_price,
                 float slope_price) {
  const size_t count = static_cast<size_t>(instances);
  const ExpertPrices* prices = request.prices;
  read_prices(prices ? &prices->open : nullptr, count, open_price, open);
  if (prices == nullptr && request.layout != nullptr)
    for (int i = 0; i < instances; ++i)
      open[i] = price_to_grid(static_cast<double>(open_price) *
                              static_cast<double>(request.layout->variant_of(i).read_frac));
  read_prices(prices ? &prices->slope : nullptr, count, slope_price, slope);
  read_prices(prices ? &prices->device_open : nullptr, count, 0.0f, device_open);
  read_prices(prices ? &prices->device_slope : nullptr, count, 0.0f, device_slope);
  devices = request.layout ? request.layout->devices : 1;
  read_prices(prices ? &prices->device_base : nullptr, static_cast<size_t>(devices), 0.0f, base);
  device.assign(count, 0);
  capacity.assign(count, INT32_MAX);
  limited = false;
  if (request.layout == nullptr) return;
  for (size_t i = 0; i < count; ++i) device[i] = request.layout->instances[i].device;
  if (request.layout->capacity.empty()) return;
  limited = true;
  capacity = request.layout->capacity;
}

bool Costs::zero() const {
  return none(open) && none(slope) && none(device_open) && none(device_slope);
}

double Costs::least_base() const { return *std::max_element(base.begin(), base.end()); }

bool Costs::additive() const { return devices == 1 || (none(device_open) && none(device_slope)); }

void CostTally::reset(const Costs& costs, int instances) {
  sum_ = 0;
  excess_ = 0;
  device_ = costs.base;
  load_.assign(static_cast<size_t>(instances), 0);
}

void CostTally::add(const Costs& costs, int32_t instance, int count) {
  const int before = load_[instance], after = before + count;
  load_[instance] = after;
  const int uses = (after > 0) - (before > 0);
  sum_ += costs.open[instance] * uses + costs.slope[instance] * count;
  device_[costs.device[instance]] +=
      costs.device_open[instance] * uses + costs.device_slope[instance] * count;
  excess_ += beyond(after, costs.capacity[instance]) - beyond(before, costs.capacity[instance]);
}

double CostTally::cost() const { return sum_ + *std::max_element(device_.begin(), device_.end()); }

int CostTally::worst_excess(const Costs& costs) const {
  int64_t worst = 0;
  for (size_t i = 0; i < load_.size(); ++i)
    worst = std::max(worst, beyond(load_[i], costs.capacity[i]));
  return static_cast<int>(worst);
}

}  // namespace thermoe
