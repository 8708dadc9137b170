#include "decoder.h"

#include <fmt/format.h>

#include <algorithm>

#include "thermoe/error.h"

namespace thermoe::app {
Decoder::Decoder(LanguageModel& model, const Tokenizer& tokenizer,
                 const std::vector<std::string>& prompts, const std::vector<std::string>& own,
                 const DecoderSettings& settings)
    : model_(model),
      own_count_(own.size()),
      settings_(settings),
      cache_(model.make_cache(settings.batch, settings.round_tokens)),
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
  if (prefilled()) return run(routing, 1);
  fill_rows();
  const int64_t rows = static_cast<int64_t>(tokens_.size());
  const RowGroup all{0, rows};
  const Matrix logits(logits_.data(), settings_.batch, model_.config().vocab_size);
  model_.forward({tokens_, sequences_, positions_, {&all, 1}}, routing, *cache_, last_rows_,
                 logits);
  for (int s = 0; s < settings_.batch; ++s) {
    auto& text = texts_[static_cast<size_t>(s)];
    text.push_back(
        sample_token(logits.row_span(s), sampling(), s, static_cast<int64_t>(text.size())));
  }
  ++step_;
  return rows;
}

int64_t Decoder::run(const RoutingContext& routing, int most_steps) {
  size_t longest = 0;
  for (const auto& text : texts_) longest = std::max(longest, text.size());
  const int left = settings_.round_tokens - static_cast<int>(longest);
  const int steps = std::clamp(most_steps, 1, std::max(left, 1));
  fill_rows();
  sampled_.resize(texts_.size() * static_cast<size_t>(steps));
  model_.decode({tokens_, positions_, steps, sampling()}, routing, *cache_, sampled_);
  for (size_t i = 0; i < sampled_.size(); ++i) texts_[i % texts_.size()].push_back(sampled_[i]);
  step_ += steps;
  return static_cast<int64_t>(sampled_.size());
}

}  // namespace thermoe::app
