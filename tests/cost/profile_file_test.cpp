// Malformed profiles: one line that names the file, the field and the remedy.
#include <gtest/gtest.h>

#include <unistd.h>

#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>

#include "cost/kernel_profile.h"
#include "cost/paths.h"
#include "cost/small_profile.h"
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
      EXPECT_NE(what.find("data/profiles"), std::string::npos) << what;
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

// The first kernel of the profile, and its first curve.
json& kernel(json& j) { return j["kernels"][0]; }
json& curve(json& j) { return j["kernels"][0]["curves"][0]; }

TEST_F(ProfileFile, KernelProfileNamesTheField) {
  const std::pair<const char*, Damage> damages[] = {
      {"schema", [](json& j) { j["schema"] = "other"; }},
      {"version 2", [](json& j) { j["version"] = 2; }},
      {"\"device\" is missing", [](json& j) { j.erase("device"); }},
      {"\"linear_profile\" is no text", [](json& j) { j["linear_profile"] = 3; }},
      {"\"bf16_flops_per_s\" is -1", [](json& j) { j["bf16_flops_per_s"] = -1; }},
      {"\"provenance\" is no object", [](json& j) { j["provenance"] = "mine"; }},
      {"\"kernels\" is no filled list", [](json& j) { j["kernels"] = json::array(); }},
      {"kernels[0]: op \"conv\"", [](json& j) { kernel(j)["op"] = "conv"; }},
      {"kernels[0]: type \"fp6\"", [](json& j) { kernel(j)["dtype"] = "fp6"; }},
      {"kernels[0].roofline: field \"launch_us\" is missing",
       [](json& j) { kernel(j)["roofline"].erase("launch_us"); }},
      {"\"overlap_exponent\" is 0", [](json& j) { kernel(j)["roofline"]["overlap_exponent"] = 0; }},
      {"covariance doesn't hold", [](json& j) { kernel(j)["covariance"].erase(0); }},
      {"covariance[1] is no positive number",
       [](json& j) { kernel(j)["covariance"][1] = nullptr; }},
      {"kernels[0].power: field \"idle_w\"", [](json& j) { kernel(j)["power"]["idle_w"] = "low"; }},
      {"\"p90_frac\" is missing",
       [](json& j) { kernel(j)["unseen_shape_error"].erase("p90_frac"); }},
      {"tokens[2] doesn't rise", [](json& j) { kernel(j)["tokens"][2] = 1; }},
      {"\"curves\" is no filled list", [](json& j) { kernel(j)["curves"] = json::object(); }},
      {"kernels[0].curves[0]: field \"experts\"", [](json& j) { curve(j)["experts"] = -3; }},
      {"\"hidden_size\" is no count", [](json& j) { curve(j)["hidden_size"] = 0.5; }},
      {"top_k exceeds experts", [](json& j) { curve(j)["top_k"] = 2000; }},
      {"moe_tp doesn't divide", [](json& j) { curve(j)["moe_tp"] = 7; }},
      {"moe_ep experts", [](json& j) { curve(j)["moe_ep"] = 7; }},
      {"distribution \"odd\"", [](json& j) { curve(j)["distribution"] = "odd"; }},
      {"latency_us[3] is no positive number", [](json& j) { curve(j)["latency_us"][3] = -1; }},
      {"latency_us[3] is no positive number", [](json& j) { curve(j)["latency_us"][3] = "fast"; }},
      {"isn't as long as", [](json& j) { curve(j)["latency_us"].erase(0); }},
      {"isn't as long as", [](json& j) { curve(j)["power_w"].push_back(400); }},
      {"holds no measurement",
       [](json& j) {
         for (json& us : curve(j)["latency_us"]) us = nullptr;
       }},
  };
  cost::write_kernel_profile(test::small_profile(), folder_ / "good.json");
  const json good = load(folder_ / "good.json");
  for (const auto& [words, damage] : damages) {
    json bad = good;
    damage(bad);
    const std::string what = complaint(write(bad.dump()), cost::read_kernel_profile);
    EXPECT_NE(what.find(words), std::string::npos) << words << ": " << what;
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

TEST_F(ProfileFile, AMissingFileBesideItIsNamed) {
  cost::KernelProfile profile = test::small_profile();
  profile.power_profile = "absent-power.json";
  const auto path = folder_ / "good.json";
  cost::write_kernel_profile(profile, path);
  try {
    read_latency(path);
    FAIL();
  } catch (const IoError& error) {
    EXPECT_EQ(error.path(), (folder_ / "absent-power.json").string());
  }
  profile = test::small_profile();
  profile.linear_profile = "absent-gemm.json";
  cost::write_kernel_profile(profile, path);
  EXPECT_THROW(read_latency(path), IoError);
}

}  // namespace
}  // namespace thermoe
