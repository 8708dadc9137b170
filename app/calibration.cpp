#include "calibration.h"

#include <fmt/format.h>

#include <algorithm>

#include "cost/profile_fit.h"
#include "profile_report.h"
#include "table.h"

namespace thermoe::app {
namespace {

void mark_held_back(std::vector<SweepRow>& rows) {
  ClockMedian clocks;
  for (const SweepRow& row : rows) clocks.add(row);
  for (SweepRow& row : rows) row.throttled |= clocks.fell(row);
}

std::string key_of(const std::string& kernel, const std::string& dtype) {
  return kernel + " " + dtype;
}

std::vector<std::string> cells_of(const cost::MeasuredKernel& kernel, const KernelSamples& s) {
  std::vector<std::string> cells = {kernel.kernel, kernel.dtype,
                                    fmt::format("{}", kernel.curves.size()),
                                    fmt::format("{}", s.points)};
  for (const std::string& cell : held_out_cells(kernel)) cells.push_back(cell);
  cells.push_back(fmt::format("{}", s.throttled_rows));
  cells.push_back(fmt::format("{:.0f}", s.measured_s));
  return cells;
}

}  // namespace

Calibration calibrate(const std::vector<SweepRow>& all, const MeasuredPeaks& peaks,
                      const std::function<void(double done_frac)>& progress) {
  std::vector<SweepRow> rows = all;
  mark_held_back(rows);
  Calibration out;
  std::vector<cost::MeasuredRow> fitted;
  for (size_t i = 0; i < rows.size(); ++i) {
    const SweepRow& row = rows[i];
    KernelSamples& samples = out.samples[key_of(row.measured.kernel, row.measured.dtype)];
    const auto same = [&](const SweepRow& other) { return same_point(other, row); };
    const auto begin = rows.begin(), here = begin + static_cast<std::ptrdiff_t>(i);
    const bool first = std::none_of(begin, here, same);
    const bool only_throttled = std::all_of(
        begin, rows.end(), [&](const SweepRow& other) { return other.throttled || !same(other); });
    samples.points += first ? 1 : 0;
    samples.throttled_rows += row.throttled ? 1 : 0;
    samples.throttled_points += first && only_throttled ? 1 : 0;
    samples.measured_s += row.sample_s;
    if (!row.throttled || only_throttled) fitted.push_back(row.measured);
  }
  cost::ProfileFitSettings settings;
  settings.memory_bytes_per_s = peaks.memory_bytes_per_s;
  settings.bf16_flops_per_s = peaks.bf16_flops_per_s;
  settings.progress = progress;
  out.profile = cost::fit_profile(fitted, settings);
  return out;
}

std::string to_table(const Calibration& calibration) {
  Table table;
  table.header = {"kernel", "type", "curves", "points"};
  for (const std::string& column : held_out_header()) table.header.push_back(column);
  table.header.insert(table.header.end(), {"throttled rows", "seconds"});
  for (const cost::MeasuredKernel& kernel : calibration.profile.kernels)
    table.rows.push_back(
        cells_of(kernel, calibration.samples.at(key_of(kernel.kernel, kernel.dtype))));
  std::string text = table.text();
  for (const auto& [kernel, samples] : calibration.samples)
    if (samples.throttled_points > 0)
      text += fmt::format("{}: {} points were throttled whenever they were measured, and count.\n",
                          kernel, samples.throttled_points);
  return text;
}

nlohmann::ordered_json to_json(const Calibration& calibration) {
  nlohmann::ordered_json kernels = nlohmann::ordered_json::array();
  for (const cost::MeasuredKernel& kernel : calibration.profile.kernels) {
    const KernelSamples& samples = calibration.samples.at(key_of(kernel.kernel, kernel.dtype));
    nlohmann::ordered_json json = kernel_json(kernel);
    json["points"] = samples.points;
    json["throttled_rows"] = samples.throttled_rows;
    json["throttled_points"] = samples.throttled_points;
    json["measured_s"] = samples.measured_s;
    kernels.push_back(std::move(json));
  }
  return {{"device", calibration.profile.device},
          {"memory_bytes_per_s", calibration.profile.memory_bytes_per_s},
          {"bf16_flops_per_s", calibration.profile.bf16_flops_per_s},
          {"provenance", calibration.profile.provenance},
          {"kernels", kernels}};
}

}  // namespace thermoe::app
