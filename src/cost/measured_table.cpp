#include "cost/measured_table.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <map>
#include <string_view>

#include "core/gzip_file.h"
#include "cost/moe_load.h"
#include "thermoe/error.h"

namespace thermoe::cost {
namespace {

constexpr const char* kRemedy =
    "use a table with the columns of the measured tables (docs/cost-model.md, section 1)";

// The tables' names for types, and ours.
std::string type_name(std::string_view text) {
  if (text == "bfloat16" || text == "float16") return "bf16";
  if (text == "int4_wo") return "int4";
  return std::string(text);
}

std::vector<std::string_view> split(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  for (size_t start = 0; start <= text.size();) {
    const size_t end = std::min(text.find(separator, start), text.size());
    parts.push_back(text.substr(start, end - start));
    start = end + 1;
  }
  return parts;
}

// A row's cells by their columns' names.
class Row {
 public:
  Row(const std::filesystem::path& file, size_t line,
      const std::map<std::string, size_t, std::less<>>& columns,
      const std::vector<std::string_view>& cells)
      : file_(file), line_(line), columns_(columns), cells_(cells) {}

  bool has(std::string_view column) const {
    const auto found = columns_.find(column);
    return found != columns_.end() && !cells_[found->second].empty();
  }
  std::string text(std::string_view column) const {
    const auto found = columns_.find(column);
    if (found == columns_.end())
      throw IoError(file_.string(), fmt::format("column \"{}\" is missing; {}", column, kRemedy));
    const std::string_view cell = cells_[found->second];
    // Names end up in JSON, which can't hold other bytes.
    for (char c : cell)
      if (c < 0x20 || c > 0x7e) fail(column, "holds a character that is not printable ASCII");
    return std::string(cell);
  }
  double positive(std::string_view column) const {
    const std::string cell = text(column);
    double value = 0;
    const auto [end, error] = std::from_chars(cell.data(), cell.data() + cell.size(), value);
    if (error != std::errc() || end != cell.data() + cell.size() || !(value > 0) ||
        !std::isfinite(value))
      fail(column, fmt::format("\"{}\" is no positive number", cell));
    return value;
  }
  int64_t count(std::string_view column) const {
    const double value = positive(column);
    if (value != std::floor(value) || value > 2147483647.0)
      fail(column, fmt::format("{} is no count", value));
    return static_cast<int64_t>(value);
  }
  [[noreturn]] void fail(std::string_view column, const std::string& problem) const {
    throw IoError(file_.string(),
                  fmt::format("line {}, column {}: {}; {}", line_, column, problem, kRemedy));
  }

 private:
  const std::filesystem::path& file_;
  size_t line_;
  const std::map<std::string, size_t, std::less<>>& columns_;
  const std::vector<std::string_view>& cells_;
};

KernelShape experts_shape(const Row& row, const std::string& distribution) {
  KernelShape s;
  s.op = Operation::kExperts;
  s.hidden_size = row.count("hidden_size");
  s.inter_size = row.count("inter_size");
  s.experts = static_cast<int>(row.count("num_experts"));
  s.top_k = static_cast<int>(row.count("topk"));
  s.tp = static_cast<int>(row.count("moe_tp_size"));
  s.ep = static_cast<int>(row.count("moe_ep_size"));
  if (s.top_k > s.experts) row.fail("topk", "exceeds num_experts");
  if (s.inter_size % s.tp != 0) row.fail("moe_tp_size", "doesn't divide inter_size");
  if (s.experts % s.ep != 0) row.fail("moe_ep_size", "doesn't divide num_experts");
  try {
    s.load_exponent = load_exponent(distribution);
  } catch (const InvalidArgument& error) {
    row.fail("distribution", error.what());
  }
  return s;
}

MeasuredRow read_row(const Row& row) {
  MeasuredRow out;
  const std::string op = row.text("op_name");
  out.framework = row.text("framework") + " " + row.text("version");
  out.device = row.text("device");
  out.kernel = row.text("kernel_source");
  out.latency_us = row.positive("latency") * 1e3;
  if (row.has("power")) out.power_w = row.positive("power");
  if (row.has("power_limit")) out.power_limit_w = row.positive("power_limit");
  if (op == "moe") {
    out.dtype = type_name(row.text("moe_dtype"));
    out.tokens = static_cast<double>(row.count("num_tokens"));
    out.distribution = row.text("distribution");
    out.shape = experts_shape(row, out.distribution);
  } else if (op == "gemm") {
    out.dtype = type_name(row.text("gemm_dtype"));
    out.tokens = static_cast<double>(row.count("m"));
    out.shape.op = Operation::kLinear;
    out.shape.inter_size = row.count("n");
    out.shape.hidden_size = row.count("k");
  } else {
    row.fail("op_name", fmt::format("\"{}\" is not known, only moe and gemm", op));
  }
  return out;
}

}  // namespace

std::vector<MeasuredRow> read_measured_table(const std::filesystem::path& file) {
  const std::string text = core::read_maybe_gzipped(file.string());
  const std::vector<std::string_view> lines = split(text, '\n');
  std::map<std::string, size_t, std::less<>> columns;
  std::vector<MeasuredRow> rows;
  rows.reserve(lines.size());
  for (size_t i = 0; i < lines.size(); ++i) {
    std::string_view line = lines[i];
    if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
    if (line.empty()) continue;
    const std::vector<std::string_view> cells = split(line, ',');
    if (columns.empty()) {
      for (size_t c = 0; c < cells.size(); ++c)
        if (!columns.emplace(cells[c], c).second)
          throw IoError(file.string(), fmt::format("line {} names column \"{}\" twice; {}", i + 1,
                                                   cells[c], kRemedy));
      continue;
    }
    if (cells.size() != columns.size())
      throw IoError(file.string(), fmt::format("line {} holds {} cells, not {}; {}", i + 1,
                                               cells.size(), columns.size(), kRemedy));
    rows.push_back(read_row(Row(file, i + 1, columns, cells)));
  }
  if (rows.empty()) throw IoError(file.string(), fmt::format("holds no rows; {}", kRemedy));
  return rows;
}

}  // namespace thermoe::cost
