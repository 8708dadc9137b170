// Routes four tokens over four experts, k = 2: free of charge, then at a price for opening an
// expert.
#include <iostream>
#include <vector>

#include "thermoe/adaptive_router.h"
#include "thermoe/error.h"
#include "thermoe/version.h"

int main() {
  // Gate probabilities [T = 4, E = 4]; only token 3 has expert 3 among its two best.
  const std::vector<float> scores = {0.50f, 0.30f, 0.15f, 0.05f, 0.40f, 0.35f, 0.20f, 0.05f,
                                     0.20f, 0.60f, 0.15f, 0.05f, 0.45f, 0.20f, 0.13f, 0.22f};
  thermoe::AdaptiveRouter router;
  thermoe::RoutingPlan plan;
  for (const float open_price : {0.0f, 0.1f}) {
    const auto prices = thermoe::ExpertPrices::uniform(4, open_price);
    thermoe::RoutingRequest request;
    request.scores = thermoe::ConstMatrix(scores.data(), 4, 4);
    request.k = 2;
    request.prices = &prices;
    try {
      router.route(request, plan);
    } catch (const thermoe::Error& error) {
      std::cerr << "embed: " << error.what() << '\n';
      return 2;
    }
    std::cout << "thermoe " << thermoe::kVersion << ", opening price " << open_price << ": "
              << plan.report.distinct_experts << " experts, gate mass kept "
              << plan.report.gate_mass_frac << ", gap " << plan.report.gap_frac << '\n';
    for (int t = 0; t < plan.tokens; ++t)
      std::cout << "  token " << t << ": experts " << plan.token_ids(t)[0] << ", "
                << plan.token_ids(t)[1] << "  weights " << plan.token_weights(t)[0] << ", "
                << plan.token_weights(t)[1] << (plan.changed[t] ? "  (changed)" : "") << '\n';
  }
}
