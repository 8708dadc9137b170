#include "live_session.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <nlohmann/json.hpp>
#include <numeric>

#include "progress.h"
#include "simulation.h"
#include "table.h"
#include "thermoe/routing_policies.h"

namespace thermoe::app {
namespace {

constexpr double kTickS = 0.05;
constexpr double kTemperatureMarginC = 2.0;  // below the device's own limit

using Clock = std::chrono::steady_clock;

GovernorLimits limits_for(const LiveSettings& settings, const HardwareState& state) {
  GovernorLimits limits;
  limits.power_cap_w = settings.power_cap_w ? settings.power_cap_w : state.power_limit_w;
  limits.temperature_cap_c = settings.temperature_cap_c;
  if (!limits.temperature_cap_c && state.temperature_limit_c)
    limits.temperature_cap_c = *state.temperature_limit_c - kTemperatureMarginC;
  limits.max_open_price = settings.max_open_price;
  return limits;
}

// Adds up what the ticks saw.
struct Totals {
  double power_w = 0, price = 0;
  int64_t power_samples = 0, throttled = 0, ticks = 0;

  void add(const HardwareState& state, double open_price, LiveOutcome& outcome) {
    ++ticks;
    price += open_price;
    throttled += state.throttled();
    outcome.open_price_peak = std::max(outcome.open_price_peak, open_price);
    const auto power = state.power_w();
    if (power) {
      power_w += *power;
      ++power_samples;
      outcome.power_peak_w = std::max(outcome.power_peak_w.value_or(0), *power);
    }
    if (state.temperature_c)
      outcome.temperature_peak_c =
          std::max(outcome.temperature_peak_c.value_or(0), *state.temperature_c);
  }

  void finish(LiveOutcome& outcome) const {
    if (power_samples > 0) outcome.power_mean_w = power_w / static_cast<double>(power_samples);
    if (ticks == 0) return;
    outcome.throttled_frac = static_cast<double>(throttled) / static_cast<double>(ticks);
    outcome.open_price_mean = price / static_cast<double>(ticks);
  }
};

}  // namespace

LiveOutcome run_live(Engine& engine, Decoder& decoder, std::unique_ptr<TelemetrySource> source,
                     const LiveSettings& settings) {
  GpuSystemMonitor monitor(std::move(source));
  const bool virtual_time = settings.virtual_step_s.has_value();
  HardwareState state = monitor.poll();
  if (!virtual_time) monitor.start();
  const CostSurrogate surrogate = engine.charge.surrogate(decoder.settings().batch);
  Governor governor(limits_for(settings, state), surrogate);
  const ModelConfig& config = engine.model.config();
  std::vector<ExpertPrices> prices(static_cast<size_t>(config.layers));
  ExpertPrices bf16_prices;
  const auto policy = make_routing_policy("adaptive", engine.policy_context());
  StepCharge charge(engine.charge);
  LiveOutcome outcome;
  outcome.source = monitor.source_name();
  outcome.device = monitor.device().name;
  outcome.on_gpu = engine.on_gpu();
  Totals totals;
  Progress progress("live", settings.duration_s, "s");
  const auto start = Clock::now();
  double now_s = 0, tick_s = 0;
  int64_t steps = 0;
  for (int round = 0; now_s < settings.duration_s; ++round) {
    decoder.begin(round);
    while (!decoder.over() && now_s < settings.duration_s) {
      decoder.step({.policy = policy.get(),
                    .prices = prices,
                    .layouts = engine.variants.layouts(),
                    .observer = &charge});
      ++steps;
      now_s = virtual_time ? static_cast<double>(steps) * *settings.virtual_step_s
                           : std::chrono::duration<double>(Clock::now() - start).count();
      if (now_s - tick_s < kTickS) continue;
      state = virtual_time ? monitor.poll() : monitor.state();
      governor.update(state, std::nullopt, now_s - tick_s);
      if (engine.kernels.by_cost && !virtual_time) engine.kernels.by_cost->set_state(state);
      bf16_prices = governor.prices(surrogate, config.experts);
      spread_prices(governor, surrogate, engine.variants, bf16_prices, prices);
      totals.add(state, highest_open_price(bf16_prices), outcome);
      tick_s = now_s;
      progress.update(now_s);
    }
  }
  outcome.duration_s = now_s;
  outcome.tokens = steps * decoder.settings().batch;
  outcome.distinct_experts_mean = charge.distinct_experts();
  const auto& opened = charge.opened();
  const double all = std::accumulate(opened.begin(), opened.end(), 0.0);
  for (size_t p = 0; p < opened.size() && all > 0; ++p) outcome.opened_frac[p] = opened[p] / all;
  totals.finish(outcome);
  return outcome;
}

std::string to_table(const LiveOutcome& outcome) {
  const auto reading = [](const std::optional<double>& value, const char* unit) {
    return value ? fmt::format("{:.1f} {}", *value, unit) : std::string("not read");
  };
  Table table;
  table.header = {"live telemetry", outcome.source};
  table.rows = {{"device", outcome.device},
                {"duration", fmt::format("{:.1f} s", outcome.duration_s)},
                {outcome.on_gpu ? "tokens decoded (on the GPU)" : "tokens decoded (on the CPU)",
                 fmt::format("{}", outcome.tokens)},
                {"board power, mean", reading(outcome.power_mean_w, "W")},
                {"board power, peak", reading(outcome.power_peak_w, "W")},
                {"die temperature, peak", reading(outcome.temperature_peak_c, "°C")},
                {"throttled", fmt::format("{:.1f} % of samples", 100 * outcome.throttled_frac)},
                {"opening price, mean", fmt::format("{:.4f}", outcome.open_price_mean)},
                {"opening price, peak", fmt::format("{:.4f}", outcome.open_price_peak)},
                {"distinct experts, mean", fmt::format("{:.2f}", outcome.distinct_experts_mean)},
                {"experts opened", precisions_text(outcome.opened_frac)}};
  return table.text();
}

nlohmann::ordered_json to_json(const LiveOutcome& outcome) {
  const auto reading = [](const std::optional<double>& value) {
    return value ? nlohmann::ordered_json(*value) : nlohmann::ordered_json(nullptr);
  };
  return {{"source", outcome.source},
          {"device", outcome.device},
          {"model_on", outcome.on_gpu ? "cuda" : "cpu"},
          {"duration_s", outcome.duration_s},
          {"tokens", outcome.tokens},
          {"power_mean_w", reading(outcome.power_mean_w)},
          {"power_peak_w", reading(outcome.power_peak_w)},
          {"temperature_peak_c", reading(outcome.temperature_peak_c)},
          {"throttled_frac", outcome.throttled_frac},
          {"open_price_mean", outcome.open_price_mean},
          {"open_price_peak", outcome.open_price_peak},
          {"distinct_experts_mean", outcome.distinct_experts_mean},
          {"opened_bf16_frac", outcome.opened_frac[0]},
          {"opened_int8_frac", outcome.opened_frac[1]},
          {"opened_int4_frac", outcome.opened_frac[2]},
          {"opened_fp8_frac", outcome.opened_frac[3]}};
}

}  // namespace thermoe::app
