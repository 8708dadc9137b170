// How far a cost profile's predictions are from a table of measured kernels.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "cost/kernel_profile.h"
#include "cost/measured_table.h"

namespace thermoe::app {

// One row of the table against the profile.
struct RowError {
  const cost::MeasuredRow* row = nullptr;
  std::string where;        // "measured", "seen shape, unseen tokens", "unseen shape", "beyond"
  double latency_frac = 0;  // predicted / measured - 1
  bool has_power = false;   // measured power, over a row long enough to trust it
  double power_frac = 0;    // likewise
};

struct TableErrors {
  std::vector<RowError> rows;
  std::vector<std::string> missed;  // kernels of the table that the profile has none of
  size_t missed_rows = 0;
};

// Every row is predicted by the profile's kernel of its name, or where there is none by the best
// measured of its operation and type. Rows that neither covers are counted as missed. Rows beyond
// the range of measured tokens count as "beyond" only.
TableErrors table_errors(const cost::KernelProfile& profile,
                         const std::vector<cost::MeasuredRow>& rows);

// Counts, median, p90 and mean of the absolute relative errors, over all rows within the measured
// range, and by type, distribution, kernel and place.
nlohmann::ordered_json to_json(const TableErrors& errors);
std::string to_table(const TableErrors& errors);

}  // namespace thermoe::app
