#include "scenario.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include "nano.h"
#include "thermoe/error.h"

namespace thermoe::app {
namespace {

std::string problem_of(const std::string& json) {
  const ScratchFile file("scenario.json", json);
  try {
    read_scenario(file.path());
  } catch (const IoError& error) {
    EXPECT_EQ(std::string(error.what()).find(file.path()), 0u);
    return error.what();
  }
  return "";
}

TEST(Scenario, ReadsTheShippedOne) {
  const Scenario scenario =
      read_scenario(std::string(THERMOE_SOURCE_DIR) + "/data/scenarios/heat-wave.json");
  ASSERT_EQ(scenario.phases.size(), 4u);
  EXPECT_TRUE(scenario.phases.front().relaxed());
  EXPECT_EQ(scenario.phases[1].power_cap_w, 450.0);
  EXPECT_TRUE(scenario.phases[2].inlet_c.has_value());
  EXPECT_TRUE(scenario.phases.back().relaxed());
}

TEST(Scenario, EveryShippedOneIsReadAndEndsAsItBegan) {
  const std::filesystem::path folder = std::filesystem::path(THERMOE_SOURCE_DIR) / "data/scenarios";
  int count = 0;
  for (const auto& file : std::filesystem::directory_iterator(folder)) {
    const Scenario scenario = read_scenario(file.path());
    ++count;
    EXPECT_GE(scenario.phases.size(), 3u) << file.path();
    EXPECT_TRUE(scenario.phases.back().relaxed()) << file.path();
    EXPECT_LT(scenario.duration_s(), 300) << file.path();
    for (const Phase& phase : scenario.phases) EXPECT_FALSE(phase.name.empty());
  }
  EXPECT_EQ(count, 5);
}

TEST(Scenario, SaysWhatTheOutsideDoes) {
  const ScratchFile file("scenario.json", R"({"schema":"thermoe-scenario-1","name":"x","seed":9,
    "phases":[{"name":"a","duration_s":2,"power_cap_w":400,"inlet_c":41,
    "sink_resistance_factor":1.5,"neighbour_bandwidth_frac":0.3,"neighbour_power_w":50,
    "sensors_lost":true,"temperature_noise_c":0.5,"power_noise_frac":0.02},
    {"name":"b","duration_s":1}]})");
  const Scenario scenario = read_scenario(file.path());
  const TwinEnvironment e = scenario.phases[0].environment();
  EXPECT_EQ(e.power_cap_w, 400);
  EXPECT_EQ(e.inlet_c, 41);
  EXPECT_EQ(e.sink_resistance_factor, 1.5);
  EXPECT_EQ(e.neighbour_bandwidth_frac, 0.3);
  EXPECT_EQ(e.neighbour_power_w, 50);
  EXPECT_TRUE(e.sensors_lost);
  EXPECT_EQ(e.temperature_noise_c, 0.5);
  EXPECT_EQ(e.power_noise_frac, 0.02);
  EXPECT_EQ(e.noise_seed, 9u);
  EXPECT_FALSE(scenario.phases[0].relaxed());
  EXPECT_TRUE(scenario.phases[1].relaxed());
}

TEST(Scenario, NamesWhatIsWrong) {
  EXPECT_NE(problem_of("{").find("is no scenario"), std::string::npos);
  EXPECT_NE(problem_of("[]").find("is no scenario"), std::string::npos);
  const std::string head = R"({"schema":"thermoe-scenario-1","name":"x","phases":)";
  EXPECT_NE(problem_of(R"({"schema":"other","name":"x","phases":[]})").find("schema"),
            std::string::npos);
  EXPECT_NE(problem_of(head + "[]}").find("empty"), std::string::npos);
  EXPECT_NE(problem_of(head + R"([{"name":"a"}]})").find("duration_s"), std::string::npos);
  EXPECT_NE(problem_of(head + R"([{"name":"a","duration_s":-1}]})").find("positive"),
            std::string::npos);
  EXPECT_NE(problem_of(head + R"([{"name":"a","duration_s":1,"cap":3}]})").find("'cap'"),
            std::string::npos);
  EXPECT_NE(problem_of(head + R"([{"name":"a","duration_s":1,"neighbour_bandwidth_frac":1}]})")
                .find("neighbour_bandwidth_frac"),
            std::string::npos);
  EXPECT_NE(problem_of(head + R"([{"name":"a","duration_s":1,"sensors_lost":3}]})")
                .find("is no scenario"),
            std::string::npos);
  EXPECT_NE(problem_of(head + R"([{"name":"a","duration_s":"long"}]})").find("is no scenario"),
            std::string::npos);
}

TEST(Scenario, AMissingFileIsNamed) {
  EXPECT_THROW(read_scenario("/nonexistent/scenario.json"), IoError);
}

}  // namespace
}  // namespace thermoe::app
