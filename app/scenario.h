// A scenario: what happens to the simulated GPU, phase by phase.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "thermoe/digital_twin.h"

namespace thermoe::app {

struct Phase {
  std::string name;
  double duration_s = 0;              // of virtual time
  std::optional<double> power_cap_w;  // absent: the board's own limit
  std::optional<double> inlet_c;      // absent: the device's own
  // The rest of what may happen, as TwinEnvironment says; its cap and inlet are the two above.
  TwinEnvironment other = {};

  TwinEnvironment environment() const;
  // Nothing limits the device: the router's prices should settle at zero.
  bool relaxed() const;
};

struct Scenario {
  std::string name;
  std::vector<Phase> phases;
  double duration_s() const;
};

// Reads data/scenarios' format (JSON, schema "thermoe-scenario-1"). Throws IoError naming the file
// and the key.
Scenario read_scenario(const std::filesystem::path& file);

}  // namespace thermoe::app
