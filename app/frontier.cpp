#include "frontier.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "frontier_sweep.h"
#include "thermoe/error.h"

namespace thermoe::app {
namespace {

// Whether a series' policy comes from elsewhere: what the project's own is measured against.
bool is_published(const std::string& series) {
  const std::string name = series.substr(0, series.find('@'));
  for (const PolicyInfo& info : known_policies())
    if (info.name == name) return info.source != "thermoe";
  return false;
}

FrontierLevel compare_at(std::span<const FrontierMean> means, int batch, double read_frac) {
  FrontierLevel level;
  level.batch = batch;
  level.read_frac = read_frac;
  std::optional<double> best, adaptive;
  for (const std::string& name : policies_in(means)) {
    const auto value = envelope_of(means, batch, name).at(read_frac);
    level.policies.push_back({name, is_published(name), value});
    if (!value) continue;
    if (name == "adaptive" || name.starts_with("adaptive@"))
      adaptive = std::min(adaptive.value_or(value->loss_nats), value->loss_nats);
    if (level.policies.back().published && (!best || value->loss_nats < *best)) {
      best = value->loss_nats;
      level.best_published = name;
    }
  }
  // A ratio says nothing where the loss it divides by is not one.
  if (adaptive && best && *best > 0) level.adaptive_frac = *adaptive / *best;
  return level;
}

}  // namespace

std::string series_of(const FrontierSample& sample) {
  return series_name(sample.specification, sample.variants);
}

std::vector<FrontierPoint> pair_with_top_k(std::span<const FrontierRow> rows,
                                           const std::string& reference) {
  std::vector<FrontierPoint> points;
  for (const FrontierRow& row : rows) {
    const auto base = std::find_if(rows.begin(), rows.end(), [&](const FrontierRow& other) {
      return other.specification == "topk" && other.variants == reference &&
             other.text == row.text && other.batch == row.batch;
    });
    if (base == rows.end())
      throw InvalidArgument(
          fmt::format("no top-k row in {} for {} at batch {}", reference, row.text, row.batch));
    points.push_back({row, paired_difference(row.window_losses_nats, base->window_losses_nats),
                      row.plans.distinct_experts_mean / base->plans.distinct_experts_mean,
                      row.plans.expert_bytes_mean / base->plans.expert_bytes_mean, &row == &*base});
  }
  return points;
}

std::vector<FrontierMean> mean_over_texts(std::span<const FrontierPoint> points) {
  std::vector<FrontierMean> means;
  std::vector<double> counts;
  for (const FrontierPoint& point : points) {
    const auto at = std::find_if(means.begin(), means.end(), [&point](const FrontierMean& mean) {
      return mean.batch == point.row.batch &&
             mean.sample.specification == point.row.specification &&
             mean.sample.variants == point.row.variants;
    });
    const size_t index = static_cast<size_t>(at - means.begin());
    if (at == means.end()) {
      means.push_back({.batch = point.row.batch, .sample = {}, .tokens = 0});
      means.back().sample.specification = point.row.specification;
      means.back().sample.variants = point.row.variants;
      means.back().reference = point.reference;
      counts.push_back(0);
    }
    FrontierMean& mean = means[index];
    ++counts[index];
    mean.tokens += point.row.tokens;
    mean.distinct_frac += point.distinct_frac;
    mean.sample.read_frac += point.read_frac;
    mean.sample.loss_nats += point.loss.mean_nats;
    mean.sample.standard_error_nats += std::pow(point.loss.standard_error_nats, 2);
  }
  for (size_t m = 0; m < means.size(); ++m) {
    FrontierSample& sample = means[m].sample;
    means[m].distinct_frac /= counts[m];
    sample.read_frac /= counts[m];
    sample.loss_nats /= counts[m];
    sample.standard_error_nats = std::sqrt(sample.standard_error_nats) / counts[m];
  }
  return means;
}

FrontierEnvelope envelope_of(std::span<const FrontierMean> means, int batch,
                             const std::string& policy) {
  std::vector<FrontierSample> samples;
  const size_t at = policy.find('@');
  const std::string top_k = "topk" + (at == std::string::npos ? "" : policy.substr(at));
  for (const FrontierMean& mean : means) {
    const std::string name = series_of(mean.sample);
    if (mean.batch == batch && (name == policy || name == top_k)) samples.push_back(mean.sample);
  }
  return FrontierEnvelope(std::move(samples));
}

std::vector<std::string> policies_in(std::span<const FrontierMean> means) {
  std::set<std::string> names;
  for (const FrontierMean& mean : means)
    if (!mean.reference) names.insert(series_of(mean.sample));
  return {names.begin(), names.end()};
}

std::vector<int> batches_in(std::span<const FrontierMean> means) {
  std::set<int> batches;
  for (const FrontierMean& mean : means) batches.insert(mean.batch);
  return {batches.begin(), batches.end()};
}

std::vector<FrontierLevel> compare(std::span<const FrontierMean> means,
                                   std::span<const double> levels) {
  std::vector<FrontierLevel> compared;
  for (const int batch : batches_in(means))
    for (const double level : levels) compared.push_back(compare_at(means, batch, level));
  return compared;
}

}  // namespace thermoe::app
