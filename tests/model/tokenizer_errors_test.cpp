// tokenizer.json files that are refused, each with its file and component named.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "model/json_file.h"
#include "model/tokenizer_json.h"
#include "thermoe/error.h"
#include "thermoe/tokenizer.h"

namespace thermoe {
namespace {

using nlohmann::json;

json small() {
  return json::parse(R"({"version": "1.0", "added_tokens": [], "normalizer": null,
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false}, "decoder": {"type": "ByteLevel"},
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]}})");
}

// The error of a tokenizer with the value at a JSON pointer replaced.
std::string error_of(const char* pointer, const json& value) {
  json file = small();
  file[json::json_pointer(pointer)] = value;
  const auto path = std::filesystem::path(testing::TempDir()) / "thermoe_tokenizer_errors.json";
  std::ofstream(path) << file.dump();
  try {
    const Tokenizer tokenizer(path);
  } catch (const IoError& e) {
    const std::string what = e.what();
    EXPECT_TRUE(what.starts_with(path.string() + ": ")) << what;
    EXPECT_EQ(what.find('\n'), std::string::npos) << what;
    return what.substr(path.string().size() + 2);
  }
  return "";
}

void expect_error(const char* pointer, const char* value, const char* part) {
  const std::string error = error_of(pointer, json::parse(value));
  EXPECT_NE(error.find(part), std::string::npos) << pointer << ": " << error;
}

TEST(TokenizerErrors, TheUnchangedFileIsRead) { EXPECT_EQ(error_of("/version", "1.0"), ""); }

TEST(TokenizerErrors, NamesAComponentThatIsNotSupported) {
  EXPECT_EQ(error_of("/pre_tokenizer", json::parse(R"({"type": "Whitespace"})")),
            "pre_tokenizer 'Whitespace' is not supported; supported: Sequence, Split, Digits, "
            "ByteLevel, Metaspace");
  expect_error("/normalizer", R"({"type": "NFKC"})", "normalizer 'NFKC' is not supported");
  expect_error("/normalizer", R"({"type": "Sequence", "normalizers": [{"type": "Lowercase"}]})",
               "normalizer.normalizers[0] 'Lowercase' is not supported");
  expect_error("/decoder", R"({"type": "WordPiece"})", "decoder 'WordPiece' is not supported");
  expect_error("/model/type", R"("Unigram")", "model 'Unigram' is not supported; supported: BPE");
  expect_error("/version", R"("2.0")", "version '2.0' is not supported");
  expect_error("/truncation", R"({"max_length": 5})", "truncation is not supported");
  expect_error("/model/dropout", "0.1", "model.dropout makes encoding random");
  expect_error("/model/end_of_word_suffix", R"("</w>")",
               "model.end_of_word_suffix is not supported");
  expect_error("/model/byte_fallback", "true", "not supported with a ByteLevel");
}

TEST(TokenizerErrors, RefusesPatternsThatTheEnginesReadDifferently) {
  const auto split = [](const char* regex) {
    json node = {{"type", "Split"}, {"behavior", "Isolated"}, {"invert", false}};
    node["pattern"]["Regex"] = regex;
    return error_of("/pre_tokenizer", node);
  };
  EXPECT_EQ(split(R"(\p{N}{1,3}|[^\r\n\p{L}]+|\p{L}++|\s+(?!\S))"), "");
  for (const char* regex : {R"(\h+)", R"(a.b)", R"(^a)", R"(a$)", R"((?<=a)b)", R"((?i:ss))",
                            R"((?i:é))", R"([a[b]])", R"([a&&b])", R"(\p{Lu})", R"(a{,3})",
                            R"(a{2}+)", R"((*UCP)a)", R"([\S])", R"([a-\s])", R"(a\)", R"([ab)"}) {
    const std::string error = split(regex);
    EXPECT_NE(error.find("pre_tokenizer.pattern.Regex"), std::string::npos) << regex << error;
    EXPECT_NE(error.find("not supported"), std::string::npos) << regex << error;
  }
  EXPECT_NE(split("(a").find("is no regular expression"), std::string::npos);
  EXPECT_NE(split("a*").find("matches the empty string"), std::string::npos);
}

TEST(TokenizerErrors, RefusesTextsChangedMidway) {
  expect_error("/pre_tokenizer",
               R"({"type": "Sequence", "pretokenizers": [{"type": "Digits"},
                   {"type": "Metaspace", "replacement": "_"}]})",
               "first pre_tokenizer only");
  expect_error(
      "/pre_tokenizer",
      R"({"type": "Sequence", "pretokenizers": [{"type": "ByteLevel", "add_prefix_space": false},
                   {"type": "Digits"}]})",
      "after a ByteLevel");
  expect_error("/pre_tokenizer", R"({"type": "Metaspace", "replacement": "ab"})",
               "not one character");
  expect_error("/pre_tokenizer",
               R"({"type": "Metaspace", "replacement": "_", "prepend_scheme": "x"})",
               "pre_tokenizer.prepend_scheme 'x'");
}

TEST(TokenizerErrors, ChecksVocabularyAndMerges) {
  expect_error("/model/vocab", R"({"a": 0, "b": 0})", "gives the id 0 to");
  expect_error("/model/vocab", R"({"a": -1})", "model.vocab['a'] is -1, outside 0 to");
  expect_error("/model/vocab", R"({"a": 18446744073709551615})", "outside 0 to");
  expect_error("/model/vocab", R"({"a": 4194304})", "outside 0 to");
  expect_error("/model/vocab", R"({"a": "0"})", "is string, not an integer");
  expect_error("/model/vocab", "[]", "model.vocab is not an object");
  expect_error("/model/merges", R"([["a", "z"]])", "'z', which the vocabulary lacks");
  expect_error("/model/merges", R"(["b a"])", "'ba', which the vocabulary lacks");
  expect_error("/model/merges", R"(["a b c"])", "is not two tokens");
  expect_error("/model/merges", R"([["a"]])", "model.merges[0] is not a pair");
  expect_error("/model/merges", R"([7])", "model.merges[0] is number, not a string");
  expect_error("/model/unk_token", R"("<unk>")", "unk_token '<unk>' is not in the vocabulary");
  expect_error("/model", "null", "has no 'model'");
}

TEST(TokenizerErrors, ChecksAddedTokens) {
  expect_error("/added_tokens", R"([{"id": 4, "content": "x"}])", "'x' has the id 4, but");
  expect_error("/added_tokens", R"([{"id": 1, "content": "a"}])", "'a' has the id 1, but");
  expect_error("/added_tokens", R"([{"id": 3, "content": "x"}, {"id": 3, "content": "x"}])",
               "again");
  expect_error("/added_tokens", R"([{"id": 3, "content": ""}])", "is empty");
  expect_error("/added_tokens", R"([{"content": "x"}])", "added_tokens[0] has no 'id'");
  expect_error("/added_tokens", R"({})", "added_tokens is object, not a list");
}

TEST(TokenizerErrors, MissingFilesAndOtherJson) {
  EXPECT_THROW(Tokenizer("/nonexistent/folder"), IoError);
  EXPECT_THROW(Tokenizer(THERMOE_SOURCE_DIR "/src"), IoError);
  EXPECT_THROW(read_tokenizer(json::parse("[]"), "x"), IoError);
  EXPECT_THROW(read_tokenizer(json::parse("{}"), "x"), IoError);
}

}  // namespace
}  // namespace thermoe
