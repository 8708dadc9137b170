// Routes 16 tokens over 32 experts, k = 4, each expert to be had in bf16 and in int8 at half the
// opening price, and prints what the plan keeps, what it uses and how close to the best it is.
#include <cmath>
#include <iostream>
#include <vector>

#include "thermoe/adaptive_router.h"

int main() {
  constexpr int kTokens = 16, kExperts = 32;
  std::vector<float> scores;  // [T, E] gate probabilities: the softmax of made-up logits
  for (int t = 0; t < kTokens; ++t) {
    float row[kExperts], sum = 0;
    for (int e = 0; e < kExperts; ++e)
      sum += row[e] = std::exp(2.0f * std::sin(static_cast<float>((7 * t + 3) * (5 * e + 2))));
    for (const float value : row) scores.push_back(value / sum);
  }
  const auto layout = thermoe::ExpertLayout::with_variants(
      kExperts, {{.name = "bf16", .error_frac = 0}, {.name = "int8", .error_frac = 0.004f}});
  thermoe::ExpertPrices prices;
  for (const auto& i : layout.instances) prices.open.push_back(i.variant == 1 ? 0.05f : 0.1f);
  thermoe::RoutingRequest request;
  request.scores = thermoe::ConstMatrix(scores.data(), kTokens, kExperts);
  request.k = 4;
  request.prices = &prices;
  request.layout = &layout;
  thermoe::RoutingPlan plan;
  thermoe::AdaptiveRouter().route(request, plan);
  std::cout << plan.report.distinct_experts << " experts, not "
            << plan.report.top_k_distinct_experts << "; gate mass kept "
            << plan.report.gate_mass_frac << "; objective " << plan.report.objective
            << ", no plan above " << plan.report.bound << '\n';
  for (int i = 0; i < layout.count(); ++i)
    if (plan.load(i) > 0)
      std::cout << "  expert " << layout.instances[i].expert << " in "
                << layout.variants[layout.instances[i].variant].name << ": " << plan.load(i)
                << " tokens\n";
}
