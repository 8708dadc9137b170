#include "sweep_log.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <sstream>

#include "read_number.h"
#include "thermoe/error.h"
#include "thermoe/version.h"

namespace thermoe::app {
namespace {

// The measured tables' columns, then our own.
constexpr const char* kHeader =
    "framework,version,device,op_name,kernel_source,moe_dtype,num_tokens,hidden_size,inter_size,"
    "topk,num_experts,moe_tp_size,moe_ep_size,distribution,gemm_dtype,m,n,k,latency,power,"
    "power_limit,driver,threads,clock_mhz,throttled,spread_frac,sample_s,power_capped";
constexpr size_t kDriverColumn = 21;
constexpr size_t kLogColumns = kDriverColumn + 7;

std::string csv_cell(const std::optional<double>& value) {
  return value ? fmt::format("{:.6g}", *value) : "";
}
std::string positive_cell(double value) { return value > 0 ? csv_cell(value) : ""; }

std::string line_of(const SweepRow& row) {
  const cost::MeasuredRow& m = row.measured;
  const cost::KernelShape& s = m.shape;
  const bool experts = s.op == cost::Operation::kExperts;
  const std::string type = m.dtype == "bf16" ? "bfloat16" : m.dtype;  // as the tables have it
  const std::string sizes =
      experts ? fmt::format("{},{},{},{},{},{},{},{},{},,,,", type, m.tokens, s.hidden_size,
                            s.inter_size, s.top_k, s.experts, s.tp, s.ep, m.distribution)
              : fmt::format(",,,,,,,,,{},{},{},{}", type, m.tokens, s.inter_size, s.hidden_size);
  return fmt::format("thermoe,{},{},{},{},{},{:.7g},{},{},{},{},{},{},{:.3g},{:.3g},{}", kVersion,
                     m.device, cost::name_of(s.op), m.kernel, sizes, m.latency_us * 1e-3,
                     positive_cell(m.power_w), positive_cell(m.power_limit_w), row.driver,
                     row.threads, csv_cell(row.clock_mhz), row.throttled ? 1 : 0, row.spread_frac,
                     row.sample_s, row.power_capped ? 1 : 0);
}

std::vector<std::string> split_line(const std::string& line) {
  std::vector<std::string> cells;
  std::istringstream stream(line + ",");
  for (std::string text; std::getline(stream, text, ',');) cells.push_back(text);
  return cells;
}

double number_in(const std::string& path, size_t line, const std::string& text) {
  if (const std::optional<double> value = read_number(text)) return *value;
  throw IoError(path, fmt::format("line {} is damaged (\"{}\" is no number): remove the line, or "
                                  "the file to begin anew",
                                  line, text));
}

// Names the first thing in which a row isn't the backend's.
void check_origin(const std::string& path, const SweepRow& row, const SweepBackend& backend) {
  const std::pair<std::string, std::string> things[] = {
      {fmt::format("device {}", row.measured.device), fmt::format("device {}", backend.device())},
      {fmt::format("driver {}", row.driver), fmt::format("driver {}", backend.driver())},
      {row.measured.framework, std::string("thermoe ") + kVersion},
      {fmt::format("{} threads", row.threads), fmt::format("{} threads", backend.threads())}};
  for (const auto& [there, here] : things)
    if (there != here)
      throw IoError(path, fmt::format("was measured with {}, and this is {}: give another --log, "
                                      "or remove the file to begin anew",
                                      there, here));
}

}  // namespace

SweepLog::SweepLog(const std::string& path, const SweepBackend& backend)
    : log_(path, "calibration", "--log") {
  read(backend);
}

void SweepLog::read(const SweepBackend& backend) {
  const std::vector<std::string>& lines = log_.lines();
  if (lines.empty()) return log_.append(kHeader);
  if (lines.front() != kHeader)
    throw IoError(path(),
                  "is no log of a calibration (its columns are others): give another --log");
  if (lines.size() == 1) return;
  const std::vector<cost::MeasuredRow> measured = cost::read_measured_table(path());
  for (size_t i = 0; i < measured.size(); ++i) {
    const std::vector<std::string> cells = split_line(lines.at(i + 1));
    if (cells.size() != kLogColumns)
      throw IoError(path(), fmt::format("line {} is empty or damaged: remove it", i + 2));
    const auto column = [&](size_t n) {
      return number_in(path(), i + 2, cells[kDriverColumn + n]);
    };
    SweepRow row;
    row.measured = measured[i];
    row.driver = cells[kDriverColumn];
    row.threads = static_cast<int>(column(1));
    if (!cells[kDriverColumn + 2].empty()) row.clock_mhz = column(2);
    row.throttled = column(3) != 0;
    row.spread_frac = column(4);
    row.sample_s = column(5);
    row.power_capped = column(6) != 0;
    check_origin(path(), row, backend);
    rows_.push_back(std::move(row));
  }
}

bool SweepLog::done(const SweepRow& row) const {
  return std::any_of(rows_.begin(), rows_.end(), [&](const SweepRow& known) {
    return !known.throttled && same_point(known, row);
  });
}

void SweepLog::append(const SweepRow& row) {
  log_.append(line_of(row));
  rows_.push_back(row);
}

}  // namespace thermoe::app
