// A finished frontier for programs (CSV, JSON), for the eye (SVG) and for people (a table).
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "frontier.h"

namespace thermoe::app {

struct FrontierReport {
  nlohmann::ordered_json about;  // model, texts, settings, commit, command line
  std::string title;
  std::string reference = "bf16";  // the variants of the top-k that all is compared with
  std::vector<FrontierPoint> points;
  std::vector<FrontierMean> means;
  std::vector<FrontierLevel> levels;
};

// A row a point; units in the column names; nothing that differs from run to run.
std::string to_csv(const FrontierReport& report);
nlohmann::ordered_json to_json(const FrontierReport& report);
// One panel a batch size: loss difference over bytes of experts read, means over the texts.
std::string to_svg(const FrontierReport& report);
// Per batch size: each series' loss at every level of bytes read, and adaptive's ratio.
std::string to_table(const FrontierReport& report);

}  // namespace thermoe::app
