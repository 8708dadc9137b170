#include "sustain_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "table.h"
#include "thermoe/version.h"

namespace thermoe::app {
namespace {

nlohmann::ordered_json reading_json(const std::optional<double>& value) {
  return value ? nlohmann::ordered_json(*value) : nlohmann::ordered_json(nullptr);
}

std::optional<double> joules_per_token(const LoadResult& result) {
  if (!result.energy.energy_mj || result.tokens == 0) return std::nullopt;
  // The meter's span is that of its samples, a tick short of the phase.
  const double power_w = *result.energy.energy_mj * 1e-3 / result.energy.span_s;
  return power_w * result.seconds / static_cast<double>(result.tokens);
}

double tokens_per_s(const LoadResult& result) {
  return result.seconds > 0 ? static_cast<double>(result.tokens) / result.seconds : 0;
}

nlohmann::ordered_json phase_json(const LoadResult& result) {
  const auto limit = [](const std::optional<double>& value) { return reading_json(value); };
  return {{"name", result.phase.name},
          {"power_target_w", limit(result.phase.limits.power_cap_w)},
          {"layer_latency_target_us", limit(result.phase.limits.layer_latency_target_us)},
          {"seconds", result.seconds},
          {"tokens", result.tokens},
          {"tokens_per_s", tokens_per_s(result)},
          {"joules_per_token", reading_json(joules_per_token(result))},
          {"energy_uncertainty_frac",
           result.energy.energy_mj
               ? nlohmann::ordered_json(result.energy.uncertainty_mj / *result.energy.energy_mj)
               : nlohmann::ordered_json(nullptr)},
          {"layer_us", result.layer_us},
          {"power_w", reading_json(result.power_w)},
          {"clock_mhz", reading_json(result.clock_mhz)},
          {"temperature_peak_c", reading_json(result.temperature_peak_c)},
          {"power_capped_frac", result.power_capped_frac},
          {"heat_throttled_frac", result.heat_throttled_frac},
          {"open_price", result.open_price},
          {"slope_price", result.slope_price},
          {"distinct_experts", result.distinct_experts},
          {"gate_mass_frac", result.gate_mass_frac},
          {"changed_tokens_frac", result.changed_tokens_frac},
          {"opened_frac", result.opened_frac}};
}

std::string work_text(const SustainOutcome& outcome) {
  const LoadSettings& s = outcome.settings;
  if (s.prefill) return fmt::format("prefill of {} x {} tokens a step", s.batch, s.prompt_tokens);
  return fmt::format("decode of {} sequences, {} to {} tokens long", s.batch, s.prompt_tokens,
                     s.context_tokens);
}

}  // namespace

void compare_tokens(SustainOutcome& outcome, size_t phase) {
  const auto& mine = outcome.phases[phase].first_tokens;
  const auto& theirs = outcome.phases.front().first_tokens;
  const size_t count = std::min(mine.size(), theirs.size());
  outcome.compared_tokens = static_cast<int64_t>(count);
  for (size_t i = 0; i < count; ++i) outcome.different_tokens += mine[i] != theirs[i];
}

std::string to_table(const SustainOutcome& outcome) {
  Table table;
  table.header = {"",       "tokens/s", "J/token", "layer us", "power W", "clock MHz",
                  "peak C", "capped",   "price",   "experts",  "mass"};
  const auto reading = [](const std::optional<double>& value, const char* format) {
    return value ? fmt::format(fmt::runtime(format), *value) : std::string("-");
  };
  for (const LoadResult& r : outcome.phases)
    table.rows.push_back(
        {r.phase.name, fmt::format("{:.0f}", tokens_per_s(r)),
         reading(joules_per_token(r), "{:.4g}"), fmt::format("{:.1f}", r.layer_us),
         reading(r.power_w, "{:.0f}"), reading(r.clock_mhz, "{:.0f}"),
         reading(r.temperature_peak_c, "{:.0f}"), fmt::format("{:.2f}", r.power_capped_frac),
         fmt::format("{:.4f}/{:.4f}", r.open_price, r.slope_price),
         fmt::format("{:.1f}", r.distinct_experts), fmt::format("{:.4f}", r.gate_mass_frac)});
  std::string text =
      fmt::format("{} on {}: {}, {:.0f} s a phase, variants {}\n", outcome.model, outcome.device,
                  work_text(outcome), outcome.settings.seconds, outcome.variants);
  if (outcome.synthetic)
    text +=
        "Weights are random and router logits drawn from recorded ones: times and energies "
        "mean something, tokens don't.\n";
  text += "\n" + table.text();
  if (outcome.compared_tokens > 0)
    text += fmt::format("\nWithout a target {} of {} tokens differ from top-k's.\n",
                        outcome.different_tokens, outcome.compared_tokens);
  return text;
}

nlohmann::ordered_json to_json(const SustainOutcome& outcome) {
  nlohmann::ordered_json phases = nlohmann::ordered_json::array();
  for (const LoadResult& result : outcome.phases) phases.push_back(phase_json(result));
  const LoadSettings& s = outcome.settings;
  return {{"thermoe", kVersion},
          {"model", outcome.model},
          {"synthetic", outcome.synthetic},
          {"device", outcome.device},
          {"driver", outcome.driver},
          {"variants", outcome.variants},
          {"cost_device", outcome.cost_device},
          {"layers", outcome.layers},
          {"experts", outcome.experts},
          {"work", s.prefill ? "prefill" : "decode"},
          {"batch", s.batch},
          {"prompt_tokens", s.prompt_tokens},
          {"context_tokens", s.context_tokens},
          {"compared_tokens", outcome.compared_tokens},
          {"different_tokens", outcome.different_tokens},
          {"phases", phases}};
}

std::string to_csv(const SustainOutcome& outcome) {
  std::string text =
      "phase,time_s,seconds,tokens_per_s,layer_us,power_w,sm_clock_mhz,temperature_c,open_price,"
      "slope_price,distinct_experts\n";
  const auto cell = [](const std::optional<double>& value) {
    return value ? fmt::format("{:.6g}", *value) : std::string();
  };
  for (const LoadResult& result : outcome.phases)
    for (const LoadSample& s : result.samples)
      text += fmt::format("{},{:.3f},{:.4f},{:.6g},{:.6g},{},{},{},{:.6g},{:.6g},{:.6g}\n",
                          result.phase.name, s.time_s, s.seconds, s.tokens_per_s, s.layer_us,
                          cell(s.power_w), cell(s.clock_mhz), cell(s.temperature_c), s.open_price,
                          s.slope_price, s.distinct_experts);
  return text;
}

Plot to_plot(const SustainOutcome& outcome) {
  Plot plot;
  plot.title = fmt::format("{} on {}: {}", outcome.model, outcome.device, work_text(outcome));
  plot.x_label = "s, one phase after the other";
  const char* const kColour = "#1f77b4";
  struct Panel {
    const char* title;
    std::optional<double> (*value)(const LoadSample&);
  };
  const Panel panels[] = {
      {"tokens/s", [](const LoadSample& s) { return std::optional(s.tokens_per_s); }},
      {"board power, W", [](const LoadSample& s) { return s.power_w; }},
      {"SM clock, MHz", [](const LoadSample& s) { return s.clock_mhz; }},
      {"die temperature, C", [](const LoadSample& s) { return s.temperature_c; }},
      {"opening price", [](const LoadSample& s) { return std::optional(s.open_price); }},
      {"distinct experts", [](const LoadSample& s) { return std::optional(s.distinct_experts); }}};
  double begin = 0;
  for (const Panel& panel : panels) plot.panels.push_back({panel.title, {{kColour, {}, {}}}});
  for (const LoadResult& result : outcome.phases) {
    for (const LoadSample& s : result.samples)
      for (size_t p = 0; p < plot.panels.size(); ++p)
        if (const auto value = panels[p].value(s)) {
          plot.panels[p].series[0].x.push_back(begin + s.time_s);
          plot.panels[p].series[0].y.push_back(*value);
        }
    const double end = begin + (result.samples.empty() ? 0 : result.samples.back().time_s);
    plot.bands.push_back({result.phase.name, begin, end});
    begin = end;
  }
  return plot;
}

}  // namespace thermoe::app
