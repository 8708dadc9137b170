// The tokenizer's parts by cases worked out by hand.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "model/tokenizer_added.h"
#include "model/tokenizer_bpe.h"
#include "model/tokenizer_decoder.h"
#include "model/tokenizer_normalizer.h"
#include "model/tokenizer_regex.h"
#include "model/tokenizer_text.h"

namespace thermoe {
namespace {

TEST(TokenizerText, ReplacesMaximalSubparts) {
  // The example of the Unicode standard, table 3-8, and its neighbours.
  EXPECT_EQ(replace_ill_formed("\x61\xF1\x80\x80\xE1\x80\xC2\x62\x80\x63\x80\xBF\x64"),
            "a\uFFFD\uFFFD\uFFFDb\uFFFDc\uFFFD\uFFFDd");
  EXPECT_EQ(replace_ill_formed("\xC0\xAF"), "\uFFFD\uFFFD");
  EXPECT_EQ(replace_ill_formed("\xED\xA0\x80"), "\uFFFD\uFFFD\uFFFD");  // a surrogate
  EXPECT_EQ(replace_ill_formed("\xF4\x90\x80\x80"), "\uFFFD\uFFFD\uFFFD\uFFFD");
  EXPECT_EQ(replace_ill_formed("\xE2\x82"), "\uFFFD");
  EXPECT_EQ(replace_ill_formed("\u20AC\U0010FFFF"), "\u20AC\U0010FFFF");
}

TEST(TokenizerText, KeepsTrackOfTheInput) {
  const AlignedText text = AlignedText::from_input("a\xFF\u00e9z");
  EXPECT_EQ(text.view(), "a\uFFFD\u00e9z");
  EXPECT_EQ(text.end_of(1), 1);
  EXPECT_EQ(text.end_of(3), 1);  // inside U+FFFD
  EXPECT_EQ(text.end_of(4), 2);
  EXPECT_EQ(text.end_of(6), 4);
  const AlignedText part = text.slice(4, 7);
  EXPECT_EQ(part.begin(), 2);
  EXPECT_EQ(part.end_of(0), 2);
  EXPECT_EQ(part.end_of(3), 5);
}

std::string nfc(const std::string& text) {
  return std::string(normalize(AlignedText::from_input(text), {NfcStep{}}).view());
}

TEST(TokenizerNormalizer, Composes) {
  EXPECT_EQ(nfc("plain"), "plain");
  EXPECT_EQ(nfc("e\u0301"), "\u00e9");
  EXPECT_EQ(nfc("xe\u0301\u0323y"), "x\u1EB9\u0301y");  // reordered: the dot below composes first
  EXPECT_EQ(nfc("\u2126"), "\u03A9");
  EXPECT_EQ(nfc("\u1112\u1161\u11AB"), "\uD55C");
  EXPECT_EQ(nfc("\u0958"), "\u0915\u093C");                        // excluded from composition
  EXPECT_EQ(nfc("\U00011935\U00011930"), "\U00011935\U00011930");  // composes since Unicode 13
}

TEST(TokenizerNormalizer, KeepsTrackOfTheInput) {
  const AlignedText text = normalize(AlignedText::from_input("e\u0301 b"),
                                     {NfcStep{}, PrependStep{"_"}, ReplaceStep{" ", "<>"}});
  ASSERT_EQ(text.view(), "_\u00e9<>b");
  EXPECT_EQ(text.end_of(1), 0);
  EXPECT_EQ(text.end_of(3), 3);
  EXPECT_EQ(text.end_of(5), 4);
  EXPECT_EQ(text.end_of(6), 5);
}

std::vector<std::string> split(const char* pattern, const std::string& text) {
  std::vector<ByteRange> ranges;
  SplitRegex(pattern).split(text, {0, text.size()}, ranges);
  std::vector<std::string> out;
  for (const ByteRange range : ranges) {
    out.push_back(text.substr(range.begin, range.end - range.begin));
  }
  return out;
}

TEST(TokenizerRegex, IsolatesMatchesAndWhatLiesBetween) {
  using Words = std::vector<std::string>;
  EXPECT_EQ(split(R"(\p{N})", "ab12c"), (Words{"ab", "1", "2", "c"}));
  EXPECT_EQ(split(R"(\s+(?!\S)|\s+)", "a   b "), (Words{"a", "  ", " ", "b", " "}));
  EXPECT_EQ(split(R"((?i:'s))", "it'S it'\u017F"), (Words{"it", "'S", " it", "'\u017F"}));
}

TEST(TokenizerRegex, KnowsTheReferencesUnicode) {
  EXPECT_EQ(split(R"(\s)", "a\u180Eb").size(), 1u);  // no space since Unicode 6.3
  EXPECT_EQ(split(R"([^\s])", "\u0085\u3000").size(), 1u);
  EXPECT_EQ(split(R"(\p{L}+)", "a\U00031350b").size(), 1u);  // a letter since Unicode 15
  EXPECT_EQ(split(R"(\P{N}+)", "a\U0001CCF0").size(), 2u);   // a digit since Unicode 16
}

TEST(TokenizerRegex, LooksAtItsRangeOnly) {
  std::vector<ByteRange> ranges;
  SplitRegex(R"(\s+(?!\S))").split("a  b", {1, 3}, ranges);
  ASSERT_EQ(ranges.size(), 1u);  // the b behind the range doesn't count
  EXPECT_EQ(ranges[0].end, 3u);
}

TEST(TokenizerRegex, StopsAPatternThatExplodes) {
  std::vector<ByteRange> ranges;
  const std::string text = std::string(60, 'a') + "cb";
  EXPECT_THROW(SplitRegex("(?:(?:a|a)(?:a|a))+b").split(text, {0, text.size()}, ranges),
               PatternError);
}

std::vector<std::string> parts(const AddedTokenMatcher& matcher, const std::string& text) {
  std::vector<std::string> out;
  for (const TextPart& part : matcher.split(text)) {
    out.push_back(text.substr(part.begin, part.end - part.begin) +
                  (part.id < 0 ? "" : "=" + std::to_string(part.id)));
  }
  return out;
}

TEST(TokenizerAdded, FindsTheLeftmostLongest) {
  AddedTokenMatcher matcher;
  EXPECT_TRUE(matcher.add({.id = 1, .content = "<a>"}, "<a>"));
  EXPECT_TRUE(matcher.add({.id = 2, .content = "<a><b>"}, "<a><b>"));
  EXPECT_TRUE(matcher.add({.id = 3, .content = "><"}, "><"));
  EXPECT_FALSE(matcher.add({.id = 4, .content = "><"}, "><"));
  using Parts = std::vector<std::string>;
  EXPECT_EQ(parts(matcher, "x<a><b><a><"), (Parts{"x", "<a><b>=2", "<a>=1", "<"}));
  EXPECT_EQ(parts(matcher, "<b><"), (Parts{"<b", "><=3"}));
  EXPECT_EQ(parts(matcher, ""), Parts{});
}

TEST(TokenizerAdded, TakesSpacesAndWholeWords) {
  AddedTokenMatcher matcher;
  matcher.add({.id = 1, .content = "L", .lstrip = true}, "L");
  matcher.add({.id = 2, .content = "R", .rstrip = true}, "R");
  matcher.add({.id = 3, .content = "W", .single_word = true}, "W");
  using Parts = std::vector<std::string>;
  EXPECT_EQ(parts(matcher, "a \u3000L b"), (Parts{"a", " \u3000L=1", " b"}));
  EXPECT_EQ(parts(matcher, "R \tL"), (Parts{"R \t=2", "L=1"}));
  EXPECT_EQ(parts(matcher, "W aW W\u0301 (W)"), (Parts{"W=3", " aW W\u0301 (", "W=3", ")"}));
}

std::vector<int32_t> ids(const BpeModel& model, const std::string& word) {
  std::vector<WordToken> tokens;
  model.encode(word, tokens);
  std::vector<int32_t> out;
  for (const WordToken& token : tokens) out.push_back(token.id);
  return out;
}

TEST(TokenizerBpe, MergesByRankThenFromTheLeft) {
  BpeSpec spec;
  spec.vocab = {{"a", 0}, {"b", 1}, {"c", 2}, {"bc", 3}, {"ab", 4}, {"aa", 5}};
  spec.merges = {{"b", "c"}, {"a", "b"}, {"a", "a"}};
  const BpeModel model(spec);
  using Ids = std::vector<int32_t>;
  EXPECT_EQ(ids(model, "abc"), (Ids{0, 3}));
  EXPECT_EQ(ids(model, "aab"), (Ids{0, 4}));
  EXPECT_EQ(ids(model, "aaaaa"), (Ids{5, 5, 0}));
  EXPECT_EQ(ids(model, "a\u00e9b"), (Ids{4}));  // no unknown token: dropped
  EXPECT_EQ(ids(model, ""), Ids{});
}

TEST(TokenizerBpe, UnknownCharactersFuseOrFallBackToBytes) {
  BpeSpec spec;
  spec.vocab = {{"a", 0}, {"<unk>", 1}, {"<0xC3>", 2}, {"<0xA9>", 3}};
  spec.unk_token = "<unk>";
  using Ids = std::vector<int32_t>;
  EXPECT_EQ(ids(BpeModel(spec), "zza"), (Ids{1, 1, 0}));
  spec.fuse_unk = true;
  EXPECT_EQ(ids(BpeModel(spec), "zza"), (Ids{1, 0}));
  spec.byte_fallback = true;
  EXPECT_EQ(ids(BpeModel(spec), "\u00e9\u00e8"), (Ids{2, 3, 1}));
  spec.unk_token = "missing";
  EXPECT_THROW(BpeModel{spec}, std::invalid_argument);
}

TEST(TokenizerBpe, TheAlphabetOfBytesIsOneToOne) {
  EXPECT_EQ(spelling_of_byte(' '), "\u0120");
  EXPECT_EQ(spelling_of_byte('A'), "A");
  for (int byte = 0; byte < 256; ++byte) {
    EXPECT_EQ(bytes_of_spelling(spelling_of_byte(static_cast<uint8_t>(byte))),
              std::string(1, static_cast<char>(byte)));
  }
  EXPECT_EQ(bytes_of_spelling("a b"), std::nullopt);
}

TEST(TokenizerDecoder, ByteFallbackGivesCharactersOrOneMarkAByte) {
  const std::vector<DecoderStep> steps{ByteFallbackDecode{}};
  EXPECT_EQ(decode_tokens({"a", "<0xC3>", "<0xA9>", "b"}, steps), "a\u00e9b");
  EXPECT_EQ(decode_tokens({"<0xC3>", "<0xA9>", "<0xFF>"}, steps), "\uFFFD\uFFFD\uFFFD");
  EXPECT_EQ(decode_tokens({"<0xZZ>", "<0x1>"}, steps), "<0xZZ><0x1>");
}

TEST(TokenizerDecoder, StripsUpToItsCounts) {
  EXPECT_EQ(decode_tokens({"  a  ", " b"}, {StripDecode{" ", 1, 1}}), " a b");
  EXPECT_EQ(decode_tokens({"  a", " b"}, {FuseDecode{}, StripDecode{" ", 1, 0}}), " a b");
  EXPECT_EQ(decode_tokens({" "}, {StripDecode{" ", 3, 3}}), "");
}

}  // namespace
}  // namespace thermoe
