// How a validation reads: a table, JSON, a plot.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "svg_plot.h"
#include "table.h"
#include "twin_validation.h"

namespace thermoe::app {
namespace {

std::vector<std::string> error_row(const std::string& what, const ForecastErrors& e) {
  if (e.windows == 0) return {what, "0", "-", "-", "-", "-", "-"};
  return {what,
          fmt::format("{}", e.windows),
          fmt::format("{:.2f}", e.mean_absolute_c),
          fmt::format("{:.2f}", e.p90_c),
          fmt::format("{:.1f}", e.largest_c),
          fmt::format("{:+.2f}", e.bias_c),
          fmt::format("{:.2f}", e.persistence_c)};
}

nlohmann::ordered_json error_json(const ForecastErrors& e) {
  nlohmann::ordered_json json{{"windows", e.windows}};
  if (e.windows == 0) return json;
  json["mean_absolute_error_c"] = e.mean_absolute_c;
  json["p90_error_c"] = e.p90_c;
  json["largest_error_c"] = e.largest_c;
  json["bias_c"] = e.bias_c;
  json["persistence_mean_absolute_error_c"] = e.persistence_c;
  return json;
}

std::string shown(const std::string& phase) { return phase.empty() ? "(no name)" : phase; }

std::string percent(double model, double recorded) {
  return recorded > 0 ? fmt::format("{:+.1f}", (model / recorded - 1) * 100) : "-";
}

std::string phase_table(const Validation& v) {
  Table table;
  table.header = {"phase", "from s", "s", "W", "model W", "%", "MHz", "model MHz", "%", "remark"};
  for (const PhaseComparison& p : v.phases) {
    std::vector<std::string> row{shown(p.name), fmt::format("{:.1f}", p.start_s),
                                 fmt::format("{:.1f}", p.duration_s)};
    const bool settled = p.recorded_w > 0;
    row.push_back(settled ? fmt::format("{:.1f}", p.recorded_w) : "-");
    row.push_back(p.model_w ? fmt::format("{:.1f}", *p.model_w) : "-");
    row.push_back(p.model_w ? percent(*p.model_w, p.recorded_w) : "-");
    row.push_back(p.recorded_mhz > 0 ? fmt::format("{:.0f}", p.recorded_mhz) : "-");
    row.push_back(p.model_mhz ? fmt::format("{:.0f}", *p.model_mhz) : "-");
    row.push_back(p.model_mhz ? percent(*p.model_mhz, p.recorded_mhz) : "-");
    row.push_back(!p.remark.empty() ? p.remark : p.work_known ? "" : "work unknown");
    table.rows.push_back(std::move(row));
  }
  return table.text();
}

}  // namespace

std::string to_table(const Validation& v) {
  std::string text = fmt::format("{}: {} rows, {:.1f} s, against the {}\n\n", v.trace, v.rows,
                                 v.duration_s, v.device);
  Table table;
  table.header = {"temperature", "windows", "MAE °C",         "p90 °C",
                  "largest °C",  "bias °C", "if it stayed °C"};
  for (size_t h = 0; h < kHorizonsS.size(); ++h)
    table.rows.push_back(error_row(fmt::format("{:.0f} s ahead", kHorizonsS[h]), v.by_horizon[h]));
  table.rows.emplace_back();
  const std::string last = fmt::format("{:.0f} s, ", kHorizonsS.back());
  table.rows.push_back(error_row(last + "readings fitted to", v.fitted));
  table.rows.push_back(error_row(last + "readings held out", v.held_out));
  table.rows.push_back(error_row(last + "all work known", v.work_known));
  table.rows.push_back(error_row(last + "unknown splits told", v.split_told));
  table.rows.push_back(error_row(last + "model's own power", v.own_power));
  table.rows.emplace_back();
  for (const auto& [name, errors] : v.by_phase)
    table.rows.push_back(error_row(last + "in " + shown(name), errors));
  text += table.text() + "\n" + phase_table(v);
  for (const std::string& remark : v.remarks) text += "\n" + remark + "\n";
  return text;
}

std::string to_json_text(const Validation& v) {
  nlohmann::ordered_json json{
      {"trace", v.trace}, {"device", v.device}, {"rows", v.rows}, {"duration_s", v.duration_s}};
  nlohmann::ordered_json& heat = json["temperature"];
  for (size_t h = 0; h < kHorizonsS.size(); ++h) {
    nlohmann::ordered_json entry{{"horizon_s", kHorizonsS[h]}};
    entry.update(error_json(v.by_horizon[h]));
    heat["by_horizon"].push_back(entry);
  }
  nlohmann::ordered_json& longest = heat["longest_horizon"];
  longest["horizon_s"] = kHorizonsS.back();
  longest["fitted"] = error_json(v.fitted);
  longest["held_out"] = error_json(v.held_out);
  longest["work_known"] = error_json(v.work_known);
  longest["unknown_splits_told"] = error_json(v.split_told);
  longest["own_power"] = error_json(v.own_power);
  longest["by_phase"] = nlohmann::ordered_json::array();
  for (const auto& [name, errors] : v.by_phase) {
    nlohmann::ordered_json entry{{"phase", name}};
    entry.update(error_json(errors));
    longest["by_phase"].push_back(entry);
  }
  for (const PhaseComparison& p : v.phases) {
    nlohmann::ordered_json entry{{"phase", p.name},
                                 {"start_s", p.start_s},
                                 {"duration_s", p.duration_s},
                                 {"work_known", p.work_known}};
    if (p.recorded_w > 0) entry["recorded_power_w"] = p.recorded_w;
    if (p.recorded_mhz > 0) entry["recorded_sm_clock_mhz"] = p.recorded_mhz;
    if (p.model_w) {
      entry["model_power_w"] = *p.model_w;
      entry["power_error_frac"] = *p.model_w / p.recorded_w - 1;
    }
    if (p.model_mhz && p.recorded_mhz > 0) {
      entry["model_sm_clock_mhz"] = *p.model_mhz;
      entry["sm_clock_error_frac"] = *p.model_mhz / p.recorded_mhz - 1;
    }
    if (!p.remark.empty()) entry["remark"] = p.remark;
    json["phases"].push_back(entry);
  }
  json["remarks"] = v.remarks;
  return json.dump(2) + "\n";
}

std::string to_svg(const Validation& v, const RecordedTrace& trace) {
  const char *recorded = "#1f4e79", *predicted = "#c55a11";
  Plot plot;
  plot.title = fmt::format("Temperature of the die, recorded and predicted {:.0f} s ahead",
                           kHorizonsS.back());
  plot.x_label = "time, s";
  for (const TracePhase& phase : trace.phases)
    plot.bands.push_back(
        {phase.name, trace.rows[phase.begin].time_s, trace.rows[phase.end - 1].time_s});
  plot.legend = {{"recorded", recorded}, {"predicted", predicted}};
  PlotSeries truth{recorded, {}, {}}, model{predicted, {}, {}}, power{recorded, {}, {}};
  for (size_t i = 0; i < trace.rows.size(); ++i) {
    const HardwareState& row = trace.rows[i];
    if (row.temperature_c) truth.x.push_back(row.time_s), truth.y.push_back(*row.temperature_c);
    power.x.push_back(row.time_s);
    power.y.push_back(trace.power_w[i]);
  }
  for (const Forecast& f : v.forecasts) {
    model.x.push_back(f.end_s);
    model.y.push_back(f.predicted_c);
  }
  plot.panels = {{"temperature, °C", {truth, model}}, {"power, W", {power}}};
  return plot.svg();
}

}  // namespace thermoe::app
