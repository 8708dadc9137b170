// Files of the writer, read back by the reader.
#include "model/safetensors_writer.h"

#include <gtest/gtest.h>

#include "model/model_files.h"
#include "model/safetensors.h"

namespace thermoe {
namespace {

TEST(SafetensorsWriter, WritesWhatTheReaderReads) {
  const test::TemporaryDirectory folder;
  const auto path = folder.path() / "a.safetensors";
  const std::vector<uint8_t> bytes(64, 7);
  const std::vector<float> floats = {1.5f, -2, 3};
  const std::vector<TensorToWrite> tensors = {
      {"a \"name\"", "U8", {2, 32}, bytes.data(), bytes.size()},
      {"empty", "F32", {0, 4}, nullptr, 0},
      {"floats", "F32", {3}, floats.data(), floats.size() * sizeof(float)}};
  write_safetensors(path, tensors);
  const std::string file = test::read_all(path);
  const SafetensorsHeader header =
      parse_safetensors_header(std::as_bytes(std::span(file)), file.size(), path.string());
  ASSERT_EQ(header.size(), 3u);
  const StoredTensor& first = header.at("a \"name\"");
  EXPECT_EQ(first.dtype_name, "U8");
  EXPECT_EQ(first.begin_byte % 64, 0u);
  EXPECT_EQ(file.substr(first.begin_byte, first.size_bytes), std::string(64, 7));
  const StoredTensor& last = header.at("floats");
  EXPECT_EQ(last.shape, std::vector<int64_t>{3});
  EXPECT_EQ(file.substr(last.begin_byte, last.size_bytes), test::bytes_of(floats));
  EXPECT_EQ(header.at("empty").size_bytes, 0u);
}

TEST(SafetensorsWriter, SaysWhereItCanNotWrite) {
  const std::string message =
      test::io_error_of([] { write_safetensors("/nonexistent-folder/a.safetensors", {}); });
  EXPECT_NE(message.find("cannot be written"), std::string::npos) << message;
}

}  // namespace
}  // namespace thermoe
