#include "thermoe/language_model.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "model/batch_check.h"

namespace thermoe {
namespace {

// SplitMix64 (Steele, Lea, Flood 2014): a hash of a counter, so that the random number of a token
// depends on where it stands, not on how many were drawn before.
uint64_t mix(uint64_t x) {
  x += 0x9E3779B97F4A7C15u;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

double uniform(const Sampling& sampling, int sequence, int64_t position) {
  uint64_t hash = mix(sampling.seed);
  hash = mix(hash ^ static_cast<uint64_t>(sampling.round));
  hash = mix(hash ^ static_cast<uint64_t>(sequence));
  hash = mix(hash ^ static_cast<uint64_t>(position));
  return static_cast<double>(hash >> 11) * 0x1.0p-53;
}

}  // namespace

int32_t sample_token(std::span<const float> logits, const Sampling& sampling, int sequence,
                     int64_t position) {
  const auto top = std::max_element(logits.begin(), logits.end());
  if (sampling.temperature <= 0) return static_cast<int32_t>(top - logits.begin());
  const float scale = static_cast<float>(1.0 / sampling.temperature);
  const auto weight = [&](float logit) { return std::exp((logit - *top) * scale); };
  double sum = 0;
  for (const float logit : logits) sum += weight(logit);
  double left = sum * uniform(sampling, sequence, position);
  for (size_t id = 0; id < logits.size(); ++id) {
    left -= weight(logits[id]);
    if (left < 0) return static_cast<int32_t>(id);
  }
  return static_cast<int32_t>(top - logits.begin());  // rounding left a remainder
}

void LanguageModel::decode(const DecodeRequest& request, const RoutingContext& routing,
                           SequenceCache& cache, std::span<int32_t> sampled) {
  check_decode(request, sampled.size());
  const size_t batch = request.tokens.size();
  std::vector<int32_t> tokens(request.tokens.begin(), request.tokens.end());
  std::vector<int32_t> positions(request.positions.begin(), request.positions.end());
  std::vector<int32_t> rows(batch);
  std::iota(rows.begin(), rows.end(), 0);
  const int64_t count = static_cast<int64_t>(batch);
  std::vector<float> values(batch * static_cast<size_t>(config().vocab_size));
  const Matrix logits(values.data(), count, config().vocab_size);
  const RowGroup all{0, count};
  for (int step = 0; step < request.steps; ++step) {
    RoutingContext context = routing;
    if (step + 1 < request.steps) context.observer = nullptr;
    forward({tokens, rows, positions, {&all, 1}}, context, cache, rows, logits);
    for (size_t s = 0; s < batch; ++s) {
      tokens[s] = sample_token(logits.row_span(static_cast<int64_t>(s)), request.sampling,
                               static_cast<int>(s), ++positions[s]);
      sampled[static_cast<size_t>(step) * batch + s] = tokens[s];
    }
  }
}

}  // namespace thermoe
