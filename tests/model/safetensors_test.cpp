#include "model/safetensors.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <gtest/gtest.h>

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "model_files.h"

namespace thermoe {
namespace {

using test::io_error_of;
using test::safetensors_bytes;

SafetensorsHeader parse(const std::string& file) {
  return parse_safetensors_header(std::as_bytes(std::span(file)), file.size(), "m.safetensors");
}

// The error of a file with this header and `data_bytes` bytes of data.
std::string error_of(const std::string& header, size_t data_bytes) {
  return io_error_of([&] { parse(safetensors_bytes(header, std::string(data_bytes, 'x'))); });
}

void expect_error(const std::string& header, size_t data_bytes, const std::string& part) {
  const std::string error = error_of(header, data_bytes);
  EXPECT_NE(error.find(part), std::string::npos) << error;
  EXPECT_EQ(error.rfind("m.safetensors: ", 0), 0u) << error;
  EXPECT_NE(error.find("again"), std::string::npos) << "no remedy: " << error;
}

std::string entry(const std::string& name, const std::string& dtype, const std::string& shape,
                  const std::string& offsets) {
  return fmt::format(R"("{}":{{"dtype":"{}","shape":{},"data_offsets":{}}})", name, dtype, shape,
                     offsets);
}

std::string object(const std::vector<std::string>& entries) {
  return fmt::format("{{{}}}", fmt::join(entries, ","));
}

TEST(Safetensors, ReadsTensorsInAnyOrderWithMetadataAndPadding) {
  const std::string header =
      object({R"("__metadata__":{"format":"pt"})", entry("b", "F32", "[2]", "[12,20]"),
              entry("a", "BF16", "[2,3]", "[0,12]"), entry("none", "F16", "[0,7]", "[12,12]"),
              entry("scalar", "I64", "[]", "[20,28]")}) +
      "   ";
  const auto tensors = parse(safetensors_bytes(header, std::string(28, 'x')));
  ASSERT_EQ(tensors.size(), 4u);
  const StoredTensor& a = tensors.at("a");
  EXPECT_EQ(a.dtype, DType::kBf16);
  EXPECT_EQ(a.shape, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(a.begin_byte, 8 + header.size());
  EXPECT_EQ(a.size_bytes, 12u);
  EXPECT_EQ(tensors.at("b").begin_byte, 8 + header.size() + 12);
  EXPECT_EQ(tensors.at("none").size_bytes, 0u);
  EXPECT_FALSE(tensors.at("scalar").dtype.has_value());
  EXPECT_EQ(tensors.at("scalar").dtype_name, "I64");
}

TEST(Safetensors, RefusesTruncatedFiles) {
  const std::string header = object({entry("a", "F32", "[4]", "[0,16]")});
  const std::string file = safetensors_bytes(header, std::string(16, 'x'));
  EXPECT_EQ(parse(file).size(), 1u);
  for (size_t size = 0; size < file.size(); ++size) {  // every prefix
    const std::string error = io_error_of([&] { parse(file.substr(0, size)); });
    EXPECT_NE(error.find("the file ends after " + std::to_string(size)), std::string::npos);
    EXPECT_NE(error.find("download it again"), std::string::npos);
  }
  EXPECT_EQ(io_error_of([&] { parse(file.substr(0, file.size() - 5)); }),
            "m.safetensors: the file ends after " + std::to_string(file.size() - 5) + " of " +
                std::to_string(file.size()) + " bytes: download it again");
}

TEST(Safetensors, RefusesWhatIsNoSafetensorsFile) {
  const std::string text =
      "<!DOCTYPE html><html>an error page, much longer than eight bytes</html>";
  EXPECT_NE(io_error_of([&] { parse(text); }).find("does not begin with a safetensors header"),
            std::string::npos);
  const std::string pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n";
  EXPECT_NE(io_error_of([&] { parse(pointer); }).find("git lfs pull"), std::string::npos);
  expect_error("[]", 0, "does not begin with a safetensors header");
  expect_error(" {}", 0, "does not begin with a safetensors header");
  expect_error("{\"a\":", 0, "is not valid JSON");
}

TEST(Safetensors, RefusesALyingHeader) {
  const auto one = [](const std::string& dtype, const std::string& shape,
                      const std::string& offsets) {
    return object({entry("w", dtype, shape, offsets)});
  };
  expect_error(one("F32", "[4]", "[0,12]"), 12, "needs 16 bytes by its shape");
  expect_error(one("F32", "[4]", "[0,16]"), 20, "its header describes");
  expect_error(one("F32", "[4]", "[4,20]"), 20, "leaves a hole before it");
  expect_error(one("F32", "[4]", "[16,0]"), 16, "ends before it begins");
  expect_error(one("F32", "[-4]", "[0,16]"), 16, "dimension that is no natural number");
  expect_error(one("F32", "[4.0]", "[0,16]"), 16, "dimension that is no natural number");
  expect_error(one("F32", "[4]", "[0,18446744073709551615]"), 16, "data offset that is no natural");
  expect_error(one("F32", "[4]", "[0]"), 16, "has no data_offsets [begin, end]");
  expect_error(one("F32", "{}", "[0,16]"), 16, "has no shape");
  // 2^62 x 4 elements: the product wraps to 0.
  expect_error(one("U8", "[4611686018427387904,4]", "[0,0]"), 0, "too large for any file");
  expect_error("{\"w\":3}", 0, "has no dtype, shape and data_offsets");
  expect_error("{\"w\":{\"dtype\":7}}", 0, "has no dtype");
  expect_error("{\"__metadata__\":{\"a\":1}}", 0, "__metadata__ is not a map of strings");
}

TEST(Safetensors, RefusesOverlapsHolesAndNamesGivenTwice) {
  const std::string a = entry("a", "F32", "[2]", "[0,8]");
  expect_error(object({a, entry("b", "F32", "[2]", "[4,12]")}), 12, "overlaps another");
  expect_error(object({a, entry("b", "F32", "[2]", "[0,8]")}), 8, "overlaps another");
  expect_error(object({a, entry("b", "F32", "[1]", "[12,16]")}), 16, "leaves a hole");
  expect_error(object({a, a}), 8, "key 'a' is given twice");
}

TEST(Safetensors, KeepsTypesItCannotUseForLater) {
  const auto tensors = parse(safetensors_bytes(
      object({entry("a", "F8_E4M3", "[3]", "[0,3]"), entry("b", "NEW9", "[3]", "[3,8]")}),
      std::string(8, 'x')));
  EXPECT_FALSE(tensors.at("a").dtype.has_value());
  EXPECT_EQ(tensors.at("b").dtype_name, "NEW9");
  expect_error(object({entry("a", "F8_E4M3", "[3]", "[0,4]")}), 4, "needs 3 bytes");
  expect_error(object({entry("a", "F4", "[3]", "[0,1]")}), 1, "needs");
}

TEST(Safetensors, KeepsNamesOnOneLine) {
  expect_error(object({entry("a\\nb", "F32", "[4]", "[0,12]")}), 12, "tensor 'a\\x0ab'");
}

}  // namespace
}  // namespace thermoe
