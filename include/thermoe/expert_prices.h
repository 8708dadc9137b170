// What experts cost a token now, in units of utility: 1 is the gate mass of one unmodified token.
#pragma once

#include <cstddef>
#include <vector>

namespace thermoe {

// Prices of one layer's E experts. Empty vectors mean zero prices. All values finite and >= 0.
struct ExpertPrices {
  std::vector<float> open;   // [E] for bringing the expert's weights on chip, once per batch
  std::vector<float> slope;  // [E] for each token sent to it

  bool zero() const {
    for (float price : open)
      if (price != 0.0f) return false;
    for (float price : slope)
      if (price != 0.0f) return false;
    return true;
  }
  static ExpertPrices uniform(int experts, float open_price, float slope_price = 0.0f) {
    return {std::vector<float>(static_cast<size_t>(experts), open_price),
            std::vector<float>(static_cast<size_t>(experts), slope_price)};
  }
};

}  // namespace thermoe
