#include "cost/kernel_profile.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "cost/paths.h"
#include "cost/small_profile.h"
#include "thermoe/error.h"

namespace thermoe::cost {
namespace {

class ProfileRoundTrip : public testing::Test {
 protected:
  ProfileRoundTrip()
      : file_(std::filesystem::temp_directory_path() /
              ("thermoe_profile_" + std::to_string(::getpid()) + ".json")) {}
  ~ProfileRoundTrip() override { std::filesystem::remove(file_); }
  KernelProfile written_and_read(const KernelProfile& profile) const {
    write_kernel_profile(profile, file_);
    return read_kernel_profile(file_);
  }
  std::string text() const {
    std::ifstream stream(file_, std::ios::binary);
    return {std::istreambuf_iterator<char>(stream), {}};
  }
  std::filesystem::path file_;
};

// Equal within `digits` significant ones; missing values in the same places.
void expect_series(const std::vector<double>& a, const std::vector<double>& b, int digits) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    ASSERT_EQ(std::isnan(a[i]), std::isnan(b[i])) << i;
    if (std::isnan(a[i])) continue;
    EXPECT_NEAR(a[i], b[i], 0.5 * std::pow(10.0, 1 - digits) * std::abs(b[i])) << i;
  }
}
void expect_errors(const HeldOutErrors& a, const HeldOutErrors& b) {
  EXPECT_EQ(a.known, b.known);
  EXPECT_NEAR(a.median_frac, b.median_frac, 0.005 * b.median_frac);
  EXPECT_NEAR(a.p90_frac, b.p90_frac, 0.005 * b.p90_frac);
}
void expect_kernel(const MeasuredKernel& a, const MeasuredKernel& b) {
  EXPECT_EQ(a.op, b.op);
  EXPECT_EQ(a.kernel, b.kernel);
  EXPECT_EQ(a.framework, b.framework);
  EXPECT_EQ(a.dtype, b.dtype);
  EXPECT_EQ(a.stage_columns, b.stage_columns);
  EXPECT_EQ(a.power_least_us, b.power_least_us);
  expect_series(a.roofline, b.roofline, 5);
  expect_series(a.covariance, b.covariance, 4);
  EXPECT_EQ(a.power_limit_w, b.power_limit_w);
  expect_series(a.power_parameters, b.power_parameters, 4);
  expect_errors(a.unseen_shape, b.unseen_shape);
  expect_errors(a.unseen_tokens, b.unseen_tokens);
  expect_errors(a.unseen_shape_power, b.unseen_shape_power);
  EXPECT_EQ(a.tokens, b.tokens);
  ASSERT_EQ(a.curves.size(), b.curves.size());
  for (size_t c = 0; c < a.curves.size(); ++c) {
    EXPECT_EQ(a.curves[c].shape, b.curves[c].shape);
    expect_series(a.curves[c].latency_us, b.curves[c].latency_us, 5);
    expect_series(a.curves[c].power_w, b.curves[c].power_w, 4);
  }
}
void expect_profile(const KernelProfile& a, const KernelProfile& b) {
  EXPECT_EQ(a.device, b.device);
  EXPECT_EQ(a.power_profile, b.power_profile);
  EXPECT_EQ(a.linear_profile, b.linear_profile);
  EXPECT_EQ(a.memory_bytes_per_s, b.memory_bytes_per_s);
  EXPECT_EQ(a.bf16_flops_per_s, b.bf16_flops_per_s);
  EXPECT_EQ(a.provenance, b.provenance);
  ASSERT_EQ(a.kernels.size(), b.kernels.size());
  for (size_t k = 0; k < a.kernels.size(); ++k) expect_kernel(a.kernels[k], b.kernels[k]);
}

MeasuredKernel product_kernel() {
  MeasuredKernel kernel = test::small_profile().kernels.front();
  kernel.op = Operation::kLinear;
  kernel.kernel = "products";
  kernel.covariance = parts_of(covariance_start(kernel.op));
  kernel.power_limit_w = 0;
  kernel.power_parameters.clear();
  kernel.unseen_shape = kernel.unseen_tokens = {};
  kernel.curves.resize(2);
  for (size_t c = 0; c < 2; ++c) {
    kernel.curves[c].shape = {Operation::kLinear, 1024, 512 << c};
    kernel.curves[c].power_w.clear();
  }
  return kernel;
}

TEST_F(ProfileRoundTrip, KeepsEveryFieldWithinItsDigits) {
  KernelProfile profile = test::small_profile();
  profile.linear_profile = "products.json";
  profile.kernels.front().curves[3].shape.load_exponent = 1.01;
  profile.kernels.front().unseen_shape_power = {0.021, 0.085, true};
  profile.kernels.front().stage_columns = 1024;
  profile.kernels.front().power_least_us = 1;
  profile.kernels.push_back(product_kernel());
  const KernelProfile read = written_and_read(profile);
  expect_profile(read, profile);
  EXPECT_FALSE(std::filesystem::exists(file_.string() + ".part"));
  // What was rounded once stays as it is, to the byte.
  const std::string first = text();
  written_and_read(read);
  EXPECT_EQ(text(), first);
}

TEST_F(ProfileRoundTrip, HolesAreNullAndCurvesStandOnLinesOfTheirOwn) {
  const KernelProfile profile = test::small_profile();
  written_and_read(profile);
  const auto json = nlohmann::json::parse(text());
  const auto& curves = json["kernels"][0]["curves"];
  EXPECT_TRUE(curves[1]["latency_us"][2].is_null());
  EXPECT_TRUE(curves[1]["power_w"][2].is_null());
  EXPECT_TRUE(curves[0]["latency_us"][2].is_number());
  const std::string lines = text();
  EXPECT_EQ(static_cast<size_t>(std::count(lines.begin(), lines.end(), '\n')),
            profile.kernels[0].curves.size() + 6);  // head, kernels, kernel, curves and two ends
}

TEST_F(ProfileRoundTrip, TheShippedProfilesAreAsTheyWouldBeWritten) {
  for (const char* name :
       {"h100-sxm", "h100-sxm-thermoe", "h200-sxm", "a100-sxm", "b200-sxm", "h200-sxm-gemm"}) {
    const auto shipped = test::source_path("data/profiles/" + std::string(name) + ".json");
    written_and_read(read_kernel_profile(shipped));
    std::ifstream stream(shipped, std::ios::binary);
    EXPECT_EQ(text(), std::string(std::istreambuf_iterator<char>(stream), {})) << name;
  }
}

TEST_F(ProfileRoundTrip, AFolderThatIsNotThereIsNamed) {
  try {
    write_kernel_profile(test::small_profile(), "/nonexistent/profile.json");
    FAIL();
  } catch (const IoError& error) {
    EXPECT_NE(std::string(error.what()).find("/nonexistent/profile.json"), std::string::npos);
  }
}

TEST(FindKernel, ByNameOrTheBestMeasured) {
  KernelProfile profile = test::small_profile();
  MeasuredKernel fewer = profile.kernels.front();
  fewer.kernel = "fewer_curves";
  fewer.curves.pop_back();
  profile.kernels.insert(profile.kernels.begin(), fewer);
  profile.kernels.push_back(product_kernel());
  const auto found = [&](Operation op, const char* kernel) {
    return find_kernel(profile, op, "bf16", kernel).kernel;
  };
  EXPECT_EQ(found(Operation::kExperts, ""), "made_up");
  EXPECT_EQ(found(Operation::kExperts, "fewer_curves"), "fewer_curves");
  EXPECT_EQ(found(Operation::kLinear, ""), "products");
  const std::pair<const char*, const char*> missing[] = {{"fp8", ""}, {"bf16", "products"}};
  for (const auto& [dtype, kernel] : missing) {
    try {
      find_kernel(profile, Operation::kExperts, dtype, kernel);
      FAIL() << dtype;
    } catch (const ProfileMiss& miss) {
      const std::string what = miss.what();
      for (const char* part : {"Made-up GPU", "moe", dtype, kernel, "moe bf16 (made_up)",
                               "moe bf16 (fewer_curves)", "gemm bf16 (products)"})
        EXPECT_NE(what.find(part), std::string::npos) << part << ": " << what;
    }
  }
}

}  // namespace
}  // namespace thermoe::cost
