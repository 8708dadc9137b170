// Telemetry, costs, prices and a plan, in C++:  engine_cpp <folder with data/profiles>
#include <cmath>
#include <iostream>
#include <optional>
#include <vector>

#include "thermoe/adaptive_router.h"
#include "thermoe/digital_twin.h"
#include "thermoe/error.h"
#include "thermoe/governor.h"
#include "thermoe/version.h"

constexpr int kTokens = 16, kExperts = 128, kSlots = 8;

// The softmax of made-up logits, [kTokens, kExperts].
std::vector<float> made_up_scores() {
  std::vector<float> scores(kTokens * kExperts);
  for (int t = 0; t < kTokens; ++t) {
    float* row = scores.data() + t * kExperts;
    float sum = 0;
    for (int e = 0; e < kExperts; ++e)
      sum += row[e] = std::exp(2 * std::sin(static_cast<float>((7 * t + 3) * (5 * e + 2))));
    for (int e = 0; e < kExperts; ++e) row[e] /= sum;
  }
  return scores;
}

void run(const std::filesystem::path& profiles) {
  // A simulated GPU; open_nvml_source() is a real one.
  thermoe::DigitalTwin twin(thermoe::read_twin_parameters(profiles / "h100-sxm-power.json"));
  thermoe::GpuSystemMonitor monitor(twin.source());
  const thermoe::KernelCostModel costs(profiles / "h100-sxm.json",
                                       thermoe::cost_shape("qwen3-30b-a3b"));
  const thermoe::CostSurrogate surrogate = costs.surrogate(kTokens);
  thermoe::GovernorLimits limits;
  limits.layer_latency_target_us = 250;
  thermoe::Governor governor(limits, surrogate);
  thermoe::AdaptiveRouter router;
  thermoe::RoutingPlan plan;
  const std::vector<float> scores = made_up_scores();
  std::optional<double> latency_us;
  for (int tick = 0; tick < 20; ++tick) {
    const thermoe::HardwareState state = monitor.poll();
    governor.update(state, latency_us, 0.1);
    const thermoe::ExpertPrices prices = governor.prices(surrogate, kExperts);
    thermoe::RoutingRequest request;
    request.scores = thermoe::ConstMatrix(scores.data(), kTokens, kExperts);
    request.k = kSlots;
    request.prices = &prices;
    router.route(request, plan);
    const thermoe::CostEstimate layer = costs.moe_layer(
        {kTokens, double(plan.report.distinct_experts), double(plan.packed.size())}, &state);
    latency_us = layer.latency_us;
    twin.advance(layer, 0.1);
  }
  std::cout << "thermoe " << thermoe::kVersion << ", " << monitor.source_name() << ": "
            << plan.report.distinct_experts << " experts, not "
            << plan.report.top_k_distinct_experts << "; gate mass kept "
            << plan.report.gate_mass_frac << "; gap " << plan.report.gap_frac << "; " << *latency_us
            << " us a layer\n";
}

int main(int argc, char** argv) {
  try {
    run(std::filesystem::path(argc > 1 ? argv[1] : ".") / "data" / "profiles");
  } catch (const thermoe::Error& error) {
    std::cerr << "engine: " << error.what() << '\n';
    return 2;
  }
}
