#include "frontier_log.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "thermoe/error.h"

namespace thermoe::app {
namespace {

void check_settings(const std::string& path, const nlohmann::json& there,
                    const nlohmann::json& here) {
  if (there == here) return;
  std::string difference = "the file has no settings";
  for (const auto& [key, value] : here.items())
    if (!there.is_object() || !there.contains(key) || there[key] != value) {
      difference = fmt::format(
          "{} is {} there and {} now", key,
          there.is_object() && there.contains(key) ? there[key].dump() : "absent", value.dump());
      break;
    }
  throw IoError(path, fmt::format("was begun with other settings ({}): give another --out, or "
                                  "remove the file to begin anew",
                                  difference));
}

}  // namespace

nlohmann::ordered_json row_to_json(const FrontierRow& row) {
  return {{"text", row.text},
          {"batch", row.batch},
          {"context_tokens", row.context},
          {"specification", row.specification},
          {"variants", row.variants},
          {"tokens", row.tokens},
          {"cross_entropy_nats", row.cross_entropy_nats},
          {"distinct_experts_mean", row.plans.distinct_experts_mean},
          {"top_k_distinct_experts_mean", row.plans.top_k_distinct_experts_mean},
          {"expert_bytes_mean", row.plans.expert_bytes_mean},
          {"expert_bytes_frac", row.plans.expert_bytes_frac},
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
          {"certificate_gap_frac_max", row.plans.certificate_gap_frac_max},
          {"wall_s", row.wall_s},
          {"window_losses_nats", row.window_losses_nats}};
}

FrontierRow row_from_json(const nlohmann::json& json) {
  FrontierRow row;
  json.at("text").get_to(row.text);
  json.at("batch").get_to(row.batch);
  json.at("context_tokens").get_to(row.context);
  json.at("specification").get_to(row.specification);
  json.at("variants").get_to(row.variants);
  json.at("tokens").get_to(row.tokens);
  json.at("cross_entropy_nats").get_to(row.cross_entropy_nats);
  json.at("distinct_experts_mean").get_to(row.plans.distinct_experts_mean);
  json.at("top_k_distinct_experts_mean").get_to(row.plans.top_k_distinct_experts_mean);
  json.at("expert_bytes_mean").get_to(row.plans.expert_bytes_mean);
  json.at("expert_bytes_frac").get_to(row.plans.expert_bytes_frac);
  json.at("opened_bf16_frac").get_to(row.plans.opened_frac[0]);
  json.at("opened_int8_frac").get_to(row.plans.opened_frac[1]);
  json.at("opened_int4_frac").get_to(row.plans.opened_frac[2]);
  json.at("opened_fp8_frac").get_to(row.plans.opened_frac[3]);
  json.at("gate_mass_frac").get_to(row.plans.gate_mass_frac);
  json.at("changed_tokens_frac").get_to(row.plans.changed_tokens_frac);
  json.at("predicted_bytes").get_to(row.plans.predicted_bytes);
  json.at("predicted_latency_us").get_to(row.plans.predicted_latency_us);
  json.at("predicted_energy_mj").get_to(row.plans.predicted_energy_mj);
  json.at("certificate_gap_frac_median").get_to(row.plans.certificate_gap_frac_median);
  json.at("certificate_gap_frac_p99").get_to(row.plans.certificate_gap_frac_p99);
  json.at("certificate_gap_frac_max").get_to(row.plans.certificate_gap_frac_max);
  json.at("wall_s").get_to(row.wall_s);
  json.at("window_losses_nats").get_to(row.window_losses_nats);
  return row;
}

FrontierLog::FrontierLog(std::string path, const nlohmann::ordered_json& settings)
    : log_(std::move(path), "frontier", "--out") {
  read(settings);
}

void FrontierLog::read(const nlohmann::ordered_json& settings) {
  if (log_.lines().empty()) return log_.append(settings.dump());
  int number = 0;
  for (const std::string& line : log_.lines()) {
    ++number;
    try {
      const auto json = nlohmann::json::parse(line);
      if (number == 1)
        check_settings(log_.path(), json, settings);
      else
        rows_.push_back(row_from_json(json));
    } catch (const nlohmann::json::exception& error) {
      throw IoError(log_.path(), fmt::format("line {} is damaged ({}): remove the line, or the "
                                             "file to begin anew",
                                             number, error.what()));
    }
  }
}

const FrontierRow* FrontierLog::find(const std::string& text, int batch,
                                     const std::string& specification,
                                     const std::string& variants) const {
  const auto row = std::find_if(rows_.begin(), rows_.end(), [&](const FrontierRow& done) {
    return done.batch == batch && done.text == text && done.specification == specification &&
           done.variants == variants;
  });
  return row == rows_.end() ? nullptr : &*row;
}

void FrontierLog::append(FrontierRow row) {
  log_.append(row_to_json(row).dump());
  rows_.push_back(std::move(row));
}

}  // namespace thermoe::app
