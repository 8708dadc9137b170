// The tokenizer against what Hugging Face's tokenizers does (tests/golden/make_tokenizers.py).
#include "thermoe/tokenizer.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include "model/json_file.h"
#include "model/tokenizer_text.h"
#include "thermoe/error.h"

namespace thermoe {
namespace {

const std::string kRoot = THERMOE_SOURCE_DIR;
const std::string kGoldenTokenizers = kRoot + "/tests/golden/tokenizers/";

std::string bytes_of_hex(const std::string& hex) {
  std::string out;
  for (size_t i = 0; i + 1 < hex.size(); i += 2) {
    out += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
  }
  return out;
}

uint64_t fnv1a64(const std::vector<int32_t>& ids) {
  uint64_t hash = 0xCBF29CE484222325u;
  for (const int32_t id : ids) {
    for (int shift = 0; shift < 32; shift += 8) {
      hash = (hash ^ (static_cast<uint32_t>(id) >> shift & 0xFF)) * 0x100000001B3u;
    }
  }
  return hash;
}

class TokenizerGolden : public testing::TestWithParam<std::string> {};

TEST_P(TokenizerGolden, EncodesAndDecodesAsTheReference) {
  const Tokenizer tokenizer(kGoldenTokenizers + GetParam());
  const auto cases = read_json_file(kGoldenTokenizers + GetParam() + "/cases.json");
  ASSERT_GT(cases.size(), 200u);
  for (const auto& row : cases) {
    const auto ids = row[1].get<std::vector<int32_t>>();
    if (!row[0].is_null()) {
      const std::string text =
          row[0].is_string() ? row[0].get<std::string>() : bytes_of_hex(row[0]["hex"]);
      std::vector<int64_t> ends;
      EXPECT_EQ(tokenizer.encode(text, ends), ids) << row[0];
      EXPECT_EQ(tokenizer.encode(text), ids) << row[0];
      ASSERT_EQ(ends.size(), ids.size());
      EXPECT_TRUE(std::is_sorted(ends.begin(), ends.end())) << row[0];
      if (!ids.empty()) {
        EXPECT_EQ(ends.back(), static_cast<int64_t>(text.size())) << row[0];
      }
    }
    EXPECT_EQ(tokenizer.decode(ids, true), row[2].get<std::string>()) << row[0] << row[1];
    EXPECT_EQ(tokenizer.decode(ids, false), row[3].get<std::string>()) << row[0] << row[1];
  }
}

INSTANTIATE_TEST_SUITE_P(Families, TokenizerGolden,
                         testing::Values("qwen", "neox", "mixtral_old", "mixtral_new"),
                         [](const auto& name) { return name.param; });

TEST(Tokenizer, EvaluationTextsGiveTheReferencesIdsAndComeBack) {
  const Tokenizer tokenizer(kRoot + "/models/nano");
  const auto texts = read_json_file(kGoldenTokenizers + "texts.json");
  ASSERT_EQ(texts.size(), 4u);
  for (const auto& [name, want] : texts.items()) {
    const std::string text = read_file(kRoot + "/data/text/" + name, 10'000'000);
    const auto ids = tokenizer.encode(text);
    EXPECT_EQ(ids.size(), want["tokens"].get<size_t>()) << name;
    EXPECT_EQ(fmt::format("{:016x}", fnv1a64(ids)), want["fnv1a64"].get<std::string>()) << name;
    EXPECT_TRUE(tokenizer.decode(ids, false) == text) << name;  // <|endoftext|> parts documents
  }
}

TEST(Tokenizer, SpecialTokensAreRecognisedAndSkipped) {
  const Tokenizer tokenizer(kRoot + "/models/nano/tokenizer.json");
  EXPECT_EQ(tokenizer.vocab_size(), 4096);
  const auto ids = tokenizer.encode("<|endoftext|>The end<|endoftext|>");
  ASSERT_GE(ids.size(), 3u);
  EXPECT_EQ(ids.front(), 0);
  EXPECT_EQ(ids.back(), 0);
  EXPECT_EQ(tokenizer.decode(ids), "The end");
  EXPECT_EQ(tokenizer.decode(ids, false), "<|endoftext|>The end<|endoftext|>");
}

TEST(Tokenizer, EndBytesAreExactWithoutNormalisation) {
  const Tokenizer tokenizer(kRoot + "/models/nano");
  const std::string text = "naïve 中文 \xF0\x9F\x98\x80 tail";
  std::vector<int64_t> ends{99};
  const auto ids = tokenizer.encode(text, ends);
  ASSERT_EQ(ends.size(), ids.size());
  int64_t begin = 0;
  std::string joined;
  for (size_t i = 0; i < ids.size(); ++i) {
    const std::string_view piece(text.data() + begin, static_cast<size_t>(ends[i] - begin));
    EXPECT_TRUE(is_well_formed(piece));  // no character is cut
    joined += piece;
    begin = ends[i];
  }
  EXPECT_EQ(joined, text);
}

TEST(Tokenizer, EndBytesCountTheInputWhereNormalisationChangesIt) {
  const Tokenizer tokenizer(kGoldenTokenizers + "qwen");
  std::vector<int64_t> ends;
  const auto ids = tokenizer.encode("e\u0301 x \xFF!", ends);  // é composes: 3 bytes become 2
  ASSERT_GE(ids.size(), 4u);
  EXPECT_TRUE(ends.front() == 0 || ends.front() == 3) << ends.front();
  EXPECT_EQ(ends.back(), 8);
  EXPECT_EQ(ends[ends.size() - 2], 7);  // the byte that is no UTF-8 counts as one
}

TEST(Tokenizer, EmptyAndBlankTexts) {
  for (const char* name : {"qwen", "neox", "mixtral_old", "mixtral_new"}) {
    const Tokenizer tokenizer(kGoldenTokenizers + name);
    std::vector<int64_t> ends{1, 2};
    EXPECT_TRUE(tokenizer.encode("", ends).empty());
    EXPECT_TRUE(ends.empty());
    EXPECT_EQ(tokenizer.decode({}), "");
    EXPECT_FALSE(tokenizer.encode(" ").empty());
  }
}

TEST(Tokenizer, DecodeRefusesIdsOutOfRange) {
  const Tokenizer tokenizer(kRoot + "/models/nano");
  EXPECT_THROW(tokenizer.decode(std::vector<int32_t>{-1}), InvalidArgument);
  EXPECT_THROW(tokenizer.decode(std::vector<int32_t>{4096}), InvalidArgument);
}

// A quadratic step anywhere would take minutes on these.
TEST(Tokenizer, LongRunsTakeNoQuadraticTime) {
  const auto started = std::chrono::steady_clock::now();
  std::string marks = "a";
  for (int i = 0; i < 200'000; ++i) marks += "\u0301";
  for (int i = 0; i < 200'000; ++i) marks += "\u0323";
  const std::vector<std::string> texts = {std::string(1'000'000, 'a'), std::string(1'000'000, ' '),
                                          std::string(1'000'000, '\n') + "x", marks};
  for (const char* name : {"qwen", "neox", "mixtral_old"}) {
    const Tokenizer tokenizer(kGoldenTokenizers + name);
    for (const std::string& text : texts) EXPECT_GT(tokenizer.encode(text).size(), 1000u);
  }
  EXPECT_LT(std::chrono::steady_clock::now() - started, std::chrono::seconds(120));
}

TEST(Tokenizer, ThreadsMayShareOne) {
  const Tokenizer tokenizer(kRoot + "/models/nano");
  const std::string text = read_file(kRoot + "/data/text/wiki.txt", 10'000'000).substr(0, 50'000);
  const auto want = tokenizer.encode(text);
  std::vector<std::vector<int32_t>> got(4);
  std::vector<std::thread> threads;
  for (auto& ids : got) threads.emplace_back([&] { ids = tokenizer.encode(text); });
  for (auto& thread : threads) thread.join();
  for (const auto& ids : got) EXPECT_EQ(ids, want);
}

}  // namespace
}  // namespace thermoe
