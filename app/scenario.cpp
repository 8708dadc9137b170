#include "scenario.h"

#include <fmt/format.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "paths.h"
#include "thermoe/error.h"

namespace thermoe::app {
namespace {

constexpr const char* kSchema = "thermoe-scenario-1";

double positive(const nlohmann::json& phase, const char* key) {
  const double value = phase.at(key).get<double>();
  if (!(value > 0) || !std::isfinite(value))
    throw InvalidArgument(fmt::format("'{}' must be a positive number", key));
  return value;
}

Phase parse_phase(const nlohmann::json& json) {
  for (const auto& [key, value] : json.items())
    if (key != "name" && key != "duration_s" && key != "power_cap_w" && key != "inlet_c")
      throw InvalidArgument(fmt::format(
          "unknown key '{}' in a phase; known are name, duration_s, power_cap_w, inlet_c", key));
  Phase phase;
  phase.name = json.at("name").get<std::string>();
  phase.duration_s = positive(json, "duration_s");
  if (json.contains("power_cap_w")) phase.power_cap_w = positive(json, "power_cap_w");
  if (json.contains("inlet_c")) phase.inlet_c = positive(json, "inlet_c");
  return phase;
}

}  // namespace

double Scenario::duration_s() const {
  double sum = 0;
  for (const Phase& phase : phases) sum += phase.duration_s;
  return sum;
}

Scenario read_scenario(const std::filesystem::path& file) {
  const std::string text = read_file(file);
  try {
    const auto json = nlohmann::json::parse(text);
    if (json.at("schema").get<std::string>() != kSchema)
      throw InvalidArgument(fmt::format("'schema' must be \"{}\"", kSchema));
    Scenario scenario;
    scenario.name = json.at("name").get<std::string>();
    for (const auto& phase : json.at("phases")) scenario.phases.push_back(parse_phase(phase));
    if (scenario.phases.empty()) throw InvalidArgument("'phases' is empty");
    return scenario;
  } catch (const nlohmann::json::exception& error) {
    throw IoError(file.string(), fmt::format("is no scenario: {}", error.what()));
  } catch (const InvalidArgument& error) {
    throw IoError(file.string(), fmt::format("is no scenario: {}", error.what()));
  }
}

}  // namespace thermoe::app
