#include "table.h"

#include <algorithm>

namespace thermoe::app {
namespace {

// Counts code points, so that "°" is one column wide.
size_t width_of(const std::string& cell) {
  return static_cast<size_t>(std::count_if(cell.begin(), cell.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xC0) != 0x80;
  }));
}

}  // namespace

std::string Table::text() const {
  std::vector<size_t> widths;
  const auto measure = [&widths](const std::vector<std::string>& row) {
    widths.resize(std::max(widths.size(), row.size()), 0);
    for (size_t c = 0; c < row.size(); ++c) widths[c] = std::max(widths[c], width_of(row[c]));
  };
  measure(header);
  for (const auto& row : rows) measure(row);

  size_t total = 0;
  for (const size_t width : widths) total += width + 2;
  const std::string rule(total > 2 ? total - 2 : 0, '-');
  std::string out;
  const auto write = [&](const std::vector<std::string>& row) {
    std::string line;
    for (size_t c = 0; c < row.size(); ++c) {
      const std::string padding(widths[c] - width_of(row[c]), ' ');
      line += c == 0 ? row[c] + padding : "  " + padding + row[c];
    }
    out += row.empty() ? rule : line.substr(0, line.find_last_not_of(' ') + 1);
    out += '\n';
  };
  write(header);
  write({});
  for (const auto& row : rows) write(row);
  return out;
}

}  // namespace thermoe::app
