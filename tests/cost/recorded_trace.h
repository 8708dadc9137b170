// The recorded trace by phase, for tests of what was fitted to it.
#pragma once

#include <gtest/gtest.h>

#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "cost/paths.h"

namespace thermoe::test {

struct Row {
  double time_s, temperature_c, power_instant_w, clock_mhz, energy_mj;
};

// Rows of a phase, whichever time it occurs.
inline std::vector<Row> read_phase(const std::string& phase, double from_s, double to_s) {
  std::ifstream stream(source_path("data/telemetry/h100-sxm-700w.csv"));
  std::string line;
  std::getline(stream, line);
  EXPECT_EQ(line.substr(0, 20), "time_s,phase,temp_c,");
  std::vector<Row> rows;
  while (std::getline(stream, line)) {
    std::vector<std::string> cells;
    std::stringstream cut(line);
    for (std::string cell; std::getline(cut, cell, ',');) cells.push_back(cell);
    const Row row{std::stod(cells[0]), std::stod(cells[2]), std::stod(cells[4]),
                  std::stod(cells[6]), std::stod(cells[9])};
    if (cells[1] == phase && row.time_s >= from_s && row.time_s < to_s) rows.push_back(row);
  }
  EXPECT_GT(rows.size(), 20u) << phase;
  return rows;
}

struct Recorded {
  double power_w, clock_mhz;
};

// Mean power between the first and last change of the energy counter after `skip_s`.
inline Recorded mean_of(const std::string& phase, double skip_s, double from_s = 0,
                        double to_s = 1e9) {
  const std::vector<Row> rows = read_phase(phase, from_s, to_s);
  const Row* first = nullptr;
  const Row* last = nullptr;
  double clock = 0, count = 0;
  for (size_t i = 1; i < rows.size(); ++i) {
    if (rows[i].time_s < rows[0].time_s + skip_s) continue;
    clock += rows[i].clock_mhz;
    ++count;
    if (rows[i].energy_mj == rows[i - 1].energy_mj) continue;
    if (first == nullptr) first = &rows[i];
    last = &rows[i];
  }
  const double joules = (last->energy_mj - first->energy_mj) * 1e-3;
  return {joules / (last->time_s - first->time_s), clock / count};
}

}  // namespace thermoe::test
