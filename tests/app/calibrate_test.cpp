// thermoe calibrate on this machine. Nothing here depends on how fast it is.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "cost/kernel_profile.h"
#include "program.h"
#include "sweep_log.h"

namespace thermoe::app {
namespace {

class CalibrateTest : public ::testing::Test {
 protected:
  std::string log() const { return out_.path() + ".rows.csv"; }
  ~CalibrateTest() override { std::filesystem::remove(log()); }
  std::string small() const {
    return "calibrate --device cpu --shapes 64x32e8k2,64x64 --tokens 1,4 --budget-s 0.2 --threads "
           "2 --out " +
           out_.path();
  }
  nlohmann::json run_json(const std::string& arguments) {
    const Outcome outcome = run(arguments + " --json -");
    EXPECT_EQ(outcome.status, 0) << outcome.error;
    return nlohmann::json::parse(outcome.out);
  }
  std::string text() {
    std::ifstream file(log());
    return {std::istreambuf_iterator<char>(file), {}};
  }

  ScratchFile out_{"calibrated.json"};
};

TEST_F(CalibrateTest, AQuickRunMakesAProfileThatPredictsItsOwnPoints) {
  const nlohmann::json json =
      run_json("calibrate --device cpu --quick --budget-s 2 --threads 2 --out " + out_.path());
  ASSERT_EQ(json["kernels"].size(), 4u);
  EXPECT_EQ(json["measured_points"], 72);
  EXPECT_EQ(json["provenance"]["command"],
            "thermoe calibrate --device cpu --quick --threads 2 --budget-s 2");
  EXPECT_EQ(json["device_kind"], "cpu");
  EXPECT_GT(json["memory_bytes_per_s"], 0.0);
  EXPECT_GT(json["bf16_flops_per_s"], 0.0);
  EXPECT_EQ(json["kernels"][0]["kernel"], "thermoe_cpu_experts");
  EXPECT_EQ(json["kernels"][0]["points"], 24);
  // Four shapes are too few to hold any out.
  EXPECT_TRUE(json["kernels"][0]["unseen_shape_error"].is_null());
  EXPECT_TRUE(json["kernels"][2]["unseen_shape_error"].is_null());

  const cost::KernelProfile profile = cost::read_kernel_profile(out_.path());
  for (const char* key : {"origin", "driver", "thermoe", "threads", "compiler", "simd", "date"})
    EXPECT_TRUE(profile.provenance.count(key)) << key;
  const nlohmann::json errors = run_json("cost --csv " + log() + " --profile " + out_.path());
  EXPECT_EQ(errors["device"], profile.device);
  EXPECT_EQ(errors["missed_rows"], 0);
  const auto& warm = errors["by_kernel"]["thermoe_cpu_experts bf16"]["latency"];
  EXPECT_GE(warm["rows"], 24);
  EXPECT_LT(warm["median_frac"], 1e-4);  // the profile keeps five digits
}

TEST_F(CalibrateTest, CostReadsEveryOperationOfIt) {
  ASSERT_EQ(run(small()).status, 0);
  const std::string query = " --tokens 4 --profile " + out_.path();
  for (const std::string operation :
       {"--op experts --hidden 64 --inter 32 --experts 8 --top-k 2",
        "--op experts --hidden 64 --inter 32 --experts 8 --top-k 2 --kernel "
        "thermoe_cpu_experts_cold",
        "--op linear --inputs 64 --outputs 64"}) {
    const nlohmann::json json = run_json("cost " + operation + query);
    EXPECT_EQ(json["estimates"][0]["source"], "measured") << operation;
    EXPECT_GT(json["estimates"][0]["latency_us"], 0.0) << operation;
  }
}

TEST_F(CalibrateTest, IsTakenUpWhereItWasBrokenOff) {
  EXPECT_EQ(run_json(small())["measured_points"], 12);
  const std::string whole = text();
  std::ofstream(log()) << whole.substr(0, whole.size() - 30);
  const nlohmann::json again = run_json(small());
  EXPECT_EQ(again["resumed_points"], 11);
  EXPECT_EQ(again["measured_points"], 1);
  EXPECT_EQ(text().substr(0, whole.size() - 100), whole.substr(0, whole.size() - 100));
  EXPECT_EQ(run_json(small())["measured_points"], 0);
}

TEST_F(CalibrateTest, RefusesAnotherMachinesLog) {
  ASSERT_EQ(run(small()).status, 0);
  const std::string device = cost::read_kernel_profile(out_.path()).device;
  std::string other = text();
  for (size_t at; (at = other.find("," + device + ",")) != std::string::npos;)
    other.replace(at, device.size() + 2, ",Another One,");
  std::ofstream(log()) << other;
  expect_refusal(small(), "device Another One, and this is device " + device);
  EXPECT_EQ(text(), other);
}

TEST_F(CalibrateTest, RefusesWhatCannotWork) {
  expect_refusal("calibrate --out /nowhere/at/all.json", "its folder");
  EXPECT_EQ(run("calibrate --device tpu --out " + out_.path()).status, 2);
  expect_refusal("calibrate --shapes 12 --out " + out_.path(), "shape \"12\"");
  EXPECT_FALSE(std::filesystem::exists(log()));
}

}  // namespace
}  // namespace thermoe::app
