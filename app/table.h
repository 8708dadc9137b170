// A plain-text table for people.
#pragma once

#include <string>
#include <vector>

namespace thermoe::app {

struct Table {
  std::vector<std::string> header;
  std::vector<std::vector<std::string>> rows;  // an empty row is a rule
  // Columns aligned, the first to the left, the others to the right; every line ends in a newline.
  std::string text() const;
};

}  // namespace thermoe::app
