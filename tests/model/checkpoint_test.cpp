#include "thermoe/checkpoint.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "model/finite.h"
#include "model_files.h"

namespace thermoe {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using test::bytes_of;
using test::io_error_of;
using test::safetensors_bytes;
using test::TemporaryDirectory;
using test::write_file;

const fs::path kGolden = fs::path(THERMOE_SOURCE_DIR) / "tests/golden/models";

// A copy of a golden model, to be damaged.
struct Copy : TemporaryDirectory {
  explicit Copy(const char* model) {
    fs::copy(kGolden / model, path(), fs::copy_options::recursive);
  }
  // The error of opening it, and if that succeeds, of check_finite().
  std::string error() const {
    return io_error_of([&] { Checkpoint(path()).check_finite(); });
  }
};

// A checkpoint of hand-made tensors behind a valid configuration.
struct HandMade : TemporaryDirectory {
  HandMade(const json& header, const std::string& data, size_t align = 8) {
    write_file(path() / "config.json", R"({"model_type": "qwen3_moe"})");
    std::string text = header.dump();
    while (text.size() % 8 != align % 8) text += ' ';
    write_file(path() / "model.safetensors", safetensors_bytes(text, data));
  }
};

json tensor(const char* dtype, const std::vector<int>& shape, int begin, int end) {
  return {{"dtype", dtype}, {"shape", shape}, {"data_offsets", {begin, end}}};
}

void expect_parts(const std::string& error, const std::vector<std::string>& parts) {
  for (const auto& part : parts) EXPECT_NE(error.find(part), std::string::npos) << error;
}

TEST(Checkpoint, OpensNanoAndFindsItFinite) {
  const Checkpoint nano(fs::path(THERMOE_SOURCE_DIR) / "models/nano");
  EXPECT_EQ(nano.config().layers, 6);
  EXPECT_TRUE(nano.contains("model.layers.5.mlp.experts.31.up_proj.weight"));
  EXPECT_FALSE(nano.contains("lm_head.weight"));
  const WeightView embedding = nano.weight("model.embed_tokens.weight", 4096, 256);
  EXPECT_EQ(embedding.dtype, DType::kBf16);
  // Six layers of 32 x 3 experts, gate, two norms, q k v o, two QK-norms; embedding, last norm.
  EXPECT_EQ(nano.names().size(), 6u * (32 * 3 + 9) + 2);
  nano.check_finite();
}

TEST(Checkpoint, OpensEveryGoldenModel) {
  int models = 0;
  for (const auto& entry : fs::directory_iterator(kGolden)) {
    const Checkpoint checkpoint(entry.path());
    const ModelConfig& c = checkpoint.config();
    checkpoint.check_finite();
    checkpoint.weight("model.embed_tokens.weight", c.vocab_size, c.hidden_size);
    EXPECT_EQ(checkpoint.contains("lm_head.weight"), !c.tied_embeddings) << entry.path();
    ++models;
  }
  EXPECT_EQ(models, 7);
}

TEST(Checkpoint, GivesTheStoredValues) {
  const std::vector<float> f32 = {1.5f, -2.0f};
  const std::vector<uint16_t> f16 = {0x3e00, 0xc000, 0x0001};   // 1.5, -2, 2^-24
  const std::vector<uint16_t> bf16 = {0x3fc0, 0xc000, 0x7f7f};  // 1.5, -2, the largest
  const HandMade files({{"a", tensor("F32", {2}, 0, 8)},
                        {"b", tensor("F16", {3}, 8, 14)},
                        {"c", tensor("BF16", {1, 3}, 14, 20)}},
                       bytes_of(f32) + bytes_of(f16) + bytes_of(bf16));
  const Checkpoint checkpoint(files.path());
  EXPECT_EQ(checkpoint.names(), (std::vector<std::string>{"a", "b", "c"}));
  EXPECT_EQ(checkpoint.vector("a", 2), f32);
  EXPECT_EQ(checkpoint.vector("b", 3), (std::vector<float>{1.5f, -2.0f, std::ldexp(1.0f, -24)}));
  const TensorView c = checkpoint.tensor("c");
  EXPECT_EQ(c.shape, (std::vector<int64_t>{1, 3}));
  std::vector<float> values(3);
  to_f32(c.data, c.dtype, values);
  EXPECT_EQ(values, (std::vector<float>{1.5f, -2.0f, std::bit_cast<float>(0x7f7f0000u)}));
  checkpoint.check_finite();
}

TEST(Checkpoint, NamesMissingAndMisshapenTensors) {
  const Copy copy("mixtral");
  const Checkpoint checkpoint(copy.path());
  expect_parts(io_error_of([&] { checkpoint.tensor("model.none"); }),
               {copy.path().string(), "no tensor 'model.none'", "download it again"});
  expect_parts(io_error_of([&] { checkpoint.weight("lm_head.weight", 48, 61); }),
               {"model.safetensors", "'lm_head.weight' has shape [61, 48]", "[48, 61]"});
  expect_parts(io_error_of([&] { checkpoint.weight("model.norm.weight", 48, 1); }),
               {"has shape [48]", "[48, 1]"});
  expect_parts(io_error_of([&] { checkpoint.vector("model.norm.weight", 47); }),
               {"has shape [48]", "[47]"});
}

TEST(Checkpoint, RefusesAnUnsupportedTypeOnlyWhenUsed) {
  const HandMade files({{"scale", tensor("F8_E4M3", {4}, 0, 4)}, {"w", tensor("F32", {1}, 4, 8)}},
                       std::string(8, '\0'));
  const Checkpoint checkpoint(files.path());
  checkpoint.check_finite();
  EXPECT_EQ(checkpoint.vector("w", 1)[0], 0.0f);
  expect_parts(io_error_of([&] { checkpoint.tensor("scale"); }),
               {"model.safetensors", "'scale' is stored as F8_E4M3", "use a checkpoint in one"});
}

TEST(Checkpoint, RefusesUnalignedTensorsWhenUsed) {
  const HandMade files({{"w", tensor("F32", {1}, 0, 4)}}, std::string(4, '\0'), 3);
  const Checkpoint checkpoint(files.path());
  expect_parts(io_error_of([&] { checkpoint.tensor("w"); }),
               {"'w' is not aligned", "save the file once with the safetensors library"});
}

TEST(Checkpoint, NamesATruncatedFile) {
  const Copy copy("mixtral");
  const fs::path file = copy.path() / "model.safetensors";
  const auto size = fs::file_size(file);
  fs::resize_file(file, size - 1000);
  expect_parts(copy.error(), {file.string(),
                              "the file ends after " + std::to_string(size - 1000) + " of " +
                                  std::to_string(size) + " bytes",
                              "download it again"});
  fs::resize_file(file, 0);
  expect_parts(copy.error(), {file.string(), "the file ends after 0 bytes", "download it again"});
}

TEST(Checkpoint, NamesAMissingShard) {
  const Copy copy("qwen3-tied");
  const fs::path shard = copy.path() / "model-00002-of-00003.safetensors";
  fs::remove(shard);
  expect_parts(copy.error(), {shard.string(), "shard is missing", "download it"});
}

TEST(Checkpoint, NamesATensorThatItsShardLacks) {
  const Copy copy("qwen3-tied");
  const fs::path index = copy.path() / "model.safetensors.index.json";
  json value = json::parse(test::read_all(index));
  value["weight_map"]["model.phantom"] = "model-00001-of-00003.safetensors";
  write_file(index, value.dump());
  expect_parts(copy.error(), {"model-00001-of-00003.safetensors", "lacks tensor 'model.phantom'",
                              "download both again"});
}

TEST(Checkpoint, RefusesAnIndexThatLeadsElsewhere) {
  const Copy copy("qwen3-tied");
  const fs::path index = copy.path() / "model.safetensors.index.json";
  for (const char* file : {"../model.safetensors", "/etc/hostname", "..", ""}) {
    write_file(index, json{{"weight_map", {{"w", file}}}}.dump());
    expect_parts(copy.error(), {index.string(), "gives tensor 'w' no plain file name"});
  }
  write_file(index, R"({"weight_map": {"w": "model-00001-of-00003.safetensors\u0000"}})");
  expect_parts(copy.error(), {index.string(), "no plain file name"});
  write_file(index, R"({"weight_map": {"w": 7}})");
  expect_parts(copy.error(), {index.string(), "no plain file name"});
  write_file(index, R"({"metadata": {}})");
  expect_parts(copy.error(), {index.string(), "has no weight_map", "download it again"});
}

TEST(Checkpoint, SaysWhatIsMissingWhereThereAreNoWeights) {
  const Copy copy("mixtral");
  fs::remove(copy.path() / "model.safetensors");
  write_file(copy.path() / "pytorch_model.bin", "x");
  expect_parts(copy.error(), {copy.path().string(), "neither model.safetensors nor", "convert"});
}

TEST(Checkpoint, FindsOneNanInAnyType) {
  struct Case {
    const char* model;
    const char* file;
    std::string element;  // little-endian
    const char* what;
  };
  const Case cases[] = {
      {"mixtral", "model.safetensors", std::string("\x00\x00\xc0\x7f", 4), "a NaN"},
      {"mixtral", "model.safetensors", std::string("\x00\x00\x80\xff", 4), "an infinity"},
      {"mixtral-tied", "model-00003-of-00003.safetensors", std::string("\xc0\x7f", 2), "a NaN"},
      {"mixtral-tied", "model-00003-of-00003.safetensors", std::string("\x80\x7f", 2), "an inf"},
      {"qwen3-sparse-step", "model.safetensors", std::string("\x01\x7c", 2), "a NaN"},
      {"qwen3-sparse-step", "model.safetensors", std::string("\x00\xfc", 2), "an infinity"},
  };
  for (const Case& c : cases) {
    const Copy copy(c.model);
    const fs::path file = copy.path() / c.file;
    std::string bytes = test::read_all(file);
    bytes.replace(bytes.size() - c.element.size(), c.element.size(),
                  c.element);  // the last element
    write_file(file, bytes);
    expect_parts(copy.error(),
                 {file.string(), c.what, "tensor 'model.", "download the file again"});
  }
}

TEST(Finite, FindsTheFirstBadElementWhereverItIs) {
  constexpr size_t kCount = 10'000;  // more than two blocks
  for (const size_t place : {size_t{0}, size_t{4095}, size_t{4096}, size_t{9999}}) {
    std::vector<float> f32(kCount, std::numeric_limits<float>::max());
    f32[place] = -std::numeric_limits<float>::infinity();
    EXPECT_EQ(first_not_finite(f32.data(), DType::kF32, kCount), place);
    EXPECT_FALSE(is_nan(f32.data(), DType::kF32, place));
    std::vector<uint16_t> f16(kCount, 0xfbff);  // -65504, the lowest
    EXPECT_EQ(first_not_finite(f16.data(), DType::kF16, kCount), kCount);
    f16[place] = 0x7c01;
    EXPECT_EQ(first_not_finite(f16.data(), DType::kF16, kCount), place);
    EXPECT_TRUE(is_nan(f16.data(), DType::kF16, place));
    std::vector<uint16_t> bf16(kCount, 0xff7f);
    EXPECT_EQ(first_not_finite(bf16.data(), DType::kBf16, kCount), kCount);
    bf16[place] = 0xff80;
    EXPECT_EQ(first_not_finite(bf16.data(), DType::kBf16, kCount), place);
  }
}

TEST(Finite, ConvertsEveryHalfExactly) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    const int exponent = (half >> 10) & 31;
    const int mantissa = half & 1023;
    if (exponent == 31) continue;  // not finite: above
    const double magnitude =
        exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
    float value = 0;
    to_f32(&half, DType::kF16, {&value, 1});
    ASSERT_EQ(value, half & 0x8000 ? -magnitude : magnitude) << bits;
    ASSERT_EQ(std::signbit(value), (half & 0x8000) != 0);
  }
}

}  // namespace
}  // namespace thermoe
