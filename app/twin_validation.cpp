#include "twin_validation.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "thermoe/thermal_model.h"

namespace thermoe::app {
namespace {

constexpr double kForecastEveryS = 0.1;  // starts of forecasts
// Rows further apart than this, or five times what is usual, are a gap that no forecast crosses.
constexpr double kGapS = 2.0;
// A phase's power is taken once it has settled: after a quarter of it within these bounds.
constexpr double kLeastSettlingS = 1.5, kMostSettlingS = 5.0;
constexpr double kLeastPhaseS = 1.0;  // left after that

double usual_step_s(const RecordedTrace& trace) {
  std::vector<double> steps;
  for (size_t i = 1; i < trace.rows.size(); ++i)
    steps.push_back(trace.rows[i].time_s - trace.rows[i - 1].time_s);
  if (steps.empty()) return 0;
  std::nth_element(steps.begin(), steps.begin() + static_cast<long>(steps.size() / 2), steps.end());
  return steps[steps.size() / 2];
}

// What drives a forecast between two rows.
struct Drive {
  const std::vector<double>& power_w;  // [rows]
  // [rows] Of the power above idle; absent: held from the start of the forecast.
  std::vector<std::optional<double>> share;
  // [rows] What the observer is driven by.
  std::vector<double> share_so_far;
};

class Forecaster {
 public:
  Forecaster(const RecordedTrace& trace, const TwinParameters& device, const MemoryShares& shares,
             const ValidationSettings& settings)
      : trace_(trace), device_(device), shares_(shares), settings_(settings) {
    usual_s_ = usual_step_s(trace);
    gap_s_ = std::max(kGapS, 5 * usual_s_);
    const bool same = std::filesystem::path(trace.path).filename().string() == device.fitted_trace;
    for (const HardwareState& row : trace.rows)
      fitted_.push_back(same && std::any_of(device.fitted_rows_s.begin(),
                                            device.fitted_rows_s.end(), [&](const auto& span) {
                                              return row.time_s >= span.first &&
                                                     row.time_s < span.second;
                                            }));
  }

  // One list a horizon.
  std::array<std::vector<Forecast>, kHorizonsS.size()> run(const Drive& drive) const {
    std::array<std::vector<Forecast>, kHorizonsS.size()> all;
    ThermalObserver observer(device_.thermal);
    double next_s = trace_.start_s() + settings_.history_s;
    for (size_t i = 0; i < trace_.rows.size(); ++i) {
      const HardwareState& row = trace_.rows[i];
      const double dt_s = i > 0 ? row.time_s - trace_.rows[i - 1].time_s : 0;
      observer.update(row.temperature_c, trace_.power_w[i],
                      memory_w(trace_.power_w[i], drive.share_so_far[i]), dt_s);
      if (row.time_s < next_s || !row.temperature_c) continue;
      next_s = row.time_s + kForecastEveryS;
      look_ahead(observer.model(), i, drive, all);
    }
    return all;
  }

 private:
  double memory_w(double power_w, double share) const {
    return share * std::max(0.0, power_w - device_.idle_w);
  }

  void look_ahead(ThermalModel model, size_t start, const Drive& drive,
                  std::array<std::vector<Forecast>, kHorizonsS.size()>& all) const {
    const double start_s = trace_.rows[start].time_s;
    bool known = true;
    size_t horizon = 0;
    for (size_t k = start + 1; k < trace_.rows.size() && horizon < kHorizonsS.size(); ++k) {
      const double dt_s = trace_.rows[k].time_s - trace_.rows[k - 1].time_s;
      if (dt_s > gap_s_) return;
      const bool held = trace_.phase_of[k] == trace_.phase_of[start];
      const double share =
          drive.share[k].value_or(held ? drive.share_so_far[start] : kUnknownShare);
      model.advance(drive.power_w[k], memory_w(drive.power_w[k], share), dt_s);
      known = known && shares_.work_known[k];
      while (horizon < kHorizonsS.size() &&
             trace_.rows[k].time_s >= start_s + kHorizonsS[horizon] - 1e-9) {
        const bool late =
            trace_.rows[k].time_s > start_s + kHorizonsS[horizon] + std::max(usual_s_, 0.5);
        if (trace_.rows[k].temperature_c && !late) {
          all[horizon].push_back({start_s, trace_.rows[k].time_s, trace_.phase_of[k],
                                  model.temperature_c(), *trace_.rows[k].temperature_c,
                                  *trace_.rows[start].temperature_c, fitted_[k], known});
        }
        ++horizon;
      }
    }
  }

  const RecordedTrace& trace_;
  const TwinParameters& device_;
  const MemoryShares& shares_;
  const ValidationSettings& settings_;
  double usual_s_ = 0, gap_s_ = 0;
  std::vector<bool> fitted_;
};

template <typename Which>
ForecastErrors errors_of(const std::vector<Forecast>& forecasts, Which&& which) {
  ForecastErrors errors;
  std::vector<double> sizes;
  for (const Forecast& f : forecasts) {
    if (!which(f)) continue;
    const double error = f.predicted_c - f.recorded_c;
    sizes.push_back(std::abs(error));
    errors.mean_absolute_c += std::abs(error);
    errors.bias_c += error;
    errors.persistence_c += std::abs(f.at_start_c - f.recorded_c);
  }
  if (sizes.empty()) return errors;
  std::sort(sizes.begin(), sizes.end());
  const auto count = static_cast<double>(sizes.size());
  errors.windows = static_cast<int64_t>(sizes.size());
  errors.mean_absolute_c /= count;
  errors.bias_c /= count;
  errors.persistence_c /= count;
  errors.p90_c = sizes[(sizes.size() - 1) * 9 / 10];
  errors.largest_c = sizes.back();
  return errors;
}

bool any(const Forecast&) { return true; }

// Power and clock that the model gives a phase's work at the phase's own temperature.
OperatingPoint model_point(const TraceWork& work, const TwinParameters& device, double cap_w,
                           double temperature_c) {
  CostEstimate estimate = work.work;
  if (work.idle) estimate.latency_us = 1;
  return operating_point(device, estimate, cap_w, temperature_c);
}

PhaseComparison compare_phase(const RecordedTrace& trace, const TracePhase& phase,
                              const TwinParameters& device) {
  PhaseComparison result;
  result.name = phase.name;
  result.start_s = trace.rows[phase.begin].time_s;
  result.duration_s = trace.rows[phase.end - 1].time_s - result.start_s;
  result.work_known = phase.work.has_value();
  const double settling_s = std::clamp(result.duration_s / 4, kLeastSettlingS, kMostSettlingS);
  double seconds = 0, joules = 0, clock = 0, clocks = 0, heat = 0, heats = 0, cap = 0, caps = 0;
  for (size_t i = phase.begin + 1; i < phase.end; ++i) {
    const HardwareState& row = trace.rows[i];
    if (row.time_s < result.start_s + settling_s) continue;
    if (phase.work && phase.work->idle && trace.power_w[i] >= kActiveFactor * device.idle_w) {
      result.remark = fmt::format("not idle from {:.1f} s on", row.time_s);
      break;
    }
    const double dt_s = row.time_s - trace.rows[i - 1].time_s;
    seconds += dt_s;
    joules += trace.power_w[i] * dt_s;
    if (row.sm_clock_mhz) clock += *row.sm_clock_mhz, ++clocks;
    if (row.temperature_c) heat += *row.temperature_c, ++heats;
    if (row.power_limit_w) cap += *row.power_limit_w, ++caps;
  }
  if (seconds < kLeastPhaseS) {
    if (result.remark.empty()) result.remark = "too short to settle";
    result.work_known = false;
    return result;
  }
  result.recorded_w = joules / seconds;
  if (clocks > 0) result.recorded_mhz = clock / clocks;
  result.recorded_c = heats > 0 ? heat / heats : device.leakage_reference_c;
  if (!phase.work) return result;
  const OperatingPoint point =
      model_point(*phase.work, device, caps > 0 ? cap / caps : 0, result.recorded_c);
  result.model_w = point.power_w;
  result.model_mhz = point.sm_clock_mhz;
  return result;
}

// The power that the model itself gives every row; the recorded one where the work is not known.
std::vector<double> own_power_w(const RecordedTrace& trace, const TwinParameters& device,
                                const MemoryShares& shares) {
  std::vector<double> power_w = trace.power_w;
  for (const TracePhase& phase : trace.phases) {
    if (!phase.work) continue;
    // Leakage makes half a watt a degree: the temperature at the phase's begin will do.
    const double start_c =
        trace.rows[phase.begin].temperature_c.value_or(device.leakage_reference_c);
    const double cap_w = trace.rows[phase.begin].power_limit_w.value_or(0);
    const double watts = model_point(*phase.work, device, cap_w, start_c).power_w;
    for (size_t i = phase.begin; i < phase.end; ++i)
      if (shares.work_known[i]) power_w[i] = watts;
  }
  return power_w;
}

// With every unknown phase's share from all of its rows.
Drive told(const RecordedTrace& trace, const MemoryShares& shares) {
  Drive drive{trace.power_w, {}, shares.known_so_far};
  for (size_t i = 0; i < trace.rows.size(); ++i) {
    if (!shares.work_known[i]) drive.share_so_far[i] = shares.of_phase[trace.phase_of[i]];
    drive.share.emplace_back(drive.share_so_far[i]);
  }
  return drive;
}

// Between quick changes of power a trace without names falls into pieces that say nothing.
bool listed(const RecordedTrace& trace, const TracePhase& phase) {
  constexpr double kLeastUnnamedS = 3;
  return !phase.name.empty() ||
         trace.rows[phase.end - 1].time_s - trace.rows[phase.begin].time_s >= kLeastUnnamedS;
}

void add_remarks(const RecordedTrace& trace, const ValidationSettings& settings,
                 Validation& result) {
  const double needed_s = kHorizonsS.back() + settings.history_s;
  if (result.duration_s < needed_s)
    result.remarks.push_back(
        fmt::format("The trace is {:.1f} s long: {:.0f} s ahead after {:.0f} s of history can't be "
                    "judged.",
                    result.duration_s, kHorizonsS.back(), settings.history_s));
  if (!trace.from_counter)
    result.remarks.push_back(
        "No energy counter moves: power is what the readings say, which misses short changes.");
  std::string unknown;
  for (const TracePhase& phase : trace.phases)
    if (!phase.work && !phase.name.empty() &&
        unknown.find("'" + phase.name + "'") == std::string::npos)
      unknown += fmt::format("{}'{}'", unknown.empty() ? "" : ", ", phase.name);
  const bool unnamed = std::any_of(trace.phases.begin(), trace.phases.end(),
                                   [](const TracePhase& phase) { return phase.name.empty(); });
  if (unnamed)
    result.remarks.push_back(
        "The trace doesn't name what ran: it is cut where the power changes, and every work is "
        "unknown.");
  if (!unknown.empty())
    result.remarks.push_back(fmt::format(
        "Work unknown: {}. The memory's share of their power is read from the two temperature "
        "sensors where both are there, up to a forecast's start.",
        unknown));
}

}  // namespace

Validation validate_twin(const RecordedTrace& trace, const TwinParameters& device,
                         const ValidationSettings& settings) {
  Validation result;
  result.trace = trace.path;
  result.device = device.device;
  result.rows = trace.rows.size();
  result.duration_s = trace.duration_s();
  const MemoryShares shares = memory_shares(trace, device);
  const Forecaster forecaster(trace, device, shares, settings);
  const auto forecasts = forecaster.run({trace.power_w, shares.known_ahead, shares.known_so_far});
  for (size_t h = 0; h < kHorizonsS.size(); ++h)
    result.by_horizon[h] = errors_of(forecasts[h], any);
  result.forecasts = forecasts.back();
  result.fitted = errors_of(result.forecasts, [](const Forecast& f) { return f.fitted; });
  result.held_out = errors_of(result.forecasts, [](const Forecast& f) { return !f.fitted; });
  result.work_known = errors_of(result.forecasts, [](const Forecast& f) { return f.work_known; });
  for (size_t p = 0; p < trace.phases.size(); ++p) {
    if (!listed(trace, trace.phases[p])) continue;
    const ForecastErrors errors =
        errors_of(result.forecasts, [&](const Forecast& f) { return f.phase == p; });
    if (errors.windows > 0) result.by_phase.emplace_back(trace.phases[p].name, errors);
  }
  result.split_told = errors_of(forecaster.run(told(trace, shares)).back(), any);
  const std::vector<double> power_w = own_power_w(trace, device, shares);
  result.own_power =
      errors_of(forecaster.run({power_w, shares.known_ahead, shares.known_so_far}).back(),
                [](const Forecast& f) { return f.work_known; });
  for (const TracePhase& phase : trace.phases)
    if (listed(trace, phase)) result.phases.push_back(compare_phase(trace, phase, device));
  add_remarks(trace, settings, result);
  return result;
}

}  // namespace thermoe::app
