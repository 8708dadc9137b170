#include "thermoe/governor.h"

#include <algorithm>
#include <cmath>
#include <memory>

#include "c_api/handles.h"
#include "c_api/records.h"

struct thermoe_governor {  // NOLINT(readability-identifier-naming): C
  thermoe::Governor governor;
};

namespace thermoe::c_api {
namespace {

GovernorLimits limits_of(const thermoe_governor_limits* given) {
  const thermoe_governor_limits l = read_struct(
      given, THERMOE_THROUGH(thermoe_governor_limits, layer_latency_target_us), "governor limits");
  const auto limit = [](double value) { return value != 0 ? std::optional(value) : std::nullopt; };
  GovernorLimits limits;
  limits.power_cap_w = limit(l.power_cap_w);
  limits.temperature_cap_c = limit(l.temperature_cap_c);
  limits.layer_latency_target_us = limit(l.layer_latency_target_us);
  if (l.max_open_price != 0) limits.max_open_price = l.max_open_price;
  return limits;
}

void require_finite(const std::vector<float>& prices) {
  for (const float price : prices)
    if (!std::isfinite(price))
      throw InvalidArgument(fmt::format(
          "a price is {}: the governor's max_open_price or the surrogate is out of scale", price));
}

ExpertPrices prices_of(const Governor& governor, const CostSurrogate& surrogate,
                       const thermoe_layout* layout, int32_t count) {
  check_count(count, kMostExperts * ExpertLayout::kMaxInstances, "count");
  if (layout == nullptr) return governor.prices(surrogate, count);
  if (layout->layout.count() != count)
    throw InvalidArgument(
        fmt::format("prices for {} instances: the layout has {}", count, layout->layout.count()));
  return governor.prices(surrogate, layout->layout);
}

}  // namespace
}  // namespace thermoe::c_api

namespace c = thermoe::c_api;

thermoe_status thermoe_governor_create(const thermoe_governor_limits* limits,
                                       const thermoe_cost_surrogate* surrogate,
                                       thermoe_governor** out) {
  return c::guarded([&] {
    c::require(out, "out");
    *out = nullptr;
    *out =
        std::make_unique<thermoe_governor>(
            thermoe_governor{thermoe::Governor(c::limits_of(limits), c::read_surrogate(surrogate))})
            .release();
  });
}

void thermoe_governor_close(thermoe_governor* governor) { delete governor; }

thermoe_status thermoe_governor_set_limits(thermoe_governor* governor,
                                           const thermoe_governor_limits* limits) {
  return c::guarded([&] {
    c::require(governor, "governor");
    governor->governor.set_limits(c::limits_of(limits));
  });
}

thermoe_status thermoe_governor_update(thermoe_governor* governor,
                                       const thermoe_hardware_state* state, double layer_latency_us,
                                       double dt_s, thermoe_multipliers* out) {
  return c::guarded([&] {
    c::require(governor, "governor");
    std::optional<double> latency;
    if (!std::isnan(layer_latency_us)) latency = layer_latency_us;
    const thermoe::Multipliers m = governor->governor.update(c::read_state(state), latency, dt_s);
    if (out != nullptr)
      c::write_struct(thermoe_multipliers{sizeof(thermoe_multipliers), m.per_us, m.per_mj}, out,
                      sizeof(thermoe_multipliers), "multipliers");
  });
}

thermoe_status thermoe_governor_prices(const thermoe_governor* governor,
                                       const thermoe_cost_surrogate* surrogate,
                                       const thermoe_layout* layout, int32_t count, float* open,
                                       float* slope) {
  return c::guarded([&] {
    c::require(governor, "governor");
    const thermoe::ExpertPrices prices =
        c::prices_of(governor->governor, c::read_surrogate(surrogate), layout, count);
    c::require_finite(prices.open);
    c::require_finite(prices.slope);
    const auto copy = [count](const std::vector<float>& from, float* to) {
      if (to == nullptr) return;
      if (from.empty())
        std::fill_n(to, count, 0.0f);
      else
        std::copy(from.begin(), from.end(), to);
    };
    copy(prices.open, open);
    copy(prices.slope, slope);
  });
}
