#include "telemetry/trace_csv.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <fstream>
#include <optional>
#include <string_view>
#include <system_error>

#include "telemetry/readings.h"
#include "telemetry/trace_columns.h"
#include "thermoe/error.h"

namespace thermoe {
namespace {

std::vector<std::string_view> split(std::string_view line) {
  std::vector<std::string_view> cells;
  for (;;) {
    const size_t comma = line.find(',');
    std::string_view cell = line.substr(0, comma);
    while (!cell.empty() && cell.front() == ' ') cell.remove_prefix(1);
    while (!cell.empty() && cell.back() == ' ') cell.remove_suffix(1);
    cells.push_back(cell);
    if (comma == std::string_view::npos) return cells;
    line.remove_prefix(comma + 1);
  }
}

class TraceReader {
 public:
  explicit TraceReader(const std::string& path) : path_(path), file_(path) {
    if (!file_) throw IoError(path, "can't be opened; check the path and its permissions");
  }

  std::vector<HardwareState> read() {
    read_header();
    std::vector<HardwareState> rows;
    while (next_line()) {
      if (line_.empty()) continue;
      rows.push_back(read_row());
      if (rows.size() > 1 && rows.back().time_s < rows[rows.size() - 2].time_s) {
        fail(kTraceTime, fmt::format("{} is earlier than the row before; sort the rows by time",
                                     rows.back().time_s));
      }
    }
    if (rows.empty()) throw IoError(path_, "no rows after the header; record at least one sample");
    if (std::find(header_.begin(), header_.end(), "sm_clock_max_mhz") == header_.end()) {
      derive_sm_clock_max(rows);
    }
    return rows;
  }

 private:
  bool next_line() {
    if (!std::getline(file_, line_)) {
      if (file_.bad()) throw IoError(path_, fmt::format("reading fails after line {}", number_));
      return false;
    }
    ++number_;
    if (!line_.empty() && line_.back() == '\r') line_.pop_back();
    return true;
  }

  void read_header() {
    if (!next_line()) throw IoError(path_, "is empty or not a file; a trace starts with a header");
    for (const std::string_view name : split(line_)) header_.emplace_back(name);
    for (size_t i = 0; i < header_.size(); ++i) {
      if (std::find(header_.begin(), header_.begin() + i, header_[i]) != header_.begin() + i) {
        fail(header_[i], "appears twice in the header; keep one");
      }
    }
    if (std::find(header_.begin(), header_.end(), kTraceTime) == header_.end()) {
      fail(kTraceTime, "is missing from the header; a trace needs it, in seconds");
    }
  }

  HardwareState read_row() {
    const std::vector<std::string_view> cells = split(line_);
    if (cells.size() != header_.size()) {
      const size_t first = std::min(cells.size(), header_.size() - 1);
      fail(header_[first], fmt::format("the row has {} cells where the header has {}", cells.size(),
                                       header_.size()));
    }
    HardwareState row;
    for (size_t i = 0; i < cells.size(); ++i) read_cell(header_[i], cells[i], row);
    row.present = has_any_reading(row);
    return row;
  }

  void read_cell(const std::string& name, std::string_view cell, HardwareState& row) const {
    if (name == kTraceTime) {
      if (cell.empty()) fail(name, "is empty; every row needs its time");
      row.time_s = parse_double(name, cell);
    } else if (cell.empty()) {
      return;  // a missing reading
    } else if (name == kTraceReasons) {
      row.throttle_reasons = parse_mask(cell);
    } else {
      const auto known =
          std::find_if(kTraceColumns.begin(), kTraceColumns.end(),
                       [&name](const TraceColumn& column) { return column.name == name; });
      if (known != kTraceColumns.end()) row.*(known->member) = parse_double(name, cell);
    }
  }

  double parse_double(std::string_view name, std::string_view cell) const {
    double value = 0.0;
    const auto [end, error] = std::from_chars(cell.data(), cell.data() + cell.size(), value);
    if (error != std::errc() || end != cell.data() + cell.size() || !std::isfinite(value)) {
      fail(name, fmt::format("'{}' is not a finite number; leave a missing reading empty", cell));
    }
    return value;
  }

  uint64_t parse_mask(std::string_view cell) const {
    uint64_t value = 0;
    const auto [end, error] = std::from_chars(cell.data(), cell.data() + cell.size(), value);
    if (error != std::errc() || end != cell.data() + cell.size()) {
      fail(kTraceReasons,
           fmt::format("'{}' is not a bit mask; write it as a decimal number", cell));
    }
    return value;
  }

  static void derive_sm_clock_max(std::vector<HardwareState>& rows) {
    std::optional<double> highest;
    for (const HardwareState& row : rows) {
      if (row.sm_clock_mhz) highest = std::max(highest.value_or(0.0), *row.sm_clock_mhz);
    }
    for (HardwareState& row : rows) {
      if (row.present) row.sm_clock_max_mhz = highest;
    }
  }

  [[noreturn]] void fail(std::string_view column, const std::string& problem) const {
    throw IoError(path_, fmt::format("line {}, column {}: {}", number_, column, problem));
  }

  std::string path_;
  std::ifstream file_;
  std::string line_;
  size_t number_ = 0;
  std::vector<std::string> header_;
};

}  // namespace

std::vector<HardwareState> read_trace_csv(const std::string& path) {
  return TraceReader(path).read();
}

}  // namespace thermoe
