#include "model/json_file.h"

#include <gtest/gtest.h>

#include <string>

#include "thermoe/error.h"

namespace thermoe {
namespace {

std::string error_of(const std::string& text) {
  try {
    parse_json(text, "dir/some.json");
  } catch (const IoError& e) {
    return e.what();
  }
  return "";
}

TEST(JsonFile, ParsesWhatPublishedFilesHold) {
  const auto value = parse_json(R"({"a": {"x": 1}, "b": {"x": [1, 2.5, null, "é"]}})", "p");
  EXPECT_EQ(value["b"]["x"][3], "é");
}

TEST(JsonFile, NamesTheFileAndTheByteOfASyntaxError) {
  EXPECT_EQ(error_of("{\"a\": tru}"),
            "dir/some.json: is not valid JSON at byte 10 of 10: download it again");
  EXPECT_NE(error_of("").find("dir/some.json: is not valid JSON"), std::string::npos);
  EXPECT_NE(error_of("{} {}").find("is not valid JSON"), std::string::npos);
  EXPECT_NE(error_of("\"\xff\"").find("is not valid JSON"), std::string::npos);
  EXPECT_NE(error_of("1e999").find("number out of range"), std::string::npos);
}

TEST(JsonFile, RefusesAKeyGivenTwiceInOneObjectOnly) {
  EXPECT_NE(error_of(R"({"a": 1, "b": {"c": 2}, "a": 3})").find("key 'a' is given twice"),
            std::string::npos);
  EXPECT_EQ(error_of(R"([{"a": 1}, {"a": {"a": 2}}])"), "");
}

TEST(JsonFile, RefusesDeepNesting) {
  EXPECT_NE(error_of(std::string(100000, '[')).find("nests deeper"), std::string::npos);
  EXPECT_EQ(error_of(std::string(60, '[') + std::string(60, ']')), "");
}

TEST(JsonFile, NamesAMissingFileAndADirectory) {
  EXPECT_THROW(read_json_file("/nonexistent/file.json"), IoError);
  EXPECT_THROW(read_file(THERMOE_SOURCE_DIR, 10), IoError);
  EXPECT_THROW(read_file(THERMOE_SOURCE_DIR "/LICENSE", 10), IoError);
}

TEST(JsonFile, PrintableKeepsMessagesOnOneLine) {
  EXPECT_EQ(printable("a\nb"), "a\\x0ab");
  EXPECT_EQ(printable(std::string(300, 'x')).size(), 203u);
}

}  // namespace
}  // namespace thermoe
