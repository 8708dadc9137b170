#include "recorded_trace.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <sstream>

#include "paths.h"
#include "telemetry/trace_csv.h"
#include "thermoe/error.h"

namespace thermoe::app {
namespace {

constexpr double kLargestW = 5000;  // a counter that says more was reset or is broken
// The sensors' share of the memory: smoothed over this, and not read below so much power.
constexpr double kShareFilterS = 0.5;
constexpr double kLeastAboveIdleW = 50;
// So long after its end the counter and the sampling still show the work before an idle phase.
constexpr double kDrainingS = 0.25;

std::vector<std::string> cells_of(std::string line) {
  if (!line.empty() && line.back() == '\r') line.pop_back();
  std::vector<std::string> cells;
  std::stringstream stream(line);
  for (std::string cell; std::getline(stream, cell, ',');) {
    const size_t first = cell.find_first_not_of(' ');
    const size_t last = cell.find_last_not_of(' ');
    cells.push_back(first == std::string::npos ? "" : cell.substr(first, last - first + 1));
  }
  return cells;
}

// The column `phase`, which a replay ignores: a name a row; empty where there is no such column.
// The reader of the rows has checked the form.
std::vector<std::string> read_phase_names(const std::string& path, size_t rows) {
  std::vector<std::string> names;
  std::istringstream text(read_file(path));
  std::string line;
  std::getline(text, line);
  const std::vector<std::string> header = cells_of(line);
  const auto column =
      static_cast<size_t>(std::find(header.begin(), header.end(), "phase") - header.begin());
  if (column == header.size()) return std::vector<std::string>(rows);
  while (std::getline(text, line)) {
    if (line.empty() || line == "\r") continue;
    const std::vector<std::string> cells = cells_of(line);
    names.push_back(column < cells.size() ? cells[column] : "");
  }
  names.resize(rows);
  return names;
}

// Where a new phase begins in a trace without names: where the power leaves the phase's own mean,
// over the next fraction of a second and over the next whole one, by a tenth and by more than
// idling wavers. (Single differences of the energy counter jitter by a tenth themselves.)
class PowerChanges {
 public:
  explicit PowerChanges(const RecordedTrace& trace) : trace_(trace) {}
  bool begins_at(size_t row) {
    if (count_ > 0) {
      const double usual_w = sum_w_ / count_;
      const double least_w = std::max(kLeastChangeW, kLeastChangeFrac * usual_w);
      const double ahead_w = mean_ahead_w(row, kAheadS);
      if (std::abs(mean_ahead_w(row, kNearS) - usual_w) > least_w &&
          std::abs(ahead_w - usual_w) > least_w) {
        count_ = kFirstRows;
        sum_w_ = ahead_w * count_;
        return true;
      }
    }
    sum_w_ += trace_.power_w[row];
    ++count_;
    return row == 0;
  }

 private:
  static constexpr double kLeastChangeW = 60, kLeastChangeFrac = 0.1;
  static constexpr double kNearS = 0.3, kAheadS = 1, kFirstRows = 20;
  double mean_ahead_w(size_t row, double span_s) const {
    double sum_w = 0, count = 0;
    const double until_s = trace_.rows[row].time_s + span_s;
    for (size_t i = row; i < trace_.rows.size() && trace_.rows[i].time_s <= until_s; ++i) {
      sum_w += trace_.power_w[i];
      ++count;
    }
    return sum_w / count;
  }
  const RecordedTrace& trace_;
  double sum_w_ = 0, count_ = 0;
};

void find_phases(RecordedTrace& trace, const std::vector<std::string>& names,
                 const TraceWorks& works, const TwinParameters& device) {
  PowerChanges changes(trace);
  for (size_t i = 0; i < names.size(); ++i) {
    const bool changed = changes.begins_at(i);
    if (trace.phases.empty() || trace.phases.back().name != names[i] ||
        (names[i].empty() && changed)) {
      TracePhase& phase = trace.phases.emplace_back();
      phase.name = names[i];
      phase.begin = i;
      phase.work = works.find(names[i], device);
    }
    trace.phases.back().end = i + 1;
    trace.phase_of.push_back(trace.phases.size() - 1);
  }
}

// Fills the rows between two changes of the energy counter with the mean power between them.
size_t power_from_counter(const std::vector<HardwareState>& rows,
                          std::vector<std::optional<double>>& power_w) {
  size_t filled = 0;
  std::optional<size_t> last_change, last_seen;
  for (size_t i = 0; i < rows.size(); ++i) {
    if (!rows[i].energy_mj) continue;
    const bool changed = last_seen && *rows[i].energy_mj != *rows[*last_seen].energy_mj;
    last_seen = i;
    if (!changed) continue;
    if (last_change) {
      const double dt_s = rows[i].time_s - rows[*last_change].time_s;
      const double joules = (*rows[i].energy_mj - *rows[*last_change].energy_mj) * 1e-3;
      const double watts = dt_s > 0 ? joules / dt_s : -1;
      for (size_t k = *last_change + 1; k <= i && watts > 0 && watts < kLargestW; ++k) {
        power_w[k] = watts;
        ++filled;
      }
    }
    last_change = i;
  }
  return filled;
}

void find_power(RecordedTrace& trace) {
  const std::vector<HardwareState>& rows = trace.rows;
  std::vector<std::optional<double>> power_w(rows.size());
  trace.from_counter = 2 * power_from_counter(rows, power_w) > rows.size();
  std::optional<double> first, last;
  for (size_t i = 0; i < rows.size(); ++i) {
    if (!power_w[i]) power_w[i] = rows[i].power_w();
    if (!first) first = power_w[i];
    if (!power_w[i]) power_w[i] = last;
    last = power_w[i];
  }
  if (!first)
    throw IoError(trace.path,
                  "holds no power; record power_instant_w, power_average_w or energy_mj");
  for (const std::optional<double>& watts : power_w)
    trace.power_w.push_back(watts.value_or(*first));
}

// Of the power above idle that the model gives the work.
double modelled_share(const TraceWork& work, const TwinParameters& device) {
  const OperatingPoint point = operating_point(device, work.work, 0, device.leakage_reference_c);
  const double above_w = point.power_w - device.idle_w;
  return above_w > 0 ? std::clamp(point.memory_power_w / above_w, 0.0, 1.0) : 0.0;
}

std::optional<double> sensed_share(const HardwareState& row, double power_w,
                                   const TwinParameters& device) {
  const double above_w = power_w - device.idle_w;
  if (device.share_sensor_w_per_c == 0 || above_w < kLeastAboveIdleW) return std::nullopt;
  if (!row.memory_temperature_c || !row.temperature_c) return std::nullopt;
  const double hotter_c = *row.memory_temperature_c - *row.temperature_c;
  return std::clamp(device.share_sensor_offset + device.share_sensor_w_per_c * hotter_c / above_w,
                    0.0, 1.0);
}

}  // namespace

RecordedTrace read_recorded_trace(const std::string& path, const TraceWorks& works,
                                  const TwinParameters& device) {
  RecordedTrace trace;
  trace.path = path;
  trace.rows = read_trace_csv(path);
  const bool any = std::any_of(trace.rows.begin(), trace.rows.end(), [](const HardwareState& row) {
    return row.temperature_c.has_value();
  });
  if (!any) throw IoError(path, "holds no temperature; record temp_c");
  find_power(trace);
  find_phases(trace, read_phase_names(path, trace.rows.size()), works, device);
  return trace;
}

MemoryShares memory_shares(const RecordedTrace& trace, const TwinParameters& device) {
  MemoryShares shares;
  shares.of_phase.assign(trace.phases.size(), kUnknownShare);
  for (size_t p = 0; p < trace.phases.size(); ++p) {
    const TracePhase& phase = trace.phases[p];
    const bool idle = phase.work && phase.work->idle;
    const bool named = phase.work && !idle;
    const double share = named ? modelled_share(*phase.work, device) : 0;
    std::optional<double> filtered;
    double sum = 0, count = 0;
    for (size_t i = phase.begin; i < phase.end; ++i) {
      const auto sensed = sensed_share(trace.rows[i], trace.power_w[i], device);
      const double dt_s = i > phase.begin ? trace.rows[i].time_s - trace.rows[i - 1].time_s : 0;
      if (sensed && !filtered) filtered = sensed;
      if (sensed) *filtered += (*sensed - *filtered) * (1 - std::exp(-dt_s / kShareFilterS));
      if (sensed && 2 * i >= phase.begin + phase.end) sum += *sensed, ++count;
      double now = named ? share : filtered.value_or(kUnknownShare);
      bool known = named;
      if (idle) {
        const bool active = trace.power_w[i] >= kActiveFactor * device.idle_w;
        const bool draining =
            active && i > 0 && trace.rows[i].time_s - trace.rows[phase.begin].time_s < kDrainingS;
        known = !active || draining;
        if (known) now = draining ? shares.known_so_far.back() : 0;
      }
      shares.work_known.push_back(known);
      shares.known_so_far.push_back(now);
      shares.known_ahead.push_back(known ? std::optional(now) : std::nullopt);
    }
    if (count > 0) shares.of_phase[p] = sum / count;
  }
  return shares;
}

}  // namespace thermoe::app
