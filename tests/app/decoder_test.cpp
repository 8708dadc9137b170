#include "decoder.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include "nano.h"
#include "thermoe/error.h"

namespace thermoe::app {
namespace {

const std::vector<std::string> kPrompts = {"The river", "In 1911 the", "import numpy", "She said",
                                           "A graph is"};

Decoder make_decoder(const std::vector<std::string>& own = {}, DecoderSettings settings = {}) {
  settings.batch = 3;
  settings.round_tokens = 24;
  Engine& engine = nano_engine();
  return Decoder(engine.model, engine.tokenizer, kPrompts, own, settings);
}

std::vector<std::vector<int32_t>> run_round(Decoder& decoder, int round) {
  TopKPolicy policy;
  decoder.begin(round);
  while (!decoder.over()) decoder.step({.policy = &policy, .prices = {}, .observer = nullptr});
  return decoder.texts();
}

TEST(Decoder, ARoundDependsOnItsNumberAlone) {
  Decoder decoder = make_decoder();
  const auto first = run_round(decoder, 0), second = run_round(decoder, 1);
  EXPECT_NE(first, second);
  EXPECT_EQ(run_round(decoder, 0), first);
  Decoder other = make_decoder();
  EXPECT_EQ(run_round(other, 1), second);
}

TEST(Decoder, RoundsTakeThePromptsInTurn) {
  Decoder decoder = make_decoder();
  const auto& tokenizer = nano_engine().tokenizer;
  for (int round = 0; round < 4; ++round) {
    decoder.begin(round);
    for (int s = 0; s < 3; ++s)
      EXPECT_EQ(tokenizer.decode(decoder.texts()[static_cast<size_t>(s)]),
                kPrompts[static_cast<size_t>((round * 3 + s) % 5)]);
  }
}

TEST(Decoder, OwnPromptsComeFirstInEveryRound) {
  Decoder decoder = make_decoder({"My own text"});
  for (int round = 0; round < 3; ++round) {
    decoder.begin(round);
    EXPECT_EQ(nano_engine().tokenizer.decode(decoder.texts()[0]), "My own text");
  }
}

TEST(Decoder, GreedyIgnoresTheSeed) {
  Decoder one = make_decoder({}, {.temperature = 0, .seed = 1});
  Decoder two = make_decoder({}, {.temperature = 0, .seed = 2});
  EXPECT_EQ(run_round(one, 0), run_round(two, 0));
  Decoder three = make_decoder({}, {.seed = 1}), four = make_decoder({}, {.seed = 2});
  EXPECT_NE(run_round(three, 0), run_round(four, 0));
}

TEST(Decoder, RefusesPromptsThatDoNotFit) {
  EXPECT_THROW(make_decoder({""}), InvalidArgument);
  EXPECT_THROW(make_decoder({std::string(400, 'x')}), InvalidArgument);
  EXPECT_THROW(make_decoder({"a", "b", "c", "d"}), InvalidArgument);
}

}  // namespace
}  // namespace thermoe::app
