#include "task_report.h"

#include <fmt/format.h>

#include "table.h"

namespace thermoe::app {

nlohmann::ordered_json to_json(const TaskResult& result) {
  nlohmann::ordered_json groups = nlohmann::ordered_json::array();
  for (const TaskGroup& group : result.groups)
    groups.push_back(
        {{"name", group.name}, {"items", group.items}, {"accuracy_frac", group.accuracy()}});
  return {{"items", result.all.items},
          {"correct", result.all.correct},
          {"accuracy_frac", result.all.accuracy()},
          {"accuracy_se_frac", result.accuracy_standard_error},
          {"target_loss_nats", result.target_loss_nats},
          {"tokens", result.tokens},
          {"batch_mean", result.mean_batch},
          {"distinct_experts_mean", result.distinct_experts_mean},
          {"expert_bytes_frac", result.expert_bytes_frac},
          {"opened_bf16_frac", result.opened_frac[0]},
          {"opened_int8_frac", result.opened_frac[1]},
          {"opened_int4_frac", result.opened_frac[2]},
          {"opened_fp8_frac", result.opened_frac[3]},
          {"gate_mass_frac", result.gate_mass_frac},
          {"changed_tokens_frac", result.changed_tokens_frac},
          {"predicted_latency_us", result.predicted_latency_us},
          {"predicted_energy_mj", result.predicted_energy_mj},
          {"groups", groups},
          {"wall_s", result.wall_s}};
}

std::string to_table(const TaskResult& result, int experts) {
  Table table;
  table.header = {"quantity", "value", "unit"};
  for (const TaskGroup& group : result.groups)
    table.rows.push_back({group.name, fmt::format("{:.4f}", group.accuracy()),
                          fmt::format("of {} right", group.items)});
  if (!result.groups.empty()) table.rows.emplace_back();
  const auto row = [&table](const char* name, std::string value, std::string unit) {
    table.rows.push_back({name, std::move(value), std::move(unit)});
  };
  row("accuracy",
      fmt::format("{:.4f} ± {:.4f}", result.all.accuracy(), result.accuracy_standard_error),
      fmt::format("of {} right", result.all.items));
  row("loss of the right answer", fmt::format("{:.4f}", result.target_loss_nats), "nats/answer");
  row("batch, mean", fmt::format("{:.1f}", result.mean_batch), "sequences");
  row("distinct experts", fmt::format("{:.2f}", result.distinct_experts_mean),
      fmt::format("of {}", experts));
  row("expert bytes", fmt::format("{:.4f}", result.expert_bytes_frac), "of top-k's in bf16");
  row("gate mass kept", fmt::format("{:.5f}", result.gate_mass_frac), "of top-k's");
  row("time", fmt::format("{:.1f}", result.wall_s), "s");
  row("speed", fmt::format("{:.0f}", static_cast<double>(result.tokens) / result.wall_s),
      "tokens/s");
  return table.text();
}

}  // namespace thermoe::app
