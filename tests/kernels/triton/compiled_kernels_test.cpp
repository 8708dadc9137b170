// Compiled kernels before they are launched: what a folder of them must hold, which one a device
// gets, and that those of this build take what the launches give.
#include "kernels/triton/compiled_kernels.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <zlib.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "thermoe/error.h"

namespace thermoe::triton {
namespace {

const std::string kCubin =
    "\x7f"
    "ELF, or so";

nlohmann::json manifest() {
  const auto crc = crc32_z(0, reinterpret_cast<const Bytef*>(kCubin.data()), kCubin.size());
  const auto kernel = [&](int arch, const char* parameters) {
    return nlohmann::json{{"name", "scale"},       {"entry", "scale"},
                          {"arch", arch},          {"parameters", parameters},
                          {"hidden_pointers", 2},  {"warps", 4},
                          {"shared_bytes", 1024},  {"constants", {{"BLOCK", 64}}},
                          {"file", "scale.cubin"}, {"crc32", fmt::format("{:08x}", crc)}};
  };
  return {{"schema", "thermoe-triton-kernels"},
          {"version", 1},
          {"triton_version", kTritonVersion},
          {"sources_crc32", "00000000"},
          {"kernels", {kernel(80, "ppi"), kernel(90, "ppi")}}};
}

class Folder : public testing::Test {
 protected:
  Folder() {
    const auto* test = testing::UnitTest::GetInstance()->current_test_info();
    path_ = std::filesystem::path(testing::TempDir()) / (std::string("triton_") + test->name());
    std::filesystem::create_directories(path_);
    write("scale.cubin", kCubin);
    write("manifest.json", manifest().dump());
  }
  ~Folder() override { std::filesystem::remove_all(path_); }
  void write(const char* name, const std::string& content) const {
    std::ofstream(path_ / name, std::ios::binary) << content;
  }
  void expect_refused(const std::string& words) const {
    try {
      read_kernels(path_);
      FAIL() << "read";
    } catch (const IoError& error) {
      EXPECT_NE(std::string(error.what()).find(words), std::string::npos) << error.what();
    }
  }
  std::filesystem::path path_;
};

TEST_F(Folder, IsReadWhole) {
  const KernelSet set = read_kernels(path_);
  ASSERT_EQ(set.kernels.size(), 2u);
  EXPECT_EQ(set.kernels[1].cubin, kCubin);
  EXPECT_EQ(set.kernels[1].constant("BLOCK"), 64);
  EXPECT_THROW(set.kernels[1].constant("ROWS"), InvalidArgument);
}

TEST_F(Folder, WithATruncatedCubinIsRefused) {
  write("scale.cubin", kCubin.substr(0, 4));
  expect_refused("scale.cubin: is not the cubin that the manifest names");
}

TEST_F(Folder, WithoutACubinIsRefused) {
  std::filesystem::remove(path_ / "scale.cubin");
  expect_refused("scale.cubin: can't be read");
}

TEST_F(Folder, OfAnotherTritonIsRefused) {
  nlohmann::json other = manifest();
  other["triton_version"] = "3.9.0";
  write("manifest.json", other.dump());
  expect_refused("compiled by Triton 3.9.0");
}

TEST_F(Folder, WithABrokenManifestIsRefused) {
  write("manifest.json", manifest().dump().substr(0, 40));
  expect_refused("manifest.json");
  nlohmann::json other = manifest();
  other["kernels"][0].erase("warps");
  write("manifest.json", other.dump());
  expect_refused("warps");
}

TEST_F(Folder, GivesADeviceItsOwnKernels) {
  const KernelSet set = read_kernels(path_);
  EXPECT_EQ(find_kernel(set, "scale", 90, "ppi").arch, 90);
  EXPECT_EQ(find_kernel(set, "scale", 86, "ppi").arch, 80);
  EXPECT_THROW(find_kernel(set, "scale", 75, "ppi"), InvalidArgument);   // none older
  EXPECT_THROW(find_kernel(set, "scale", 100, "ppi"), InvalidArgument);  // nor of its major version
  EXPECT_THROW(find_kernel(set, "add", 90, "ppi"), InvalidArgument);
}

TEST_F(Folder, OfOtherSourcesIsRefusedAtItsParameters) {
  const KernelSet set = read_kernels(path_);
  try {
    find_kernel(set, "scale", 90, "ppii");
    FAIL() << "taken";
  } catch (const InvalidArgument& error) {
    EXPECT_NE(std::string(error.what()).find("other sources"), std::string::npos) << error.what();
  }
  nlohmann::json other = manifest();
  other["kernels"][0]["hidden_pointers"] = 1;
  write("manifest.json", other.dump());
  EXPECT_THROW(find_kernel(read_kernels(path_), "scale", 80, "ppi"), InvalidArgument);
}

TEST(BuiltInKernels, AreThereOrSayWhatIsMissing) {
  const KernelSet& set = built_in_kernels();
  if (set.kernels.empty()) {
    EXPECT_NE(set.problem.find("triton=="), std::string::npos);
    GTEST_SKIP() << set.problem;
  }
  EXPECT_EQ(set.triton_version, kTritonVersion);
  for (const CompiledKernel& kernel : set.kernels) {
    EXPECT_EQ(kernel.cubin.substr(1, 3), "ELF") << kernel.name;
    EXPECT_EQ(kernel.hidden_pointers, kHiddenPointers) << kernel.name;
    EXPECT_NE(kernel.cubin.find(kernel.entry), std::string::npos) << kernel.name;
  }
}

}  // namespace
}  // namespace thermoe::triton
