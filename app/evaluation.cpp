#include "evaluation.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numbers>

#include "paths.h"
#include "thermoe/error.h"

namespace thermoe::app {
namespace {

// Positions that go through the layers together. Routing stays position by position; more rows only
// make the dense blocks larger.
constexpr int64_t kChunk = 32;

// Collects what the plans say while a batch runs.
class PlanStatistics : public PlanObserver {
 public:
  explicit PlanStatistics(const Charge& charge) : charge_(charge) {}

  void on_plan(int, const RoutingPlan& plan) override {
    const RoutingReport& report = plan.report;
    ++plans_;
    distinct_ += report.distinct_experts;
    top_k_distinct_ += report.top_k_distinct_experts;
    gate_mass_ += report.gate_mass_frac;
    const CostEstimate cost = charge_.layer(plan);
    latency_us_ += cost.latency_us;
    energy_mj_ += cost.energy_mj;
    gaps_.push_back(static_cast<float>(report.gap_frac));
  }

  void finish(EvaluationResult& result) {
    result.distinct_experts_mean = distinct_ / plans_;
    result.expert_bytes_frac = distinct_ / top_k_distinct_;
    result.gate_mass_frac = gate_mass_ / plans_;
    result.predicted_latency_us = latency_us_ / plans_;
    result.predicted_energy_mj = energy_mj_ / plans_;
    const auto middle = gaps_.begin() + static_cast<std::ptrdiff_t>(gaps_.size() / 2);
    std::nth_element(gaps_.begin(), middle, gaps_.end());
    result.certificate_gap_frac_median = *middle;
    result.certificate_gap_frac_max = *std::max_element(gaps_.begin(), gaps_.end());
  }

 private:
  const Charge& charge_;
  double plans_ = 0, distinct_ = 0, top_k_distinct_ = 0, gate_mass_ = 0;
  double latency_us_ = 0, energy_mj_ = 0;
  std::vector<float> gaps_;
};

float negative_log_likelihood(std::span<const float> logits, int32_t target) {
  const float top = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float logit : logits) sum += std::exp(logit - top);
  return static_cast<float>(std::log(sum)) + top - logits[static_cast<size_t>(target)];
}

// Runs one batch of windows through the model, chunk by chunk, and writes its losses.
class BatchRunner {
 public:
  BatchRunner(Transformer& model, const TextWindows& windows, int batch, ThreadPool& pool)
      : model_(model),
        windows_(windows),
        batch_(batch),
        pool_(pool),
        cache_(model.config(), batch, windows.context),
        logits_(static_cast<size_t>(batch * std::min(kChunk, windows.context) *
                                    model.config().vocab_size)) {}

  // Positions [first, first + count) of the windows from `window` on; losses [count * batch].
  void run_chunk(size_t window, int64_t first, int64_t count, const RoutingContext& routing,
                 float* losses) {
    fill_rows(window, first, count);
    const Matrix logits(logits_.data(), count * batch_, model_.config().vocab_size);
    model_.forward({tokens_, sequences_, positions_, groups_}, routing, cache_, rows_, logits);
    pool_.run(static_cast<int>(tokens_.size()), [&](int row, int) {
      losses[row] =
          negative_log_likelihood(logits.row_span(row), targets_[static_cast<size_t>(row)]);
    });
  }

 private:
  void fill_rows(size_t window, int64_t first, int64_t count) {
    tokens_.clear(), targets_.clear(), sequences_.clear(), positions_.clear(), groups_.clear();
    for (int64_t position = first; position < first + count; ++position) {
      groups_.push_back({static_cast<int64_t>(tokens_.size()), batch_});
      for (int s = 0; s < batch_; ++s) {
        const size_t at =
            static_cast<size_t>(windows_.starts[window + static_cast<size_t>(s)] + position);
        tokens_.push_back(windows_.tokens[at]);
        targets_.push_back(windows_.tokens[at + 1]);
        sequences_.push_back(s);
        positions_.push_back(static_cast<int32_t>(position));
      }
    }
    rows_.resize(tokens_.size());
    for (size_t r = 0; r < rows_.size(); ++r) rows_[r] = static_cast<int32_t>(r);
  }

  Transformer& model_;
  const TextWindows& windows_;
  int batch_;
  ThreadPool& pool_;
  KvCache cache_;
  std::vector<float> logits_;
  std::vector<int32_t> tokens_, targets_, sequences_, positions_, rows_;
  std::vector<RowGroup> groups_;
};

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

TextWindows read_windows(const Tokenizer& tokenizer, std::span<const std::filesystem::path> files,
                         int64_t context) {
  if (context < 1) throw InvalidArgument("context must be 1 or more tokens");
  TextWindows windows;
  windows.context = context;
  for (const std::filesystem::path& file : files) {
    std::vector<int64_t> end_bytes;
    const std::vector<int32_t> tokens = tokenizer.encode(read_file(file), end_bytes);
    const int64_t count = (static_cast<int64_t>(tokens.size()) - 1) / context;
    if (count < 1)
      throw IoError(
          file.string(),
          fmt::format("{} tokens are too short a text for one window of {} tokens and the "
                      "token after it: give a longer text or a smaller --context",
                      tokens.size(), context));
    const int64_t base = static_cast<int64_t>(windows.tokens.size());
    for (int64_t w = 0; w < count; ++w) {
      windows.starts.push_back(base + w * context);
      windows.target_bytes.push_back(end_bytes[static_cast<size_t>((w + 1) * context)] -
                                     end_bytes[static_cast<size_t>(w * context)]);
    }
    windows.tokens.insert(windows.tokens.end(), tokens.begin(), tokens.end());
  }
  return windows;
}

EvaluationResult evaluate(Transformer& model, const TextWindows& windows, RoutingPolicy& policy,
                          const Charge& charge, ThreadPool& pool,
                          const EvaluationSettings& settings) {
  const auto start = std::chrono::steady_clock::now();
  const size_t count = windows_to_run(windows, settings);
  const size_t batch = static_cast<size_t>(settings.batch);
  EvaluationResult result;
  result.tokens = static_cast<int64_t>(count) * windows.context;
  result.losses.resize(static_cast<size_t>(result.tokens));
  PlanStatistics statistics(charge);
  BatchRunner runner(model, windows, settings.batch, pool);
  int64_t done = 0;
  for (size_t window = 0; window < count; window += batch) {
    for (int64_t first = 0; first < windows.context; first += kChunk) {
      const int64_t positions = std::min(kChunk, windows.context - first);
      RoutingContext routing{.policy = &policy, .prices = {}, .observer = &statistics};
      if (settings.prices) routing.prices = settings.prices(first);
      runner.run_chunk(window, first, positions, routing, result.losses.data() + done);
      done += positions * settings.batch;
      if (settings.progress) settings.progress(done, result.tokens);
    }
    for (size_t s = 0; s < batch; ++s) result.bytes += windows.target_bytes[window + s];
  }
  statistics.finish(result);
  double sum = 0;
  for (const float loss : result.losses) sum += loss;
  result.cross_entropy_nats = sum / static_cast<double>(result.tokens);
  result.wall_s = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return result;
}

PairedDifference paired_difference(const EvaluationResult& changed, const EvaluationResult& base,
                                   int batch, int64_t context) {
  if (changed.losses.size() != base.losses.size())
    throw InvalidArgument("paired results must cover the same tokens");
  // losses are ordered by batch, position, window: window w of a batch is every batch-th entry.
  const size_t per_batch = static_cast<size_t>(batch) * static_cast<size_t>(context);
  const size_t count = base.losses.size() / static_cast<size_t>(context);
  std::vector<double> means(count, 0.0);
  for (size_t i = 0; i < base.losses.size(); ++i)
    means[i / per_batch * static_cast<size_t>(batch) + i % static_cast<size_t>(batch)] +=
        (static_cast<double>(changed.losses[i]) - base.losses[i]) / static_cast<double>(context);
  PairedDifference difference;
  for (const double mean : means) difference.mean_nats += mean / static_cast<double>(count);
  double squares = 0;
  for (const double mean : means) squares += std::pow(mean - difference.mean_nats, 2);
  if (count > 1)
    difference.standard_error_nats =
        std::sqrt(squares / static_cast<double>(count - 1) / static_cast<double>(count));
  return difference;
}

}  // namespace thermoe::app
