// The rows of a frontier that are done, on disk, so that a run can be broken off and taken up.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "frontier.h"

namespace thermoe::app {

nlohmann::ordered_json row_to_json(const FrontierRow& row);
// Throws nlohmann::json::exception where a field is missing or of another type.
FrontierRow row_from_json(const nlohmann::json& json);

// A file of JSON lines: the settings, then a row each. Rows are written whole and at once; a last
// line that was cut off is dropped when the file is next opened. One process at a time.
class FrontierLog {
 public:
  // Opens or makes the file. Throws IoError: it cannot be, another process has it open, a line is
  // no row (naming it), or it was made with other settings (naming the first that differs).
  FrontierLog(std::string path, const nlohmann::ordered_json& settings);
  ~FrontierLog();
  FrontierLog(const FrontierLog&) = delete;
  FrontierLog& operator=(const FrontierLog&) = delete;

  // Null where that row is not done.
  const FrontierRow* find(const std::string& text, int batch,
                          const std::string& specification) const;
  // Throws IoError.
  void append(FrontierRow row);

 private:
  void read(const nlohmann::ordered_json& settings);
  void write_line(const std::string& line);

  std::string path_;
  int file_ = -1;
  std::vector<FrontierRow> rows_;
};

}  // namespace thermoe::app
