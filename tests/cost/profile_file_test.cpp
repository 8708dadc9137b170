// Malformed profiles: one line that names the file, the field and the remedy.
#include <gtest/gtest.h>

#include <unistd.h>

#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>

#include "cost/paths.h"
#include "thermoe/digital_twin.h"
#include "thermoe/error.h"
#include "thermoe/kernel_cost_model.h"

namespace thermoe {
namespace {

using nlohmann::json;
using Damage = std::function<void(json&)>;

json load(const std::filesystem::path& path) {
  std::ifstream stream(path);
  return json::parse(stream);
}

class ProfileFile : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto* info = ::testing::UnitTest::GetInstance()->current_test_info();
    folder_ = std::filesystem::temp_directory_path() /
              (std::string("thermoe_profile_") + info->name() + std::to_string(::getpid()));
    std::filesystem::create_directories(folder_);
    std::filesystem::copy_file(test::h100_power(), folder_ / "h100-sxm-power.json",
                               std::filesystem::copy_options::overwrite_existing);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::filesystem::path write(const std::string& text) {
    const auto path = folder_ / "broken.json";
    std::ofstream(path) << text;
    return path;
  }
  // What reading the file says.
  template <typename Read>
  std::string complaint(const std::filesystem::path& path, Read&& read) {
    try {
      read(path);
    } catch (const IoError& error) {
      EXPECT_EQ(error.path(), path.string());
      const std::string what = error.what();
      EXPECT_EQ(what.find('\n'), std::string::npos) << what;
      EXPECT_NE(what.find("make_profiles.py"), std::string::npos) << what;
      return what;
    }
    ADD_FAILURE() << "read " << path;
    return "";
  }
  std::filesystem::path folder_;
};

void read_latency(const std::filesystem::path& path) {
  const KernelCostModel model(path, cost_shape("qwen3-30b-a3b"));
}

TEST_F(ProfileFile, MissingOrNoJsonAtAll) {
  EXPECT_NE(complaint(folder_ / "absent.json", read_latency).find("can't be read"),
            std::string::npos);
  EXPECT_NE(complaint(write("{\"schema\": "), read_latency).find("is no JSON"), std::string::npos);
  EXPECT_NE(complaint(write("[1, 2]"), read_latency).find("is no profile"), std::string::npos);
}

TEST_F(ProfileFile, LatencyProfileNamesTheField) {
  const std::pair<const char*, Damage> damages[] = {
      {"schema", [](json& j) { j["schema"] = "other"; }},
      {"version 2", [](json& j) { j["version"] = 2; }},
      {"\"device\" is missing", [](json& j) { j.erase("device"); }},
      {"dtype \"fp8\"", [](json& j) { j["dtype"] = "fp8"; }},
      {"\"shapes\" is no filled list", [](json& j) { j["shapes"] = json::array(); }},
      {"shapes[0]: field \"experts\"", [](json& j) { j["shapes"][0]["experts"] = -3; }},
      {"top_k exceeds experts", [](json& j) { j["shapes"][0]["top_k"] = 200; }},
      {"latency_us[3] is no positive number",
       [](json& j) { j["shapes"][0]["loads"][0]["latency_us"][3] = -1; }},
      {"latency_us[3] is no positive number",
       [](json& j) { j["shapes"][0]["loads"][0]["latency_us"][3] = "fast"; }},
      {"differ in length", [](json& j) { j["shapes"][0]["loads"][0]["latency_us"].erase(0); }},
      {"tokens[5] doesn't rise", [](json& j) { j["shapes"][0]["loads"][0]["tokens"][5] = 1; }},
      {"exceeds the 128 experts",
       [](json& j) { j["shapes"][0]["loads"][0]["distinct_experts"][5] = 129; }},
      {"no balanced load", [](json& j) { j["shapes"][0]["loads"][0]["distribution"] = "odd"; }},
  };
  const json good = load(test::h100_profile());
  for (const auto& [words, damage] : damages) {
    json bad = good;
    damage(bad);
    const std::string what = complaint(write(bad.dump()), read_latency);
    EXPECT_NE(what.find(words), std::string::npos) << what;
  }
  EXPECT_NO_THROW(read_latency(write(good.dump())));
}

TEST_F(ProfileFile, PowerProfileNamesTheField) {
  const std::pair<const char*, Damage> damages[] = {
      {"\"parameters\" is missing", [](json& j) { j.erase("parameters"); }},
      {"parameters: field \"idle_w\" is missing", [](json& j) { j["parameters"].erase("idle_w"); }},
      {"\"idle_w\" is 0", [](json& j) { j["parameters"]["idle_w"] = 0; }},
      {"\"inlet_c\" is no number", [](json& j) { j["parameters"]["inlet_c"] = "cold"; }},
      {"clocks must rise", [](json& j) { j["parameters"]["clock_knee_mhz"] = 5000; }},
      {"slowdown_c is not above", [](json& j) { j["parameters"]["inlet_c"] = 99; }},
  };
  const json good = load(test::h100_power());
  for (const auto& [words, damage] : damages) {
    json bad = good;
    damage(bad);
    const std::string what =
        complaint(write(bad.dump()), [](const auto& path) { read_twin_parameters(path); });
    EXPECT_NE(what.find(words), std::string::npos) << what;
  }
}

TEST_F(ProfileFile, AMissingPowerFileIsNamed) {
  json profile = load(test::h100_profile());
  profile["power_profile"] = "absent-power.json";
  const auto path = write(profile.dump());
  try {
    read_latency(path);
    FAIL();
  } catch (const IoError& error) {
    EXPECT_EQ(error.path(), (folder_ / "absent-power.json").string());
  }
}

}  // namespace
}  // namespace thermoe
