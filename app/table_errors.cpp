#include "table_errors.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <tuple>

#include "cost/kernel_model.h"
#include "table.h"
#include "thermoe/error.h"

namespace thermoe::app {
namespace {

constexpr const char* kBeyond = "beyond";

using Json = nlohmann::ordered_json;

const cost::MeasuredKernel* kernel_for(const cost::KernelProfile& profile,
                                       const cost::MeasuredRow& row) {
  for (const std::string& name : {row.kernel, std::string()}) {
    try {
      return &cost::find_kernel(profile, row.shape.op, row.dtype, name);
    } catch (const ProfileMiss&) {
      continue;
    }
  }
  return nullptr;
}

std::string place_of(const cost::KernelReading& reading, bool measured_shape) {
  if (reading.source == CostSource::kMeasured) return "measured";
  if (reading.source == CostSource::kRoofline) return kBeyond;
  return measured_shape ? "seen shape, unseen tokens" : "unseen shape";
}

// Opens each kernel and each of its shapes once.
class Predictor {
 public:
  explicit Predictor(const cost::KernelProfile& profile) : profile_(profile) {}

  // False: the profile has no kernel for it.
  bool predict(const cost::MeasuredRow& row, RowError& error) {
    const cost::MeasuredKernel* kernel = kernel_for(profile_, row);
    if (kernel == nullptr) return false;
    std::unique_ptr<cost::KernelModel>& model = models_[kernel];
    if (!model)
      model = std::make_unique<cost::KernelModel>(
          *kernel,
          cost::peaks_of(kernel->dtype, profile_.memory_bytes_per_s, profile_.bf16_flops_per_s));
    if (model.get() != model_ || !(row.shape == curve_.shape())) {
      model_ = model.get();
      curve_ = model->curve(row.shape);
    }
    const cost::KernelReading reading = curve_.at(row.tokens);
    error.row = &row;
    error.where = place_of(reading, curve_.measured());
    error.latency_frac = reading.latency_us / row.latency_us - 1;
    error.has_power =
        row.power_w > 0 && reading.power_w > 0 && row.latency_us >= kernel->power_least_us;
    if (error.has_power) error.power_frac = reading.power_w / row.power_w - 1;
    return true;
  }

 private:
  const cost::KernelProfile& profile_;
  std::map<const cost::MeasuredKernel*, std::unique_ptr<cost::KernelModel>> models_;
  const cost::KernelModel* model_ = nullptr;
  cost::KernelCurve curve_;  // of the row before: a table lists a shape's rows together
};

struct Summary {
  size_t rows = 0;
  double median = 0, p90 = 0, mean = 0;
};

Summary summary_of(std::vector<double> errors) {
  if (errors.empty()) return {};
  std::sort(errors.begin(), errors.end());
  double sum = 0;
  for (double error : errors) sum += error;
  const size_t n = errors.size();
  return {n, errors[n / 2], errors[n * 9 / 10], sum / static_cast<double>(n)};
}

struct Group {
  std::string name;  // "type bf16"
  Summary latency, power;
};

using KeyOf = std::function<std::string(const RowError&)>;

std::vector<Group> groups_by(const std::vector<RowError>& rows, const KeyOf& key_of) {
  std::map<std::string, std::pair<std::vector<double>, std::vector<double>>> errors;
  for (const RowError& row : rows) {
    auto& [latency, power] = errors[key_of(row)];
    latency.push_back(std::abs(row.latency_frac));
    if (row.has_power) power.push_back(std::abs(row.power_frac));
  }
  std::vector<Group> groups;
  groups.reserve(errors.size());
  for (auto& [name, of] : errors)
    groups.push_back({name, summary_of(std::move(of.first)), summary_of(std::move(of.second))});
  return groups;
}

std::vector<RowError> within(const TableErrors& errors) {
  std::vector<RowError> rows;
  for (const RowError& row : errors.rows)
    if (row.where != kBeyond) rows.push_back(row);
  return rows;
}

struct Grouping {
  const char* name;  // the JSON's key
  KeyOf key_of;
};

const std::vector<Grouping>& groupings() {
  static const std::vector<Grouping> all = {
      {"by_type", [](const RowError& e) { return e.row->dtype; }},
      {"by_distribution",
       [](const RowError& e) { return e.row->distribution.empty() ? "-" : e.row->distribution; }},
      {"by_place", [](const RowError& e) { return e.where; }},
      {"by_kernel", [](const RowError& e) { return e.row->kernel + " " + e.row->dtype; }},
      {"by_place_and_distribution",
       [](const RowError& e) { return e.where + ", " + e.row->distribution; }},
  };
  return all;
}

Json summary_json(const Summary& s) {
  if (s.rows == 0) return nullptr;
  return {{"rows", s.rows}, {"median_frac", s.median}, {"p90_frac", s.p90}, {"mean_frac", s.mean}};
}

Json group_json(const Group& group) {
  return {{"latency", summary_json(group.latency)}, {"power", summary_json(group.power)}};
}

std::vector<std::string> table_row(const std::string& name, const Group& group) {
  const auto cells = [](const Summary& s) -> std::vector<std::string> {
    if (s.rows == 0) return {"-", "-", "-", "-"};
    return {fmt::format("{}", s.rows), fmt::format("{:.1f} %", 100 * s.median),
            fmt::format("{:.1f} %", 100 * s.p90), fmt::format("{:.1f} %", 100 * s.mean)};
  };
  std::vector<std::string> row{name};
  for (const Summary* s : {&group.latency, &group.power})
    for (std::string& cell : cells(*s)) row.push_back(std::move(cell));
  return row;
}

Group all_of(const std::vector<RowError>& rows) {
  const auto groups = groups_by(rows, [](const RowError&) { return "all"; });
  return groups.empty() ? Group{"all", {}, {}} : groups.front();
}

std::vector<RowError> beyond(const TableErrors& errors) {
  std::vector<RowError> rows;
  for (const RowError& row : errors.rows)
    if (row.where == kBeyond) rows.push_back(row);
  return rows;
}

}  // namespace

TableErrors table_errors(const cost::KernelProfile& profile,
                         const std::vector<cost::MeasuredRow>& rows) {
  TableErrors errors;
  std::set<std::string> missed;
  Predictor predictor(profile);
  for (const cost::MeasuredRow& row : rows) {
    RowError error;
    if (predictor.predict(row, error)) {
      errors.rows.push_back(error);
    } else {
      ++errors.missed_rows;
      missed.insert(fmt::format("{} {} ({})", cost::name_of(row.shape.op), row.dtype, row.kernel));
    }
  }
  errors.missed.assign(missed.begin(), missed.end());
  return errors;
}

Json to_json(const TableErrors& errors) {
  const std::vector<RowError> rows = within(errors);
  Json json = {{"rows", errors.rows.size() + errors.missed_rows},
               {"all", group_json(all_of(rows))}};
  for (const Grouping& grouping : groupings()) {
    Json groups = Json::object();
    for (const Group& group : groups_by(rows, grouping.key_of))
      groups[group.name] = group_json(group);
    json[grouping.name] = groups;
  }
  json["beyond_measured_range"] = group_json(all_of(beyond(errors)));
  json["missed_rows"] = errors.missed_rows;
  json["missed"] = errors.missed;
  return json;
}

std::string to_table(const TableErrors& errors) {
  const std::vector<RowError> rows = within(errors);
  Table table;
  table.header = {"",    "rows", "latency: median", "p90", "mean", "power rows", "median",
                  "p90", "mean"};
  table.rows.push_back(table_row("all", all_of(rows)));
  for (const Grouping& grouping : groupings()) {
    table.rows.emplace_back();
    for (const Group& group : groups_by(rows, grouping.key_of))
      table.rows.push_back(table_row(group.name, group));
  }
  table.rows.emplace_back();
  table.rows.push_back(table_row("beyond the measured range", all_of(beyond(errors))));
  std::string text = table.text();
  if (errors.missed_rows > 0)
    text += fmt::format("\n{} rows of kernels that the profile has none of: {}\n",
                        errors.missed_rows, fmt::join(errors.missed, ", "));
  return text;
}

}  // namespace thermoe::app
