// Random gate probabilities for the routing tests.
#pragma once

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "thermoe/views.h"

namespace thermoe {

struct ScoreBatch {
  int tokens, experts;
  std::vector<float> values;
  ConstMatrix view() const { return {values.data(), tokens, experts}; }
};

// Softmax of normal logits whose spread and per-expert bias make some experts popular, as real
// routers do.
inline ScoreBatch random_scores(int tokens, int experts, uint32_t seed, float spread = 1.5f) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> bias(static_cast<size_t>(experts));
  for (float& b : bias) b = normal(random);
  ScoreBatch batch{tokens, experts, {}};
  for (int t = 0; t < tokens; ++t) {
    std::vector<float> row(static_cast<size_t>(experts));
    float sum = 0;
    for (size_t e = 0; e < row.size(); ++e)
      sum += row[e] = std::exp(spread * normal(random) + bias[e]);
    for (const float value : row) batch.values.push_back(value / sum);
  }
  return batch;
}

}  // namespace thermoe
