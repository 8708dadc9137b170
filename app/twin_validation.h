// The twin's models against a recorded trace: temperatures predicted ahead, power and clock of its
// phases.
#pragma once

#include <array>
#include <optional>
#include <string>
#include <vector>

#include "recorded_trace.h"
#include "thermoe/digital_twin.h"

namespace thermoe::app {

inline constexpr std::array<double, 4> kHorizonsS = {1, 5, 10, 30};

struct ForecastErrors {
  int64_t windows = 0;
  double mean_absolute_c = 0, p90_c = 0, largest_c = 0, bias_c = 0;
  double persistence_c = 0;  // mean absolute error of "as it is now"
};

// One forecast: from the state that the observer had at `start_s` to the reading at `end_s`.
struct Forecast {
  double start_s = 0, end_s = 0;
  size_t phase = 0;  // of the reading
  double predicted_c = 0, recorded_c = 0, at_start_c = 0;
  bool fitted = false;      // the reading was one of those that the profile was fitted to
  bool work_known = false;  // the work of every row between is
};

struct PhaseComparison {
  std::string name;
  double start_s = 0, duration_s = 0;
  bool work_known = false;
  double recorded_w = 0, recorded_mhz = 0, recorded_c = 0;  // once settled
  std::optional<double> model_w, model_mhz;                 // where the work is known
  std::string remark;
};

struct ValidationSettings {
  double history_s = 5;  // forecasts start after so much of the trace
};

struct Validation {
  std::string trace, device;
  size_t rows = 0;
  double duration_s = 0;
  std::array<ForecastErrors, kHorizonsS.size()> by_horizon;
  // At the longest horizon.
  std::vector<Forecast> forecasts;
  std::vector<std::pair<std::string, ForecastErrors>> by_phase;
  ForecastErrors fitted, held_out;
  ForecastErrors work_known;  // the work of every row between start and reading is
  ForecastErrors split_told;  // with the memory's share of phases of unknown work told
  ForecastErrors own_power;   // power by the model too; only windows whose work is known
  std::vector<PhaseComparison> phases;
  std::vector<std::string> remarks;
};

Validation validate_twin(const RecordedTrace& trace, const TwinParameters& device,
                         const ValidationSettings& settings);

// For people.
std::string to_table(const Validation& validation);
// For programs, as text.
std::string to_json_text(const Validation& validation);
// Recorded and predicted temperature over the trace, as SVG.
std::string to_svg(const Validation& validation, const RecordedTrace& trace);

}  // namespace thermoe::app
