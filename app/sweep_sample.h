// What every sweep backend makes of its repetitions and its device's names.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

namespace thermoe::app {

// As a cell of a table.
inline std::string without_commas(std::string text) {
  std::replace(text.begin(), text.end(), ',', ' ');
  return text;
}

// Of `rising` values, at least one: the one that `fraction` of the way through them stands.
inline double quantile_of(const std::vector<double>& rising, double fraction) {
  return rising[static_cast<size_t>(fraction * static_cast<double>(rising.size() - 1))];
}

}  // namespace thermoe::app
