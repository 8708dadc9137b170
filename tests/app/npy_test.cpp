// The .npy format, against files put together here byte by byte.
#include "npy.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "npy_files.h"
#include "thermoe/error.h"

namespace thermoe::app {
namespace {

FloatArray parse(const std::string& file) {
  return parse_npy(std::as_bytes(std::span(file)), "a.npy");
}

// What parsing `file` is refused with.
std::string npy_refusal(const std::string& file) {
  try {
    parse(file);
  } catch (const IoError& error) {
    EXPECT_EQ(error.path(), "a.npy");
    return error.what();
  }
  return "accepted";
}

#define EXPECT_NAMES(file, text) \
  EXPECT_NE(npy_refusal(file).find(text), std::string::npos) << npy_refusal(file)

const std::string kSixFloats = bytes_of<float>({0, 1, 2, 3, 4, 5.5f});

TEST(Npy, ReadsEveryVersionOfTheFormat) {
  for (const int version : {1, 2, 3}) {
    const FloatArray array = parse(npy("<f4", "(2, 3)", kSixFloats, version));
    EXPECT_EQ(array.shape, (std::vector<int64_t>{2, 3}));
    EXPECT_EQ(array.values, (std::vector<float>{0, 1, 2, 3, 4, 5.5f}));
  }
  EXPECT_NAMES(npy("<f4", "(2, 3)", kSixFloats, 4), "version 4.0");
}

TEST(Npy, ReadsEveryType) {
  // 1, -2, 65504 (the largest), 2^-24 (the smallest) in binary16
  EXPECT_EQ(parse(npy("<f2", "(4,)", bytes_of<uint16_t>({0x3c00, 0xc000, 0x7bff, 0x0001}))).values,
            (std::vector<float>{1, -2, 65504, std::ldexp(1.0f, -24)}));
  EXPECT_EQ(parse(npy("<f8", "(2,)", bytes_of<double>({0.1, -3}))).values,
            (std::vector<float>{0.1f, -3}));
  for (const char* descr : {"<u2", "<V2", "|V2"})  // 1 and -2.5 in bfloat16
    EXPECT_EQ(parse(npy(descr, "(2,)", bytes_of<uint16_t>({0x3f80, 0xc020}))).values,
              (std::vector<float>{1, -2.5f}));
  EXPECT_TRUE(std::isnan(parse(npy("<f2", "()", bytes_of<uint16_t>({0x7e00}))).values.at(0)));
}

TEST(Npy, ReadsTheDictionaryInAnyOrderAndWithoutElements) {
  const std::string dictionary = R"({"shape":(1,2,3,),'fortran_order' : False , "descr":"<f4"})";
  EXPECT_EQ(parse(npy_of(dictionary, kSixFloats)).shape, (std::vector<int64_t>{1, 2, 3}));
  EXPECT_EQ(parse(npy("<f4", "(0, 7)", "")).shape, (std::vector<int64_t>{0, 7}));
}

TEST(Npy, RefusesWhatItWouldMisread) {
  EXPECT_NAMES(npy(">f4", "(2, 3)", kSixFloats), "big-endian");
  EXPECT_NAMES(npy("<i4", "(2, 3)", kSixFloats), "'<i4'");
  EXPECT_NAMES(npy_of("{'descr': '<f4', 'fortran_order': True, 'shape': (2, 3), }", kSixFloats),
               "np.ascontiguousarray");
  EXPECT_NAMES(
      npy_of("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (6,), }", kSixFloats),
      "named fields");
  EXPECT_NAMES("PK\x03\x04 an archive", "np.save");
  EXPECT_NAMES("", "no .npy file");
  EXPECT_NAMES("0.1, 0.2", "no .npy file");
}

TEST(Npy, RefusesHeadersThatLie) {
  EXPECT_NAMES(npy("<f4", "(2, 4)", kSixFloats),
               "holds 24 bytes of elements where its shape (2, 4)");
  EXPECT_NAMES(npy("<f4", "(5,)", kSixFloats), "it holds more");
  EXPECT_NAMES(npy("<f4", "(4294967296, 4294967296)", kSixFloats), "more than any file holds");
  EXPECT_NAMES(npy("<f4", "(-2, -3)", kSixFloats), "no natural number");
  EXPECT_NAMES(npy("<f4", "(99999999999999999999,)", kSixFloats), "no natural number");
  EXPECT_NAMES(npy("<f4", "(6)", kSixFloats), "no tuple");
  EXPECT_NAMES(npy("<f4", "(2 3)", kSixFloats), "without commas");
}

TEST(Npy, RefusesBrokenDictionaries) {
  for (const char* dictionary :
       {"", "{}", "{'descr': '<f4', 'fortran_order': False, 'shape': (6,)",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (6,), } 1",
        "{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (6,), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (6,), 'extra': 1, }",
        "{'descr': '<f4', 'fortran_order': 0, 'shape': (6,), }",
        "{'descr': '<f4, 'fortran_order': False, 'shape': (6,), }",
        "{'descr': '\\x3cf4', 'fortran_order': False, 'shape': (6,), }"})
    EXPECT_NAMES(npy_of(dictionary, kSixFloats), "the .npy header has");
}

TEST(Npy, EveryTruncationIsRefused) {
  const std::string file = npy("<f4", "(2, 3)", kSixFloats);
  for (size_t bytes = 0; bytes < file.size(); ++bytes)
    EXPECT_NE(npy_refusal(file.substr(0, bytes)), "accepted") << bytes;
  EXPECT_EQ(npy_refusal(file), "accepted");
}

TEST(Npy, WritesWhatItReads) {
  const std::vector<int64_t> shape = {2, 1, 3};
  const std::vector<float> values = {1, -2, 0.1f, 1e-40f, std::numeric_limits<float>::max(), 0};
  const std::string file = npy_bytes(shape, std::span<const float>(values));
  EXPECT_EQ((file.size() - values.size() * 4) % 64, 0u);  // aligned, as NumPy writes it
  EXPECT_EQ(parse(file).shape, shape);
  EXPECT_EQ(parse(file).values, values);
  const std::vector<int64_t> one = {6};
  const std::vector<int32_t> ids = {-1, 0, 1, 2, 3, 4};
  const std::string integers = npy_bytes(one, std::span<const int32_t>(ids));
  EXPECT_NAMES(integers, "'<i4'");
  EXPECT_NE(integers.find("'shape': (6,)"), std::string::npos);
  EXPECT_EQ(integers.substr(integers.size() - 24), bytes_of<int32_t>({-1, 0, 1, 2, 3, 4}));
}

}  // namespace
}  // namespace thermoe::app
