// What experts cost a token now, in units of utility: 1 is the gate mass of one unmodified token.
#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

namespace thermoe {

struct ExpertLayout;

// Prices of one layer: of its I instances (expert_layout.h), or of its E experts where the request
// has no layout (then I = E). Empty vectors mean zero prices. All values finite and >= 0.
//
// cost(plan) = sum_i (open[i] * used_i + slope[i] * load_i)
//            + max over devices g of (device_base[g] + sum_{i on g} (device_open[i] * used_i
//                                                                    + device_slope[i] * load_i))
// with used_i = 1 where a token uses instance i, load_i the number that do. The sum is for what
// adds up over devices (energy), the maximum for what the slowest device decides (latency).
struct ExpertPrices {
  std::vector<float> open;          // [I] for bringing the weights on chip, once per batch
  std::vector<float> slope;         // [I] for each token sent there
  std::vector<float> device_open;   // [I]
  std::vector<float> device_slope;  // [I]
  std::vector<float> device_base;   // [devices] what a device costs that is sent nothing

  // No price that a plan could change: a base that is the same whatever is routed does not count
  // where nothing is added to it.
  bool zero() const {
    const auto none = [](const std::vector<float>& prices) {
      return std::all_of(prices.begin(), prices.end(), [](float price) { return price == 0.0f; });
    };
    return none(open) && none(slope) && none(device_open) && none(device_slope);
  }
  // Of a layout's instances: the prices are those of an expert in the original bf16, and a variant
  // that reads fewer bytes or computes faster costs so much less: open[i] = open_price * read_frac,
  // slope[i] = slope_price * compute_frac of its variant.
  static ExpertPrices of_layout(const ExpertLayout& layout, float open_price,
                                float slope_price = 0.0f);
  static ExpertPrices uniform(int experts, float open_price, float slope_price = 0.0f) {
    return {.open = std::vector<float>(static_cast<size_t>(experts), open_price),
            .slope = std::vector<float>(static_cast<size_t>(experts), slope_price),
            .device_open = {},
            .device_slope = {},
            .device_base = {}};
  }
};

}  // namespace thermoe
