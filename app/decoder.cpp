#include "decoder.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "thermoe/error.h"

namespace thermoe::app {
namespace {

// SplitMix64 (Steele, Lea, Flood 2014): a hash of a counter, so that the random number of a token
// depends on where it stands, not on how many were drawn before.
uint64_t mix(uint64_t x) {
  x += 0x9E3779B97F4A7C15u;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

double uniform(uint64_t seed, int round, int sequence, size_t position) {
  uint64_t hash = mix(seed);
  hash = mix(hash ^ static_cast<uint64_t>(round));
  hash = mix(hash ^ static_cast<uint64_t>(sequence));
  hash = mix(hash ^ position);
  return static_cast<double>(hash >> 11) * 0x1.0p-53;
}

}  // namespace

Decoder::Decoder(Transformer& model, const Tokenizer& tokenizer,
                 const std::vector<std::string>& prompts, const std::vector<std::string>& own,
                 const DecoderSettings& settings)
    : model_(model),
      own_count_(own.size()),
      settings_(settings),
      cache_(model.config(), settings.batch, settings.round_tokens),
      logits_(static_cast<size_t>(settings.batch * model.config().vocab_size)) {
  if (static_cast<int>(own.size()) > settings.batch)
    throw InvalidArgument(
        fmt::format("{} prompts for a batch of {}: give fewer, or a larger --batch", own.size(),
                    settings.batch));
  for (const auto* list : {&own, &prompts})
    for (const std::string& prompt : *list) {
      prompts_.push_back(tokenizer.encode(prompt));
      const size_t length = prompts_.back().size();
      if (length == 0 || length >= static_cast<size_t>(settings.round_tokens))
        throw InvalidArgument(
            fmt::format("prompt \"{}\" has {} tokens: it must have at least one and fewer than the "
                        "{} of a round "
                        "(--round-tokens)",
                        prompt.substr(0, 40), length, settings.round_tokens));
    }
  if (prompts_.size() == own_count_) throw InvalidArgument("no prompts to fill the batch with");
  begin(0);
}

void Decoder::begin(int round) {
  round_ = round;
  step_ = 0;
  texts_.clear();
  prompt_lengths_.clear();
  const size_t batch = static_cast<size_t>(settings_.batch), shared = prompts_.size() - own_count_;
  for (size_t s = 0; s < batch; ++s) {
    const size_t next = (static_cast<size_t>(round) * batch + s) % shared;
    texts_.push_back(prompts_[s < own_count_ ? s : own_count_ + next]);
    prompt_lengths_.push_back(static_cast<int>(texts_.back().size()));
  }
}

bool Decoder::over() const {
  return std::any_of(texts_.begin(), texts_.end(), [this](const auto& text) {
    return text.size() >= static_cast<size_t>(settings_.round_tokens);
  });
}

void Decoder::fill_rows() {
  tokens_.clear(), sequences_.clear(), positions_.clear(), last_rows_.clear();
  for (size_t s = 0; s < texts_.size(); ++s) {
    const auto& text = texts_[s];
    for (size_t p = step_ == 0 ? 0 : text.size() - 1; p < text.size(); ++p) {
      tokens_.push_back(text[p]);
      sequences_.push_back(static_cast<int32_t>(s));
      positions_.push_back(static_cast<int32_t>(p));
    }
    last_rows_.push_back(static_cast<int32_t>(tokens_.size()) - 1);
  }
}

int64_t Decoder::step(const RoutingContext& routing) {
  fill_rows();
  const int64_t rows = static_cast<int64_t>(tokens_.size());
  const RowGroup all{0, rows};
  const Matrix logits(logits_.data(), settings_.batch, model_.config().vocab_size);
  model_.forward({tokens_, sequences_, positions_, {&all, 1}}, routing, cache_, last_rows_, logits);
  for (int s = 0; s < settings_.batch; ++s)
    texts_[static_cast<size_t>(s)].push_back(sample(logits.row_span(s), s));
  ++step_;
  return rows;
}

int32_t Decoder::sample(std::span<const float> logits, int sequence) const {
  const auto top = std::max_element(logits.begin(), logits.end());
  if (settings_.temperature <= 0) return static_cast<int32_t>(top - logits.begin());
  const float scale = static_cast<float>(1.0 / settings_.temperature);
  const auto weight = [&](float logit) { return std::exp((logit - *top) * scale); };
  double sum = 0;
  for (const float logit : logits) sum += weight(logit);
  double left =
      sum * uniform(settings_.seed, round_, sequence, texts_[static_cast<size_t>(sequence)].size());
  for (size_t id = 0; id < logits.size(); ++id) {
    left -= weight(logits[id]);
    if (left < 0) return static_cast<int32_t>(id);
  }
  return static_cast<int32_t>(top - logits.begin());  // rounding left a remainder
}

}  // namespace thermoe::app
