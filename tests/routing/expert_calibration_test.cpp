// Calibration files: what comes back of them, what is refused and in which words; the utility made
// of one.
#include "thermoe/expert_calibration.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <fstream>
#include <functional>
#include <iterator>
#include <limits>
#include <nlohmann/json.hpp>

#include "thermoe/error.h"
#include "thermoe/routing_policies.h"

namespace thermoe {
namespace {

using nlohmann::json;

// Three layers, the middle one dense, three experts.
ExpertCalibration sample() {
  ExpertCalibration calibration;
  calibration.model = "a \"small\" one";
  calibration.tokens = 2048;
  calibration.similarity_tokens = 256;
  calibration.experts = 3;
  calibration.top_k = 2;
  calibration.layers.resize(3);
  calibration.layers[0] = {
      .load_frac = {0.5f, 0.25f, 0.25f},
      .output_norm = {15.1234567f, 104.0f, 1.0f / 3},
      .similarity = {1, 0.25f, -0.5f, 0.25f, 1, 0.123456f, -0.5f, 0.123456f, 1},
      .output_square = {230.0f, 11000.0f, 0.125f}};
  calibration.layers[2] = {.load_frac = {1, 0, 0},
                           .output_norm = {1e-9f, 0, 3e7f},
                           .similarity = {1, 0, 0, 0, 1, 0, 0, 0, 1},
                           .output_square = {1e-18f, 0, 9e14f}};
  return calibration;
}

class CalibrationFile : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto* info = ::testing::UnitTest::GetInstance()->current_test_info();
    folder_ = std::filesystem::temp_directory_path() /
              (std::string("thermoe_calibration_") + info->name() + std::to_string(::getpid()));
    std::filesystem::create_directories(folder_);
    file_ = folder_ / "experts.json";
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::string text() const {
    std::ifstream stream(file_, std::ios::binary);
    return {std::istreambuf_iterator<char>(stream), {}};
  }
  void write(const std::string& text) const {
    std::ofstream(file_, std::ios::binary | std::ios::trunc) << text;
  }
  // What `act` says; it must name the file.
  std::string complaint(const std::function<void()>& act) const {
    try {
      act();
    } catch (const IoError& error) {
      EXPECT_EQ(error.path(), file_.string());
      EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos) << error.what();
      return error.what();
    }
    ADD_FAILURE() << "no error";
    return "";
  }
  std::string load_complaint() const {
    const std::string what = complaint([this] { ExpertCalibration::load(file_); });
    EXPECT_NE(what.find("make it anew with thermoe calibrate-experts"), std::string::npos) << what;
    return what;
  }

  std::filesystem::path folder_, file_;
};

void expect_equal(const ExpertCalibration& a, const ExpertCalibration& b, float digits) {
  EXPECT_EQ(a.model, b.model);
  EXPECT_EQ(a.tokens, b.tokens);
  EXPECT_EQ(a.similarity_tokens, b.similarity_tokens);
  EXPECT_EQ(a.experts, b.experts);
  EXPECT_EQ(a.top_k, b.top_k);
  ASSERT_EQ(a.layers.size(), b.layers.size());
  for (size_t l = 0; l < a.layers.size(); ++l) {
    const auto near = [digits](const std::vector<float>& x, const std::vector<float>& y,
                               float unit) {
      ASSERT_EQ(x.size(), y.size());
      for (size_t i = 0; i < x.size(); ++i)
        EXPECT_NEAR(x[i], y[i], digits * std::max(unit, std::fabs(x[i])));
    };
    near(a.layers[l].load_frac, b.layers[l].load_frac, 0);
    near(a.layers[l].output_norm, b.layers[l].output_norm, 0);
    near(a.layers[l].output_square, b.layers[l].output_square, 0);
    near(a.layers[l].similarity, b.layers[l].similarity, 10);
  }
}

TEST_F(CalibrationFile, ComesBackAsItWasSaved) {
  sample().save(file_);
  const ExpertCalibration first = ExpertCalibration::load(file_);
  expect_equal(sample(), first, 5.1e-6f);
  // Loaded values are those of the file: saved again they are the same bytes.
  const std::string before = text();
  first.save(file_);
  EXPECT_EQ(text(), before);
  expect_equal(first, ExpertCalibration::load(file_), 0);
}

TEST_F(CalibrationFile, SavingReplacesInOneStep) {
  write("old");
  sample().save(file_);
  EXPECT_NO_THROW(ExpertCalibration::load(file_));
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder_), {}), 1);
  // A refused one leaves what is there.
  ExpertCalibration bad = sample();
  bad.layers[2].output_norm[1] = NAN;
  EXPECT_NE(complaint([&] { bad.save(file_); }).find("layer 2: output_norm[1] is nan"),
            std::string::npos);
  EXPECT_NO_THROW(ExpertCalibration::load(file_));
  file_ = folder_ / "absent" / "experts.json";
  EXPECT_NE(complaint([&] { sample().save(file_); }).find("check that the folder exists"),
            std::string::npos);
}

TEST_F(CalibrationFile, SavingRefusesWhatDoesNotFit) {
  const float infinity = std::numeric_limits<float>::infinity();
  const std::pair<const char*, std::function<void(ExpertCalibration&)>> damages[] = {
      {"experts is 0", [](auto& c) { c.experts = 0; }},
      {"top_k is 4", [](auto& c) { c.top_k = 4; }},
      {"tokens is 0", [](auto& c) { c.tokens = 0; }},
      {"similarity_tokens is 2049", [](auto& c) { c.similarity_tokens = 2049; }},
      {"none has experts", [](auto& c) { c.layers.assign(3, {}); }},
      {"layer 0: load_frac holds 2 values, not 3",
       [](auto& c) { c.layers[0].load_frac.pop_back(); }},
      {"layer 0: output_norm holds 0 values", [](auto& c) { c.layers[0].output_norm.clear(); }},
      {"layer 0: output_square holds 4", [](auto& c) { c.layers[0].output_square.push_back(1); }},
      {"layer 0: similarity holds 8 values, not 9",
       [](auto& c) { c.layers[0].similarity.pop_back(); }},
      {"layer 0: output_square[2] is inf",
       [&](auto& c) { c.layers[0].output_square[2] = infinity; }},
      {"layer 0: similarity[1][1] is 0.5, not 1",
       [](auto& c) { c.layers[0].similarity[4] = 0.5f; }},
      {"layer 0: similarity[2][0] differs", [](auto& c) { c.layers[0].similarity[6] = 0.5f; }},
      {"layer 0: similarity[1][0] is nan", [](auto& c) { c.layers[0].similarity[3] = NAN; }},
      {"layer 0: load_frac sums to 1.25", [](auto& c) { c.layers[0].load_frac[1] = 0.5f; }},
  };
  for (const auto& [words, damage] : damages) {
    ExpertCalibration bad = sample();
    damage(bad);
    const std::string what = complaint([&] { bad.save(file_); });
    EXPECT_NE(what.find(words), std::string::npos) << what;
  }
}

TEST_F(CalibrationFile, DamagedFilesAreNamed) {
  EXPECT_NE(load_complaint().find("can't be read"), std::string::npos);
  sample().save(file_);
  const std::string good = text();
  write(good.substr(0, good.size() / 2));
  EXPECT_NE(load_complaint().find("is no JSON"), std::string::npos);
  write("[1, 2]");
  EXPECT_NE(load_complaint().find("is no calibration of experts"), std::string::npos);
  const auto with = [&](const std::string& from, const std::string& to) {
    std::string changed = good;
    const size_t at = changed.find(from);
    if (at == std::string::npos) ADD_FAILURE() << "no " << from;
    return changed.replace(at, from.size(), to);
  };
  write(with("15.1235", "NaN"));
  EXPECT_NE(load_complaint().find("is no JSON"), std::string::npos);
  write(with("15.1235", "1e999"));
  EXPECT_NE(load_complaint().find("a number that no double can"), std::string::npos);
}

TEST_F(CalibrationFile, WrongFieldsAreNamed) {
  const std::pair<const char*, std::function<void(json&)>> damages[] = {
      {"schema is \"thermoe-latency-profile\"",
       [](json& j) { j["schema"] = "thermoe-latency-profile"; }},
      {"version 2 is not known", [](json& j) { j["version"] = 2; }},
      {"\"model\" is no text", [](json& j) { j["model"] = 3; }},
      {"\"experts\" is no count", [](json& j) { j["experts"] = -3; }},
      {"\"experts\" is 100000, above", [](json& j) { j["experts"] = 100000; }},
      {"top_k is 4, outside [1, 3]", [](json& j) { j["top_k"] = 4; }},
      {"\"model_layers\" is missing", [](json& j) { j.erase("model_layers"); }},
      {"layers[1]: field \"layer\" is no integer in [0, 2)",
       [](json& j) { j["model_layers"] = 2; }},
      {"layers[1]: layer 0 follows 0", [](json& j) { j["layers"][1]["layer"] = 0; }},
      {"\"layers\" is no filled list", [](json& j) { j["layers"] = json::array(); }},
      {"layers[0]: field \"output_norm\" is missing",
       [](json& j) { j["layers"][0].erase("output_norm"); }},
      {"layers[0]: field \"output_norm\" holds 3 values, not 4",
       [](json& j) {
         j["experts"] = 4;
         j["layers"][0]["load_frac"].push_back(0);
       }},
      {"layers[1]: output_norm[2] is -1, outside",
       [](json& j) { j["layers"][1]["output_norm"][2] = -1; }},
      {"layers[0]: output_square[0] is no number",
       [](json& j) { j["layers"][0]["output_square"][0] = nullptr; }},
      {"layers[0]: field \"similarity\" holds 2 rows, not 3",
       [](json& j) { j["layers"][0]["similarity"].erase(0); }},
      {"layers[0]: field \"similarity[1]\" holds 2 values, not 3",
       [](json& j) { j["layers"][0]["similarity"][1].erase(0); }},
      {"layers[0]: similarity[1][2] is 1.5, outside [-1, 1]",
       [](json& j) { j["layers"][0]["similarity"][1][2] = 1.5; }},
      {"layers[0]: similarity[2][1] differs from similarity[1][2]",
       [](json& j) { j["layers"][0]["similarity"][1][2] = 0.2; }},
      {"layers[0]: similarity[1][1] is 0.9, not 1",
       [](json& j) { j["layers"][0]["similarity"][1][1] = 0.9; }},
      {"layers[0]: load_frac sums to 0.75", [](json& j) { j["layers"][0]["load_frac"][0] = 0.25; }},
  };
  sample().save(file_);
  const json good = json::parse(text());
  for (const auto& [words, damage] : damages) {
    json bad = good;
    damage(bad);
    write(bad.dump());
    const std::string what = load_complaint();
    EXPECT_NE(what.find(words), std::string::npos) << what;
  }
  write(good.dump());
  EXPECT_NO_THROW(ExpertCalibration::load(file_));
}

TEST(CalibratedUtility, ScalesByTheNormOfTheLayersMean) {
  const UtilityModel utility = calibrated_utility(sample(), 1.5f, 0.5f);
  EXPECT_EQ(utility.power, 1.5f);
  ASSERT_EQ(utility.scale.size(), 3u);
  const double mean = (15.1234567 + 104 + 1.0 / 3) / 3;
  EXPECT_NEAR(utility.scale[0][0], std::sqrt(15.1234567 / mean), 1e-6);
  EXPECT_NEAR(utility.scale[0][1], std::sqrt(104 / mean), 1e-6);
  EXPECT_EQ(utility.scale[1], std::vector<float>(3, 1.0f));  // dense
  // 1e-9 and 0 of a mean of 1e7: held at a thousandth.
  EXPECT_NEAR(utility.scale[2][0], std::sqrt(1e-3), 1e-6);
  EXPECT_NEAR(utility.scale[2][1], std::sqrt(1e-3), 1e-6);
  EXPECT_NEAR(utility.scale[2][2], std::sqrt(3.0), 1e-6);
}

TEST(CalibratedUtility, WithoutTheNormIsThePowerAlone) {
  for (const auto& scale : calibrated_utility(sample(), 2.0f, 0.0f).scale)
    EXPECT_EQ(scale, std::vector<float>(3, 1.0f));
}

TEST(CalibratedUtility, RefusesPowersOutOfRange) {
  const float infinity = std::numeric_limits<float>::infinity();
  for (const float power : {0.0f, -1.0f, NAN, infinity})
    EXPECT_THROW(calibrated_utility(sample(), power, 1), InvalidArgument) << power;
  for (const float norm_power : {-9.0f, 8.5f, NAN, infinity})
    EXPECT_THROW(calibrated_utility(sample(), 1, norm_power), InvalidArgument) << norm_power;
  ExpertCalibration odd = sample();
  odd.layers[2].output_norm.pop_back();
  EXPECT_THROW(calibrated_utility(odd, 1, 1), InvalidArgument);
  // Whatever is in range leaves every scale above 0.
  for (const float norm_power : {-8.0f, 8.0f})
    for (const auto& scale : calibrated_utility(sample(), 1, norm_power).scale)
      for (const float value : scale) EXPECT_TRUE(value > 0 && std::isfinite(value)) << value;
}

TEST(CalibratedUtility, IsTheAdaptiveRoutersByName) {
  const ExpertCalibration calibration = sample();
  const PolicyContext context{.calibration = &calibration};
  EXPECT_STREQ(
      make_routing_policy("adaptive:utility=calibrated,power=1.5,norm=0.5", context)->name(),
      "adaptive");
  EXPECT_STREQ(make_routing_policy("adaptive:utility=gate", context)->name(), "adaptive");
  const auto complaint = [](const char* specification, const PolicyContext& given) -> std::string {
    try {
      make_routing_policy(specification, given);
    } catch (const InvalidArgument& error) {
      return error.what();
    }
    return "";
  };
  const auto expect_complaint = [&](const char* specification, const PolicyContext& given,
                                    const char* words) {
    const std::string what = complaint(specification, given);
    EXPECT_NE(what.find(words), std::string::npos) << specification << ": " << what;
  };
  expect_complaint("adaptive:utility=calibrated", {}, "needs the model's calibration");
  expect_complaint("adaptive:utility=norms", context, "one of auto, gate, calibrated");
  expect_complaint("adaptive:norm=1", {}, "norm needs a calibration");
  expect_complaint("adaptive:utility=calibrated,norm=9", context, "norm is '9'");
}

}  // namespace
}  // namespace thermoe
