#include "scenario.h"

#include <fmt/format.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "paths.h"
#include "thermoe/error.h"

namespace thermoe::app {
namespace {

constexpr const char* kSchema = "thermoe-scenario-1";

double number(const nlohmann::json& phase, const char* key, double least, double below) {
  const double value = phase.at(key).get<double>();
  if (!(value >= least) || !(value < below))
    throw InvalidArgument(
        fmt::format("'{}' must be a number from {} to below {}", key, least, below));
  return value;
}

double positive(const nlohmann::json& phase, const char* key) {
  const double value = phase.at(key).get<double>();
  if (!(value > 0) || !std::isfinite(value))
    throw InvalidArgument(fmt::format("'{}' must be a positive number", key));
  return value;
}

constexpr double kMostW = 1e5;  // no board draws as much

Phase parse_phase(const nlohmann::json& json, uint64_t seed) {
  Phase phase;
  phase.name = json.at("name").get<std::string>();
  phase.duration_s = positive(json, "duration_s");
  phase.other.noise_seed = seed;
  for (const auto& [key, value] : json.items()) {
    if (key == "name" || key == "duration_s") continue;
    if (key == "power_cap_w") {
      phase.power_cap_w = positive(json, "power_cap_w");
    } else if (key == "inlet_c") {
      phase.inlet_c = positive(json, "inlet_c");
    } else if (key == "sink_resistance_factor") {
      phase.other.sink_resistance_factor = number(json, "sink_resistance_factor", 1, 10);
    } else if (key == "neighbour_bandwidth_frac") {
      phase.other.neighbour_bandwidth_frac = number(json, "neighbour_bandwidth_frac", 0, 1);
    } else if (key == "neighbour_power_w") {
      phase.other.neighbour_power_w = number(json, "neighbour_power_w", 0, kMostW);
    } else if (key == "sensors_lost") {
      phase.other.sensors_lost = value.get<bool>();
    } else if (key == "temperature_noise_c") {
      phase.other.temperature_noise_c = number(json, "temperature_noise_c", 0, 100);
    } else if (key == "power_noise_frac") {
      phase.other.power_noise_frac = number(json, "power_noise_frac", 0, 1);
    } else {
      throw InvalidArgument(fmt::format(
          "unknown key '{}' in a phase; known are name, duration_s, power_cap_w, inlet_c, "
          "sink_resistance_factor, neighbour_bandwidth_frac, neighbour_power_w, sensors_lost, "
          "temperature_noise_c, power_noise_frac",
          key));
    }
  }
  return phase;
}

}  // namespace

TwinEnvironment Phase::environment() const {
  TwinEnvironment environment = other;
  environment.power_cap_w = power_cap_w.value_or(0);
  environment.inlet_c = inlet_c;
  return environment;
}

bool Phase::relaxed() const {
  return !power_cap_w && !inlet_c && other.sink_resistance_factor == 1 &&
         other.neighbour_bandwidth_frac == 0 && other.neighbour_power_w == 0 &&
         !other.sensors_lost && other.temperature_noise_c == 0 && other.power_noise_frac == 0;
}

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
    const uint64_t seed = json.contains("seed") ? json.at("seed").get<uint64_t>() : 1;
    for (const auto& phase : json.at("phases")) scenario.phases.push_back(parse_phase(phase, seed));
    if (scenario.phases.empty()) throw InvalidArgument("'phases' is empty");
    return scenario;
  } catch (const nlohmann::json::exception& error) {
    throw IoError(file.string(), fmt::format("is no scenario: {}", error.what()));
  } catch (const InvalidArgument& error) {
    throw IoError(file.string(), fmt::format("is no scenario: {}", error.what()));
  }
}

}  // namespace thermoe::app
