// The rows of a frontier that are done, on disk, so that a run can be broken off and taken up.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "frontier.h"
#include "line_log.h"

namespace thermoe::app {

nlohmann::ordered_json row_to_json(const FrontierRow& row);
// Throws nlohmann::json::exception where a field is missing or of another type.
FrontierRow row_from_json(const nlohmann::json& json);

// A LineLog of JSON: the settings, then a row each.
class FrontierLog {
 public:
  // Opens or makes the file. Throws IoError: it cannot be, another process has it open, a line is
  // no row (naming it), or it was made with other settings (naming the first that differs).
  FrontierLog(std::string path, const nlohmann::ordered_json& settings);

  // Null where that row is not done.
  const FrontierRow* find(const std::string& text, int batch, const std::string& specification,
                          const std::string& variants = "bf16") const;
  // Throws IoError.
  void append(FrontierRow row);

 private:
  void read(const nlohmann::ordered_json& settings);

  LineLog log_;
  std::vector<FrontierRow> rows_;
};

}  // namespace thermoe::app
