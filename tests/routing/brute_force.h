// The true optimum of small routing programs, by trying everything; independent of the solver.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include "score_batches.h"
#include "thermoe/routing_policy.h"

namespace thermoe {

// One small instance of any kind. `layout` and `prices` are always set.
struct SmallCase {
  ScoreBatch batch;
  ExpertLayout layout;
  ExpertPrices prices;
  int k = 1, min_k = 1;
  RoutingGoal goal;
  double error_weight = 1;
  RoutingRequest request() const {
    return {.scores = batch.view(),
            .k = k,
            .prices = &prices,
            .layout = &layout,
            .min_k = min_k,
            .goal = goal};
  }
};

// What a plan is worth, from the definitions in the public headers alone.
struct Worth {
  double utility = 0, cost = 0;
  bool within_capacity = true;
};

inline std::vector<double> token_utilities(const SmallCase& c, int t) {
  const auto scores = c.batch.view().row_span(t);
  std::vector<float> own(scores.begin(), scores.end());
  std::sort(own.begin(), own.end(), std::greater<>());
  double mass = 0;
  for (int i = 0; i < c.k; ++i) mass += static_cast<double>(own[static_cast<size_t>(i)]);
  std::vector<double> utilities;
  for (int i = 0; i < c.layout.count(); ++i) {
    const size_t expert = static_cast<size_t>(c.layout.instances[static_cast<size_t>(i)].expert);
    const double error = c.error_weight * static_cast<double>(c.layout.error_of(i));
    utilities.push_back(static_cast<double>(scores[expert]) / mass *
                        std::max(1.0 / 1024, 1.0 - error));
  }
  return utilities;
}

// choices[t]: bit i set where token t uses instance i.
inline Worth worth_of(const SmallCase& c, const std::vector<std::vector<double>>& utilities,
                      const std::vector<uint32_t>& choices) {
  Worth worth;
  const size_t count = c.layout.instances.size();
  std::vector<int> load(count, 0);
  for (size_t t = 0; t < choices.size(); ++t)
    for (size_t i = 0; i < count; ++i)
      if (choices[t] >> i & 1) worth.utility += utilities[t][i], ++load[i];
  const auto price = [](const std::vector<float>& prices, size_t i) {
    return prices.empty() ? 0.0 : static_cast<double>(prices[i]);
  };
  std::vector<double> device(static_cast<size_t>(c.layout.devices));
  for (size_t g = 0; g < device.size(); ++g) device[g] = price(c.prices.device_base, g);
  for (size_t i = 0; i < count; ++i) {
    const double used = load[i] > 0;
    worth.cost += price(c.prices.open, i) * used + price(c.prices.slope, i) * load[i];
    device[static_cast<size_t>(c.layout.instances[i].device)] +=
        price(c.prices.device_open, i) * used + price(c.prices.device_slope, i) * load[i];
    if (!c.layout.capacity.empty() && load[i] > c.layout.capacity[i]) worth.within_capacity = false;
  }
  worth.cost += *std::max_element(device.begin(), device.end());
  return worth;
}

// The best objective in the goal's sense; NaN where no plan keeps the limits.
inline double optimum(const SmallCase& c) {
  const size_t count = c.layout.instances.size(), tokens = static_cast<size_t>(c.batch.tokens);
  std::vector<uint32_t> sets;
  for (uint32_t set = 0; set < 1u << count; ++set) {
    uint32_t experts = 0, chosen = 0;
    bool once = true;
    for (size_t i = 0; i < count; ++i)
      if (set >> i & 1) {
        const uint32_t bit = 1u << c.layout.instances[i].expert;
        once = once && !(experts & bit);
        experts |= bit;
        ++chosen;
      }
    if (once && chosen >= static_cast<uint32_t>(c.min_k) && chosen <= static_cast<uint32_t>(c.k))
      sets.push_back(set);
  }
  std::vector<std::vector<double>> utilities;
  for (size_t t = 0; t < tokens; ++t) utilities.push_back(token_utilities(c, static_cast<int>(t)));
  double best = std::numeric_limits<double>::quiet_NaN();
  std::vector<size_t> at(tokens, 0);
  std::vector<uint32_t> choices(tokens, sets[0]);
  while (true) {
    const Worth worth = worth_of(c, utilities, choices);
    double objective = worth.utility - worth.cost;
    bool good = worth.within_capacity;
    if (c.goal.kind == RoutingGoal::Kind::kLeastCost) {
      objective = -worth.cost;
      good = good && worth.utility >= c.goal.limit * c.batch.tokens - 1e-8;
    } else if (c.goal.kind == RoutingGoal::Kind::kBestQuality) {
      objective = worth.utility;
      good = good && worth.cost <= c.goal.limit + 1e-8;
    }
    if (good && !(objective <= best)) best = objective;
    size_t t = 0;
    for (; t < tokens; ++t) {
      at[t] = (at[t] + 1) % sets.size();
      choices[t] = sets[at[t]];
      if (at[t] != 0) break;
    }
    if (t == tokens) break;
  }
  return c.goal.kind == RoutingGoal::Kind::kLeastCost ? -best : best;
}

// Which kinds of trouble a random case has.
struct CaseKinds {
  bool variants = false, devices = false, capacities = false, variable_k = false;
  bool measured = false;  // the errors of variants are each expert's own
  RoutingGoal::Kind goal = RoutingGoal::Kind::kPrices;
};

inline float uniform(std::mt19937& random, float most) {
  return most * std::generate_canonical<float, 20>(random);
}

inline ExpertLayout random_layout(const CaseKinds& kinds, int experts, int tokens, int k,
                                  std::mt19937& random) {
  const int devices = kinds.devices ? 2 + static_cast<int>(random() % 2) : 1;
  std::vector<ExpertVariant> variants{{.name = "exact", .error_frac = 0}};
  if (kinds.variants) variants.push_back({.name = "coarse", .error_frac = uniform(random, 0.1f)});
  std::vector<ExpertInstance> instances;
  for (int e = 0; e < experts; ++e) {
    instances.push_back(
        {.expert = e,
         .variant = 0,
         .device = static_cast<int32_t>(random() % static_cast<uint32_t>(devices))});
    if (kinds.variants && random() % 2)
      instances.push_back({.expert = e, .variant = 1, .device = instances.back().device});
    if (kinds.devices && random() % 3 == 0)
      instances.push_back(
          {.expert = e, .variant = 0, .device = (instances.back().device + 1) % devices});
  }
  ExpertLayout layout =
      ExpertLayout::of_instances(experts, devices, std::move(variants), std::move(instances));
  if (kinds.measured) {
    const float best = uniform(random, 0.05f);
    for (const ExpertInstance& i : layout.instances)
      layout.error_frac.push_back(i.variant == 0 ? best : best + uniform(random, 0.2f));
  }
  if (kinds.capacities)
    for (int i = 0; i < layout.count(); ++i)
      layout.capacity.push_back(static_cast<int32_t>(random() % static_cast<uint32_t>(tokens + 1)) +
                                (k > 1 ? 1 : 0));
  return layout;
}

inline ExpertPrices random_prices(const ExpertLayout& layout, bool devices, std::mt19937& random) {
  const float scale = std::exp(-3.0f * uniform(random, 1.0f));
  const auto fill = [&](int count, float most) {
    std::vector<float> prices(static_cast<size_t>(count));
    for (float& price : prices) price = uniform(random, most);
    return prices;
  };
  ExpertPrices prices;
  prices.open = fill(layout.count(), scale);
  if (random() % 2) prices.slope = fill(layout.count(), 0.2f * scale);
  if (devices || random() % 4 == 0) {
    prices.device_open = fill(layout.count(), scale);
    if (random() % 2) prices.device_slope = fill(layout.count(), 0.2f * scale);
    if (random() % 2) prices.device_base = fill(layout.devices, scale);
  }
  return prices;
}

inline SmallCase random_case(const CaseKinds& kinds, int most_tokens, int most_experts,
                             std::mt19937& random) {
  SmallCase c;
  const int tokens = 1 + static_cast<int>(random() % static_cast<uint32_t>(most_tokens));
  const int experts = 2 + static_cast<int>(random() % static_cast<uint32_t>(most_experts - 1));
  c.k = 1 + static_cast<int>(random() % static_cast<uint32_t>(std::min(3, experts)));
  c.min_k = kinds.variable_k ? 1 + static_cast<int>(random() % static_cast<uint32_t>(c.k)) : c.k;
  c.batch =
      random_scores(tokens, experts, static_cast<uint32_t>(random()), 0.3f + uniform(random, 2.0f));
  c.layout = random_layout(kinds, experts, tokens, c.k, random);
  c.prices = random_prices(c.layout, kinds.devices, random);
  c.goal.kind = kinds.goal;
  if (kinds.goal == RoutingGoal::Kind::kLeastCost)
    c.goal.limit = 0.7 + static_cast<double>(uniform(random, 0.3f));
  if (kinds.goal == RoutingGoal::Kind::kBestQuality)
    c.goal.limit = static_cast<double>(uniform(random, 3.0f));
  return c;
}

}  // namespace thermoe
