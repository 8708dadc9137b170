// Telemetry, costs, prices and a plan, in C:  engine_c <folder with data/profiles>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "thermoe/c_api.h"

enum { kTokens = 16, kExperts = 128, kSlots = 8 };

static void check(thermoe_status status) {
  if (status == THERMOE_OK) return;
  fprintf(stderr, "engine: %s: %s\n", thermoe_status_name(status), thermoe_last_error());
  exit(2);
}

int main(int argc, char** argv) {
  char twin[1024], profile[1024];
  const char* share = argc > 1 ? argv[1] : ".";
  snprintf(twin, sizeof twin, "twin:%s/data/profiles/h100-sxm-power.json", share);
  snprintf(profile, sizeof profile, "%s/data/profiles/h100-sxm.json", share);

  // A simulated GPU; "nvml:0" is a real one.
  thermoe_monitor* monitor;
  check(thermoe_monitor_open(
      &(thermoe_monitor_options){.struct_size = sizeof(thermoe_monitor_options), .source = twin},
      &monitor));
  thermoe_cost_model* costs;
  check(thermoe_cost_model_open(
      &(thermoe_cost_model_options){.struct_size = sizeof(thermoe_cost_model_options),
                                    .profile = profile,
                                    .shape = "qwen3-30b-a3b"},
      &costs));
  thermoe_cost_surrogate surrogate = {.struct_size = sizeof surrogate};
  check(thermoe_cost_model_surrogate(costs, kTokens, NULL, &surrogate));
  thermoe_governor* governor;
  check(thermoe_governor_create(
      &(thermoe_governor_limits){.struct_size = sizeof(thermoe_governor_limits),
                                 .layer_latency_target_us = 250},
      &surrogate, &governor));
  thermoe_router* router;
  check(thermoe_router_create(
      &(thermoe_router_options){
          .struct_size = sizeof(thermoe_router_options), .experts = kExperts, .k = kSlots},
      &router));

  static float scores[kTokens * kExperts], open[kExperts], slope[kExperts];
  for (int t = 0; t < kTokens; ++t) {  // the softmax of made-up logits
    float sum = 0;
    for (int e = 0; e < kExperts; ++e)
      sum += scores[t * kExperts + e] = expf(2 * sinf((float)((7 * t + 3) * (5 * e + 2))));
    for (int e = 0; e < kExperts; ++e) scores[t * kExperts + e] /= sum;
  }
  static int32_t ids[kTokens * kSlots];
  thermoe_report report = {.struct_size = sizeof report};
  thermoe_cost_estimate layer = {.struct_size = sizeof layer,
                                 .latency_us = NAN};  // nothing was observed yet
  for (int tick = 0; tick < 20; ++tick) {
    thermoe_hardware_state state = {.struct_size = sizeof state};
    check(thermoe_monitor_poll(monitor, &state));
    check(thermoe_governor_update(governor, &state, layer.latency_us, 0.1, NULL));
    check(thermoe_governor_prices(governor, &surrogate, NULL, kExperts, open, slope));
    const thermoe_batch batch = {.struct_size = sizeof batch,
                                 .scores = scores,
                                 .tokens = kTokens,
                                 .open = open,
                                 .slope = slope};
    check(thermoe_router_plan(
        router, &batch, &(thermoe_plan){.struct_size = sizeof(thermoe_plan), .ids = ids}, &report));
    check(thermoe_cost_model_layer(costs, kTokens, report.distinct_experts, report.used_pairs,
                                   &state, &layer));
    check(thermoe_monitor_advance_twin(monitor, &layer, 0.1));
  }
  printf("thermoe %s, %s: %d experts, not %d; gate mass kept %.4f; gap %g; %.1f us a layer\n",
         thermoe_version(), thermoe_monitor_source(monitor), report.distinct_experts,
         report.top_k_distinct_experts, report.gate_mass_frac, report.gap_frac, layer.latency_us);
  thermoe_router_close(router);
  thermoe_governor_close(governor);
  thermoe_cost_model_close(costs);
  thermoe_monitor_close(monitor);
  return 0;
}
