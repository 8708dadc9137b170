#include "frontier_report.h"

#include <fmt/format.h>

#include <algorithm>

#include "frontier_sweep.h"
#include "scatter_plot.h"
#include "table.h"

namespace thermoe::app {
namespace {

// Where the plots begin: half of top-k's experts, and a quarter of those in int4.
constexpr double kPlainLow = 0.4, kQuantizedLow = 0.05;

// A field of a CSV row (RFC 4180): quoted where it must be.
std::string csv_field(const std::string& text) {
  if (text.find_first_of(",\"\r\n") == std::string::npos) return text;
  std::string quoted = "\"";
  for (const char c : text) quoted += c == '"' ? std::string("\"\"") : std::string(1, c);
  return quoted + '"';
}

nlohmann::ordered_json point_json(const FrontierPoint& point) {
  const FrontierRow& row = point.row;
  return {{"text", row.text},
          {"batch", row.batch},
          {"context_tokens", row.context},
          {"policy", series_name(row.specification, row.variants)},
          {"specification", row.specification},
          {"variants", row.variants},
          {"tokens", row.tokens},
          {"windows", row.window_losses_nats.size()},
          {"cross_entropy_nats", row.cross_entropy_nats},
          {"loss_difference_nats", point.loss.mean_nats},
          {"loss_difference_se_nats", point.loss.standard_error_nats},
          {"distinct_experts_mean", row.plans.distinct_experts_mean},
          {"distinct_experts_frac", point.distinct_frac},
          {"expert_bytes_mean", row.plans.expert_bytes_mean},
          {"expert_bytes_frac", point.read_frac},
          {"opened_bf16_frac", row.plans.opened_frac[0]},
          {"opened_int8_frac", row.plans.opened_frac[1]},
          {"opened_int4_frac", row.plans.opened_frac[2]},
          {"opened_fp8_frac", row.plans.opened_frac[3]},
          {"gate_mass_frac", row.plans.gate_mass_frac},
          {"changed_tokens_frac", row.plans.changed_tokens_frac},
          {"predicted_bytes", row.plans.predicted_bytes},
          {"predicted_latency_us", row.plans.predicted_latency_us},
          {"predicted_energy_mj", row.plans.predicted_energy_mj},
          {"certificate_gap_frac_median", row.plans.certificate_gap_frac_median},
          {"certificate_gap_frac_p99", row.plans.certificate_gap_frac_p99},
          {"certificate_gap_frac_max", row.plans.certificate_gap_frac_max}};
}

nlohmann::ordered_json level_json(const FrontierLevel& level) {
  nlohmann::ordered_json policies = nlohmann::ordered_json::object();
  for (const auto& entry : level.policies) {
    policies[entry.policy] = nullptr;
    if (entry.value)
      policies[entry.policy] = {{"loss_difference_nats", entry.value->loss_nats},
                                {"loss_difference_se_nats", entry.value->standard_error_nats}};
  }
  nlohmann::ordered_json json{{"batch", level.batch},
                              {"expert_bytes_frac", level.read_frac},
                              {"policies", policies},
                              {"best_published", nullptr},
                              {"adaptive_of_best_published_frac", nullptr}};
  if (!level.best_published.empty()) json["best_published"] = level.best_published;
  if (level.adaptive_frac) json["adaptive_of_best_published_frac"] = *level.adaptive_frac;
  return json;
}

std::string level_cell(const std::optional<FrontierValue>& value) {
  return value ? fmt::format("{:+.4f} ± {:.4f}", value->loss_nats, value->standard_error_nats)
               : "-";
}

ScatterPoint plotted(const FrontierSample& sample) {
  const std::string in = sample.variants == "bf16" ? "" : " in " + sample.variants;
  return {sample.read_frac, sample.loss_nats, sample.standard_error_nats,
          fmt::format("{}{}: {:.4f} of top-k's bytes, {:+.4f} ± {:.4f} nats", sample.specification,
                      in, sample.read_frac, sample.loss_nats, sample.standard_error_nats)};
}

}  // namespace

std::string to_csv(const FrontierReport& report) {
  std::string csv;
  for (const FrontierPoint& point : report.points) {
    const nlohmann::ordered_json json = point_json(point);
    std::string header, line;
    for (const auto& [key, value] : json.items()) {
      header += (header.empty() ? "" : ",") + key;
      line += (line.empty() ? "" : ",") +
              csv_field(value.is_string() ? value.get<std::string>() : value.dump());
    }
    if (csv.empty()) csv = header + "\n";
    csv += line + "\n";
  }
  return csv;
}

nlohmann::ordered_json to_json(const FrontierReport& report) {
  nlohmann::ordered_json json{{"schema", "thermoe-frontier-1"}};
  for (const auto& [key, value] : report.about.items()) json[key] = value;
  json["comparison"] = json["means"] = json["points"] = nlohmann::ordered_json::array();
  for (const FrontierLevel& level : report.levels) json["comparison"].push_back(level_json(level));
  for (const FrontierMean& mean : report.means)
    json["means"].push_back({{"batch", mean.batch},
                             {"policy", series_of(mean.sample)},
                             {"specification", mean.sample.specification},
                             {"variants", mean.sample.variants},
                             {"tokens", mean.tokens},
                             {"loss_difference_nats", mean.sample.loss_nats},
                             {"loss_difference_se_nats", mean.sample.standard_error_nats},
                             {"distinct_experts_frac", mean.distinct_frac},
                             {"expert_bytes_frac", mean.sample.read_frac}});
  for (const FrontierPoint& point : report.points) json["points"].push_back(point_json(point));
  return json;
}

std::string to_svg(const FrontierReport& report) {
  ScatterPlot plot;
  plot.title = report.title;
  plot.x_label = "bytes of experts read, of top-k's in " + report.reference;
  plot.y_label = "cross-entropy minus top-k's in " + report.reference + ", nats/token";
  plot.x_low = kPlainLow;
  for (const FrontierMean& mean : report.means)
    if (mean.sample.variants != "bf16") plot.x_low = kQuantizedLow;
  plot.x_high = 1.02;
  for (const int batch : batches_in(report.means)) {
    ScatterPanel panel{fmt::format("batch {}", batch), {}};
    for (const std::string& policy : policies_in(report.means)) {
      ScatterSeries series{policy, {}, {}};
      for (const FrontierMean& mean : report.means)
        if (mean.batch == batch && !mean.reference && series_of(mean.sample) == policy)
          series.points.push_back(plotted(mean.sample));
      const FrontierEnvelope envelope = envelope_of(report.means, batch, policy);
      for (const FrontierSample& sample : envelope.settings())
        series.line.push_back(plotted(sample));
      panel.series.push_back(std::move(series));
    }
    plot.panels.push_back(std::move(panel));
  }
  return plot.svg();
}

std::string to_table(const FrontierReport& report) {
  std::string text;
  for (const int batch : batches_in(report.means)) {
    Table table;
    table.header = {fmt::format("batch {}", batch)};
    std::vector<std::string> best{"best published"}, ratio{"adaptive / best published"};
    for (const FrontierLevel& level : report.levels) {
      if (level.batch != batch) continue;
      table.header.push_back(fmt::format("{:.2f}", level.read_frac));
      table.rows.resize(level.policies.size());
      for (size_t p = 0; p < level.policies.size(); ++p) {
        if (table.rows[p].empty()) table.rows[p].push_back(level.policies[p].policy);
        table.rows[p].push_back(level_cell(level.policies[p].value));
      }
      best.push_back(level.best_published.empty() ? "-" : level.best_published);
      ratio.push_back(level.adaptive_frac ? fmt::format("{:.3f}", *level.adaptive_frac) : "-");
    }
    table.rows.emplace_back();
    table.rows.push_back(best);
    table.rows.push_back(ratio);
    text += table.text() + "\n";
  }
  return text;
}

}  // namespace thermoe::app
