#include "run_outcome.h"

#include <fmt/format.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "table.h"

namespace thermoe::app {
namespace {

constexpr const char* kTopKColour = "#c4621a";
constexpr const char* kThermoeColour = "#1f6feb";

double rate(const PhaseRecord& phase) {
  return static_cast<double>(phase.tokens) / phase.duration_s;
}
double mean_w(const PhaseRecord& phase) { return phase.energy_j / phase.duration_s; }
double joules_per_token(const PhaseRecord& phase) {
  return phase.energy_j / static_cast<double>(phase.tokens);
}

std::vector<std::string> plain_row(const RunOutcome& outcome, const PhaseRecord& phase,
                                   const char* policy, const PhaseLoss* loss) {
  const double experts_scale = static_cast<double>(outcome.shape_experts) / outcome.model_experts;
  return {policy == std::string("top-k") ? phase.name : "",
          policy,
          fmt::format("{:.0f}", rate(phase)),
          fmt::format("{:.0f}", mean_w(phase)),
          fmt::format("{:.1f}", phase.peak_c),
          fmt::format("{:.3f}", joules_per_token(phase)),
          fmt::format("{:.1f}", phase.throttled_s),
          fmt::format("{:.1f}", phase.distinct_experts * experts_scale),
          fmt::format("{:.4f}", phase.open_price_mean()),
          loss ? fmt::format("{:+.4f} ± {:.4f}", loss->difference.mean_nats,
                             loss->difference.standard_error_nats)
               : "0",
          loss ? fmt::format("{:+.2f}", 100 * loss->perplexity_frac()) : "0"};
}

std::vector<std::string> table_row(const RunOutcome& outcome, const PhaseRecord& phase,
                                   const char* policy, const PhaseLoss* loss) {
  std::vector<std::string> row = plain_row(outcome, phase, policy, loss);
  if (outcome.variants != "bf16") row.push_back(precisions_text(phase.opened_frac));
  return row;
}

nlohmann::ordered_json phase_json(const PhaseRecord& phase, const PhaseLoss* loss) {
  nlohmann::ordered_json json{{"name", phase.name},
                              {"start_s", phase.start_s},
                              {"duration_s", phase.duration_s},
                              {"tokens", phase.tokens},
                              {"tokens_per_s", rate(phase)},
                              {"power_mean_w", mean_w(phase)},
                              {"temperature_peak_c", phase.peak_c},
                              {"energy_per_token_j", joules_per_token(phase)},
                              {"throttled_s", phase.throttled_s},
                              {"distinct_experts_mean", phase.distinct_experts},
                              {"opened_bf16_frac", phase.opened_frac[0]},
                              {"opened_int8_frac", phase.opened_frac[1]},
                              {"opened_int4_frac", phase.opened_frac[2]},
                              {"opened_fp8_frac", phase.opened_frac[3]},
                              {"open_price_mean", phase.open_price_mean()}};
  if (loss == nullptr) return json;
  json["loss_nats"] = loss->difference.mean_nats;
  json["loss_standard_error_nats"] = loss->difference.standard_error_nats;
  json["perplexity_change_frac"] = loss->perplexity_frac();
  return json;
}

nlohmann::ordered_json samples_json(const RunRecord& record) {
  nlohmann::ordered_json json;
  for (const Sample& sample : record.samples) {
    json["time_s"].push_back(sample.time_s);
    json["power_w"].push_back(sample.power_w);
    json["temperature_c"].push_back(sample.temperature_c);
    json["sm_clock_mhz"].push_back(sample.clock_mhz);
    json["open_price"].push_back(sample.open_price);
    json["distinct_experts"].push_back(sample.distinct_experts);
    json["tokens_per_s"].push_back(sample.tokens_per_s);
  }
  return json;
}

PlotSeries series_of(const RunRecord& record, const char* colour, double Sample::*quantity,
                     double scale) {
  PlotSeries series{colour, {}, {}};
  for (const Sample& sample : record.samples) {
    series.x.push_back(sample.time_s);
    series.y.push_back(sample.*quantity * scale);
  }
  return series;
}

}  // namespace

double PhaseLoss::perplexity_frac() const { return std::expm1(difference.mean_nats); }

std::string provenance(const RunOutcome& outcome) {
  const std::string precisions =
      outcome.variants == "bf16"
          ? ""
          : fmt::format(
                " Experts run in {}; a quantised one is charged as the bf16 kernel that reads as "
                "many bytes.",
                outcome.variants);
  return fmt::format(
      "Simulated: the hardware, a digital twin of the {} in virtual time, charged at {} experts a "
      "layer and {} layers of {}. Real: the model ({}), every routing decision, every token, and "
      "the "
      "loss, measured on {} held-out tokens ({}) at each phase's prices.{}",
      outcome.cost_device, outcome.shape_experts, outcome.shape_layers, outcome.cost_shape,
      outcome.model, outcome.loss_tokens, outcome.loss_text, precisions);
}

std::string identity_line(const RunOutcome& outcome) {
  const IdentityCheck& check = outcome.identity;
  return fmt::format(
      "At zero prices thermoe is top-k: {} tokens compared ({} of them in the cool phases), {} "
      "different.",
      check.tokens, check.relaxed_tokens, check.different);
}

std::string to_table(const RunOutcome& outcome) {
  Table table;
  table.header = {"phase",       "policy",  "tokens/s", "W",         "peak °C", "J/token",
                  "throttled s", "experts", "price",    "loss nats", "ppl %"};
  if (outcome.variants != "bf16") table.header.push_back("opened in");
  for (size_t p = 0; p < outcome.top_k.phases.size(); ++p) {
    if (p > 0) table.rows.push_back({});
    table.rows.push_back(table_row(outcome, outcome.top_k.phases[p], "top-k", nullptr));
    table.rows.push_back(
        table_row(outcome, outcome.thermoe.phases[p], "thermoe", &outcome.losses[p]));
  }
  return table.text();
}

nlohmann::ordered_json to_json(const RunOutcome& outcome) {
  nlohmann::ordered_json json{{"model", outcome.model},
                              {"variants", outcome.variants},
                              {"cost_shape", outcome.cost_shape},
                              {"cost_device", outcome.cost_device},
                              {"hardware_simulated", true},
                              {"scenario", outcome.scenario},
                              {"batch", outcome.batch},
                              {"latency_target_us", outcome.latency_target_us},
                              {"step_period_s", outcome.period_s},
                              {"slowdown_c", outcome.slowdown_c},
                              {"loss_text", outcome.loss_text},
                              {"loss_tokens", outcome.loss_tokens},
                              {"top_k_cross_entropy_nats", outcome.base_cross_entropy_nats}};
  json["identity"] = {{"tokens", outcome.identity.tokens},
                      {"relaxed_tokens", outcome.identity.relaxed_tokens},
                      {"different", outcome.identity.different}};
  for (size_t p = 0; p < outcome.top_k.phases.size(); ++p) {
    json["phases"]["topk"].push_back(phase_json(outcome.top_k.phases[p], nullptr));
    json["phases"]["thermoe"].push_back(phase_json(outcome.thermoe.phases[p], &outcome.losses[p]));
  }
  for (const TextSample& sample : outcome.texts)
    json["texts"].push_back({{"phase", sample.phase},
                             {"prompt", sample.prompt},
                             {"topk", sample.top_k},
                             {"thermoe", sample.thermoe}});
  json["samples"] = {{"topk", samples_json(outcome.top_k)},
                     {"thermoe", samples_json(outcome.thermoe)}};
  json["wall_s"] = outcome.wall_s;
  return json;
}

Plot to_plot(const RunOutcome& outcome) {
  Plot plot;
  plot.title = fmt::format("{} on a simulated {}", outcome.cost_shape, outcome.cost_device);
  plot.x_label = "virtual time, s";
  plot.legend = {{"top-k", kTopKColour}, {"thermoe", kThermoeColour}};
  for (const PhaseRecord& phase : outcome.thermoe.phases)
    plot.bands.push_back({phase.name, phase.start_s, phase.start_s + phase.duration_s});
  const double experts_scale = static_cast<double>(outcome.shape_experts) / outcome.model_experts;
  const auto panel = [&](std::string title, double Sample::*quantity, double scale = 1.0) {
    plot.panels.push_back({std::move(title),
                           {series_of(outcome.top_k, kTopKColour, quantity, scale),
                            series_of(outcome.thermoe, kThermoeColour, quantity, scale)}});
  };
  panel("decoded tokens/s", &Sample::tokens_per_s);
  panel("board power, W (average over 1 s)", &Sample::power_w);
  panel("die temperature, °C", &Sample::temperature_c);
  panel("SM clock, MHz", &Sample::clock_mhz);
  panel("price of opening an expert, gate mass", &Sample::open_price);
  panel(fmt::format("distinct experts read a layer, of {}", outcome.shape_experts),
        &Sample::distinct_experts, experts_scale);
  return plot;
}

}  // namespace thermoe::app
