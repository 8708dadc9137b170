#include "route_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>

#include "npy.h"
#include "paths.h"
#include "table.h"

namespace thermoe::app {
namespace {

using nlohmann::ordered_json;

constexpr size_t kFewBatches = 16;  // as many lines as are read one by one

struct Quantity {
  const char* key;    // in JSON
  const char* title;  // in the table
  const char* format;
  std::function<double(const RoutedBatch&)> of;
};

double median_us(const RoutedBatch& batch) { return Spread::of(batch.solve_us).median; }

const std::vector<Quantity>& quantities() {
  const auto report = [](auto RoutingReport::*member) {
    return [member](const RoutedBatch& batch) {
      return static_cast<double>(batch.plan.report.*member);
    };
  };
  static const std::vector<Quantity> all = {
      {"distinct_experts", "experts", "{:.4g}", report(&RoutingReport::distinct_experts)},
      {"top_k_distinct_experts", "top-k's", "{:.4g}",
       report(&RoutingReport::top_k_distinct_experts)},
      {"gate_mass_frac", "mass kept", "{:.5f}", report(&RoutingReport::gate_mass_frac)},
      {"changed_tokens", "changed", "{:.4g}", report(&RoutingReport::changed_tokens)},
      {"cost", "cost", "{:.5g}", report(&RoutingReport::cost)},
      {"objective", "objective", "{:.6g}", report(&RoutingReport::objective)},
      {"bound", "bound", "{:.6g}", report(&RoutingReport::bound)},
      {"gap_frac", "gap", "{:.1e}", report(&RoutingReport::gap_frac)},
      {"solve_us", "time, us", "{:.1f}", median_us}};
  return all;
}

Spread spread_of(const std::vector<RoutedBatch>& routed, const Quantity& quantity) {
  std::vector<double> values;
  values.reserve(routed.size());
  for (const RoutedBatch& batch : routed) values.push_back(quantity.of(batch));
  return Spread::of(std::move(values));
}

bool infeasible(const RoutedBatch& batch) {
  return batch.plan.report.status == RoutingStatus::kInfeasible;
}

Table batch_table(const std::vector<RoutedBatch>& routed) {
  Table table;
  table.header = {"batch"};
  for (const Quantity& quantity : quantities()) table.header.emplace_back(quantity.title);
  for (size_t n = 0; n < routed.size(); ++n) {
    auto& row = table.rows.emplace_back(1, fmt::format("{}", n));
    for (const Quantity& quantity : quantities())
      row.push_back(fmt::format(fmt::runtime(quantity.format), quantity.of(routed[n])));
  }
  return table;
}

Table spread_table(const std::vector<RoutedBatch>& routed) {
  Table table;
  table.header = {"of a batch", "mean", "median", "90th pct.", "99th pct.", "largest"};
  for (const Quantity& quantity : quantities()) {
    const Spread s = spread_of(routed, quantity);
    auto& row = table.rows.emplace_back(1, quantity.title);
    for (const double value : {s.mean, s.median, s.p90, s.p99, s.largest})
      row.push_back(fmt::format(fmt::runtime(quantity.format), value));
  }
  return table;
}

ordered_json to_json(const RoutingReport& report) {
  return {{"status", report.status == RoutingStatus::kSolved ? "solved" : "infeasible"},
          {"objective", report.objective},
          {"bound", report.bound},
          {"gap_frac", report.gap_frac},
          {"utility", report.utility},
          {"cost", report.cost},
          {"limit_excess", report.limit_excess},
          {"gate_mass_frac", report.gate_mass_frac},
          {"distinct_experts", report.distinct_experts},
          {"distinct_instances", report.distinct_instances},
          {"top_k_distinct_experts", report.top_k_distinct_experts},
          {"changed_tokens", report.changed_tokens}};
}

// [T, k] as an array of rows.
template <typename T>
ordered_json rows(const std::vector<T>& values, int k) {
  ordered_json out = ordered_json::array();
  for (auto row = values.begin(); row != values.end(); row += k)
    out.push_back(std::vector<T>(row, row + k));
  return out;
}

ordered_json to_json(const RoutingPlan& plan) {
  return {{"ids", rows(plan.ids, plan.k)},
          {"instances", rows(plan.instances, plan.k)},
          {"weights", rows(plan.weights, plan.k)},
          {"changed", plan.changed},
          {"offsets", plan.offsets},
          {"packed", plan.packed}};
}

}  // namespace

Spread Spread::of(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const double count = static_cast<double>(values.size());
  const auto rank = [&](double frac) {
    return values[static_cast<size_t>(std::max(std::ceil(frac * count), 1.0)) - 1];
  };
  return {.mean = std::accumulate(values.begin(), values.end(), 0.0) / count,
          .median = rank(0.5),
          .p90 = rank(0.9),
          .p99 = rank(0.99),
          .largest = values.back()};
}

std::string to_table(const std::vector<RoutedBatch>& routed) {
  std::string text =
      (routed.size() <= kFewBatches ? batch_table(routed) : spread_table(routed)).text();
  const auto count = std::count_if(routed.begin(), routed.end(), infeasible);
  if (count == 0) return text;
  const auto worst = std::max_element(
      routed.begin(), routed.end(), [](const RoutedBatch& a, const RoutedBatch& b) {
        return a.plan.report.limit_excess < b.plan.report.limit_excess;
      });
  return text + fmt::format(
                    "{} of {} batches found no plan within the limits: batch {} exceeds one by "
                    "{:.4g}\n",
                    count, routed.size(), worst - routed.begin(), worst->plan.report.limit_excess);
}

ordered_json to_json(const std::vector<RoutedBatch>& routed, bool plans) {
  ordered_json summary, batches = ordered_json::array();
  for (const Quantity& quantity : quantities()) {
    const Spread s = spread_of(routed, quantity);
    summary[quantity.key] = {{"mean", s.mean},
                             {"median", s.median},
                             {"p90", s.p90},
                             {"p99", s.p99},
                             {"largest", s.largest}};
  }
  summary["infeasible_batches"] = std::count_if(routed.begin(), routed.end(), infeasible);
  for (const RoutedBatch& batch : routed) {
    ordered_json& entry = batches.emplace_back(
        ordered_json{{"report", to_json(batch.plan.report)}, {"solve_us", median_us(batch)}});
    if (plans) entry["plan"] = to_json(batch.plan);
  }
  return {{"summary", std::move(summary)}, {"batches", std::move(batches)}};
}

void write_arrays(const std::string& prefix, const std::vector<RoutedBatch>& routed, bool stacked) {
  const RoutingPlan& any = routed.front().plan;
  std::vector<int64_t> shape = {static_cast<int64_t>(routed.size()), any.tokens, any.k};
  if (!stacked) shape.erase(shape.begin());
  const auto write = [&](const char* name, const auto& member) {
    std::decay_t<decltype(any.*member)> all;
    for (const RoutedBatch& batch : routed)
      all.insert(all.end(), (batch.plan.*member).begin(), (batch.plan.*member).end());
    using Value = typename decltype(all)::value_type;
    write_file(fmt::format("{}.{}.npy", prefix, name),
               npy_bytes(shape, std::span<const Value>(all)));
  };
  write("ids", &RoutingPlan::ids);
  write("instances", &RoutingPlan::instances);
  write("weights", &RoutingPlan::weights);
}

}  // namespace thermoe::app
