#include "evaluation.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cmath>
#include <numbers>

#include "paths.h"
#include "thermoe/error.h"

namespace thermoe::app {
namespace {

size_t windows_to_run(const TextWindows& windows, const EvaluationSettings& settings) {
  if (settings.batch < 1) throw InvalidArgument("batch must be 1 or more");
  size_t count = windows.starts.size();
  if (settings.max_windows > 0) count = std::min(count, static_cast<size_t>(settings.max_windows));
  count -= count % static_cast<size_t>(settings.batch);
  if (count == 0)
    throw InvalidArgument(fmt::format(
        "the text has {} windows of {} tokens{}, fewer than one batch of {}: give more text, or a "
        "smaller --batch or --context",
        windows.starts.size(), windows.context,
        settings.max_windows > 0 ? fmt::format(" (at most {} asked for)", settings.max_windows)
                                 : "",
        settings.batch));
  return count;
}

}  // namespace

double EvaluationResult::perplexity() const { return std::exp(cross_entropy_nats); }

double EvaluationResult::bits_per_byte() const {
  return cross_entropy_nats * static_cast<double>(tokens) / std::numbers::ln2 /
         static_cast<double>(bytes);
}

TextPart TextPart::parse(const std::string& text) {
  TextPart part;
  const char* const end = text.data() + text.size();
  const auto first = std::from_chars(text.data(), end, part.index);
  bool valid = first.ec == std::errc() && first.ptr != end && *first.ptr == '/';
  if (valid) {
    const auto second = std::from_chars(first.ptr + 1, end, part.of);
    valid = second.ec == std::errc() && second.ptr == end;
  }
  if (!valid || part.index < 1 || part.index > part.of || part.of > 1'000'000)
    throw InvalidArgument(fmt::format(
        "part '{}' is none: give I/N with I from 1 to N, such as 1/2 for the first half", text));
  return part;
}

EncodedText read_text(const Tokenizer& tokenizer, const std::filesystem::path& file) {
  EncodedText text;
  text.file = file;
  text.tokens = tokenizer.encode(read_file(file), text.end_bytes);
  return text;
}

void TextWindows::add(const EncodedText& text, TextPart part) {
  const auto [begin, end] = part.bounds(static_cast<int64_t>(text.tokens.size()));
  const int64_t base = static_cast<int64_t>(tokens.size());
  for (int64_t w = 0; w < (end - begin - 1) / context; ++w) {
    starts.push_back(base + w * context);
    const size_t first = static_cast<size_t>(begin + w * context);
    target_bytes.push_back(text.end_bytes[first + static_cast<size_t>(context)] -
                           text.end_bytes[first]);
  }
  tokens.insert(tokens.end(), text.tokens.begin() + begin, text.tokens.begin() + end);
}

TextWindows read_windows(const Tokenizer& tokenizer, std::span<const std::filesystem::path> files,
                         int64_t context, TextPart part) {
  if (context < 1) throw InvalidArgument("context must be 1 or more tokens");
  TextWindows windows;
  windows.context = context;
  for (const std::filesystem::path& file : files) {
    const EncodedText text = read_text(tokenizer, file);
    const size_t before = windows.starts.size();
    windows.add(text, part);
    if (windows.starts.size() == before)
      throw IoError(
          file.string(),
          fmt::format("{} tokens{} are too short a text for one window of {} tokens and the "
                      "token after it: give a longer text or a smaller --context",
                      text.tokens.size(), part.of > 1 ? fmt::format(" in {} parts", part.of) : "",
                      context));
  }
  return windows;
}

EvaluationResult evaluate(LanguageModel& model, const TextWindows& windows, RoutingPolicy& policy,
                          const Charge& charge, ThreadPool& pool,
                          const EvaluationSettings& settings) {
  windows_to_run(windows, settings);  // before a cache is made for what cannot run
  Lockstep lockstep(model, pool, settings.batch, windows.context + 1);
  return evaluate(lockstep, windows, policy, charge, settings);
}

EvaluationResult evaluate(Lockstep& lockstep, const TextWindows& windows, RoutingPolicy& policy,
                          const Charge& charge, const EvaluationSettings& settings) {
  const auto start = std::chrono::steady_clock::now();
  const size_t count = windows_to_run(windows, settings);
  const size_t batch = static_cast<size_t>(settings.batch);
  const size_t context = static_cast<size_t>(windows.context);
  EvaluationResult result;
  result.tokens = static_cast<int64_t>(count * context);
  result.losses.resize(count * context);
  std::vector<ScoredSequence> sequences(count);
  for (size_t w = 0; w < count; ++w) {
    sequences[w].tokens = {&windows.tokens[static_cast<size_t>(windows.starts[w])], context + 1};
    result.bytes += windows.target_bytes[w];
  }
  PlanStatistics statistics(charge);
  lockstep.run(
      sequences,
      {.policy = &policy,
       .observer = &statistics,
       .layouts = charge.variants().layouts(),
       .prices = settings.prices},
      [&](const TokenScore& token) {
        const size_t position = static_cast<size_t>(token.index) - 1;
        result.losses[(token.sequence / batch * context + position) * batch +
                      token.sequence % batch] = token.loss_nats;
      },
      [&](int64_t done) {
        if (settings.progress) settings.progress(done, result.tokens);
      });
  static_cast<PlanSummary&>(result) = statistics.summary();
  double sum = 0;
  for (const float loss : result.losses) sum += loss;
  result.cross_entropy_nats = sum / static_cast<double>(result.tokens);
  result.wall_s = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return result;
}

std::vector<double> window_losses(const EvaluationResult& result, int batch, int64_t context) {
  // losses are ordered by batch, position, window: window w of a batch is every batch-th entry.
  const size_t per_batch = static_cast<size_t>(batch) * static_cast<size_t>(context);
  std::vector<double> means(result.losses.size() / static_cast<size_t>(context), 0.0);
  for (size_t i = 0; i < result.losses.size(); ++i)
    means[i / per_batch * static_cast<size_t>(batch) + i % static_cast<size_t>(batch)] +=
        static_cast<double>(result.losses[i]);
  for (double& mean : means) mean /= static_cast<double>(context);
  return means;
}

PairedDifference paired_difference(std::span<const double> changed, std::span<const double> base) {
  if (changed.size() != base.size())
    throw InvalidArgument("paired results must cover the same tokens");
  const double count = static_cast<double>(base.size());
  PairedDifference difference;
  for (size_t w = 0; w < base.size(); ++w) difference.mean_nats += (changed[w] - base[w]) / count;
  double squares = 0;
  for (size_t w = 0; w < base.size(); ++w)
    squares += std::pow(changed[w] - base[w] - difference.mean_nats, 2);
  if (base.size() > 1) difference.standard_error_nats = std::sqrt(squares / (count - 1) / count);
  return difference;
}

PairedDifference paired_difference(const EvaluationResult& changed, const EvaluationResult& base,
                                   int batch, int64_t context) {
  return paired_difference(window_losses(changed, batch, context),
                           window_losses(base, batch, context));
}

}  // namespace thermoe::app
