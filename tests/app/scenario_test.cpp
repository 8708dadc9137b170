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
  EXPECT_NE(problem_of(head + R"([{"name":"a","duration_s":"long"}]})").find("is no scenario"),
            std::string::npos);
}

TEST(Scenario, AMissingFileIsNamed) {
  EXPECT_THROW(read_scenario("/nonexistent/scenario.json"), IoError);
}

}  // namespace
}  // namespace thermoe::app
