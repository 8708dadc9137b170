// Rounds of batched generation: a batch of prompts, prefilled together, then decoded in lockstep.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "thermoe/language_model.h"
#include "thermoe/tokenizer.h"

namespace thermoe::app {

struct DecoderSettings {
  int batch = 16;
  int round_tokens = 128;  // prompt and generated tokens of a sequence; then the next round begins
  double temperature = 0.8;  // of sampling; 0: greedy
  uint64_t seed = 1;
};

// Deterministic: the tokens of round r depend on the prompts, the settings, r and the routing
// alone, whatever ran before.
class Decoder {
 public:
  // Sequence s of round r continues prompt (r * batch + s) modulo their number; `own` prompts, if
  // any, take the first sequences of every round. Throws InvalidArgument for a prompt that is empty
  // or leaves no room in round_tokens.
  Decoder(LanguageModel& model, const Tokenizer& tokenizer, const std::vector<std::string>& prompts,
          const std::vector<std::string>& own, const DecoderSettings& settings);

  // Forgets the round under way; the next step prefills round `round`.
  void begin(int round);
  // Prefills, or decodes one token of every sequence; appends what was sampled to texts(). Returns
  // how many rows went through the model.
  int64_t step(const RoutingContext& routing);
  // Once prefilled: decodes up to `most_steps` tokens of every sequence, fewer where the round ends
  // before; on a GPU without a word between them. The observer sees the last step's plans. Returns
  // how many rows went through the model.
  int64_t run(const RoutingContext& routing, int most_steps);
  bool prefilled() const { return step_ > 0; }
  bool over() const;
  // Prompt and continuation of each sequence of the round.
  const std::vector<std::vector<int32_t>>& texts() const { return texts_; }
  int prompt_length(int sequence) const { return prompt_lengths_[static_cast<size_t>(sequence)]; }
  const DecoderSettings& settings() const { return settings_; }

 private:
  void fill_rows();
  Sampling sampling() const { return {settings_.temperature, settings_.seed, round_}; }

  LanguageModel& model_;
  std::vector<std::vector<int32_t>> prompts_;
  size_t own_count_;
  DecoderSettings settings_;
  std::unique_ptr<SequenceCache> cache_;
  std::vector<float> logits_;
  int round_ = 0, step_ = 0;
  std::vector<std::vector<int32_t>> texts_;
  std::vector<int> prompt_lengths_;
  std::vector<int32_t> tokens_, sequences_, positions_, last_rows_, sampled_;
};

}  // namespace thermoe::app
