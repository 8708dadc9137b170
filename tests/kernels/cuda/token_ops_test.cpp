// Embedding, norm, the way from projections through the cache to attention, and sampling, against
// float64.
#include "kernels/cuda/token_ops.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <ostream>
#include <random>
#include <vector>

#include "kernels/cuda/cuda_resources.h"
#include "kernels/cuda/dense_product.h"
#include "kernels/cuda/gpu.h"

namespace thermoe::test {
namespace {

using Bf16 = __nv_bfloat16;

// Random values that bf16 holds exactly.
std::vector<Bf16> random_bf16(size_t count, uint32_t seed, float spread = 1.0f) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal(0.0f, spread);
  std::vector<Bf16> values;
  for (size_t i = 0; i < count; ++i) values.push_back(__float2bfloat16(normal(generator)));
  return values;
}

std::vector<float> random_floats(size_t count, uint32_t seed) {
  std::mt19937 generator(seed);
  std::uniform_real_distribution<float> uniform(0.5f, 1.5f);
  std::vector<float> values(count);
  for (float& value : values) value = uniform(generator);
  return values;
}

// Where column c of a row stands in fragment order (decode_experts.h).
size_t fragment_of(size_t c) {
  const size_t in = c % 32;
  return c - in + 8 * (in % 8 / 2) + 2 * (in / 8) + in % 2;
}

double value(const Bf16& v) { return static_cast<double>(__bfloat162float(v)); }

class TokenOps : public GpuTest {};

TEST_F(TokenOps, EmbeddingCopiesRows) {
  const int hidden = 96;
  const std::vector<Bf16> table = random_bf16(7 * hidden, 1);
  const std::vector<int32_t> tokens{6, 0, 3, 3};
  const cuda::DeviceArray<Bf16> on_device(table);
  const cuda::DeviceArray<int32_t> ids(tokens);
  cuda::DeviceArray<float> x(tokens.size() * hidden);
  x.fill(0xFF);
  cuda::check(cuda::embed(on_device.data(), ids.data(), 4, hidden, x.data(), nullptr), "embed");
  const std::vector<float> got = x.host();
  for (size_t i = 0; i < got.size(); ++i)
    EXPECT_EQ(got[i], static_cast<float>(value(
                          table[static_cast<size_t>(tokens[i / hidden]) * hidden + i % hidden])));
}

TEST_F(TokenOps, NormAddsWhatIsPendingFirst) {
  for (const size_t hidden : {size_t{32}, size_t{96}, size_t{2048}}) {
    const size_t rows = 5;
    std::vector<float> x = random_floats(rows * hidden, 2);
    const std::vector<Bf16> added = random_bf16(rows * hidden, 3);
    const std::vector<float> bias = random_floats(hidden, 4), weight = random_floats(hidden, 5);
    const std::vector<int32_t> from{4, 1};
    const cuda::DeviceArray<float> residual(x), bias_there(bias), weight_there(weight);
    const cuda::DeviceArray<Bf16> added_there(added);
    const cuda::DeviceArray<int32_t> from_there(from);
    cuda::DeviceArray<Bf16> normed(from.size() * hidden), fragments(from.size() * hidden);
    cuda::NormArguments a;
    a.rows = 2;
    a.hidden = static_cast<int>(hidden);
    a.x = residual.data();
    a.from = from_there.data();
    a.added = added_there.data();
    a.bias = bias_there.data();
    a.weight = weight_there.data();
    a.normed = normed.data();
    a.fragments = fragments.data();
    cuda::check(cuda::rms_norm(a, nullptr), "norm");
    const std::vector<Bf16> got = normed.host(), in_fragments = fragments.host();
    const std::vector<float> after = residual.host();
    for (size_t r = 0; r < from.size(); ++r) {
      const size_t at = static_cast<size_t>(from[r]) * hidden;
      double squares = 0;
      std::vector<double> sum(hidden);
      for (size_t c = 0; c < hidden; ++c) {
        sum[c] = x[at + c] + value(added[at + c]) + bias[c];
        squares += sum[c] * sum[c];
        EXPECT_NEAR(after[at + c], sum[c], 1e-5);
      }
      const double scale = 1 / std::sqrt(squares / static_cast<double>(hidden) + 1e-6);
      for (size_t c = 0; c < hidden; ++c) {
        const double want = sum[c] * scale * weight[c];
        EXPECT_NEAR(value(got[r * hidden + c]), want, 0.005 * std::abs(want) + 1e-6);
        EXPECT_EQ(value(in_fragments[r * hidden + fragment_of(c)]), value(got[r * hidden + c]));
      }
    }
    EXPECT_EQ(after[0], x[0]);  // a row that isn't listed
  }
}

struct AttentionCase {
  const char* name;
  int heads, kv_heads, dim;
  cuda::HeadNorm norm;
  bool bias;
  float clip;
  std::vector<int> lengths;  // of the sequences, which all come at once
};

void PrintTo(const AttentionCase& c, std::ostream* out) { *out << c.name; }

class Attention : public GpuTest, public ::testing::WithParamInterface<AttentionCase> {
 protected:
  void SetUp() override {
    GpuTest::SetUp();
    const AttentionCase& c = GetParam();
    for (size_t s = 0; s < c.lengths.size(); ++s)
      for (int p = 0; p < c.lengths[s]; ++p) {
        sequences_.push_back(static_cast<int32_t>(s));
        positions_.push_back(p);
      }
    rows_ = sequences_.size();
    width_ = static_cast<size_t>((c.heads + 2 * c.kv_heads) * c.dim);
    projected_ = random_bf16(rows_ * width_, 7);
    bias_ = random_floats(width_, 8);
    q_norm_ = random_floats(static_cast<size_t>(c.heads * c.dim), 9);
    k_norm_ = random_floats(static_cast<size_t>(c.kv_heads * c.dim), 10);
    for (int i = 0; i < c.dim / 2; ++i)
      frequencies_.push_back(static_cast<float>(std::pow(10000.0, -2.0 * i / c.dim)));
  }

  // Queries (head < heads), then keys, then values of a row, as they go into the products.
  std::vector<double> head_of(size_t row, int head) const {
    const AttentionCase& c = GetParam();
    const auto raw = [&](int h, int d) {
      const size_t at = static_cast<size_t>(h * c.dim + d);
      return value(projected_[row * width_ + at]) + (c.bias ? bias_[at] : 0.0f);
    };
    const bool query = head < c.heads, rotated = head < c.heads + c.kv_heads;
    const int first = query ? 0 : c.heads, count = query ? c.heads : c.kv_heads;
    const bool whole = c.norm == cuda::HeadNorm::kWholeProjection;
    double squares = 0;
    for (int h = whole ? first : head; h < (whole ? first + count : head + 1); ++h)
      for (int d = 0; d < c.dim; ++d) squares += raw(h, d) * raw(h, d);
    const double scale = 1 / std::sqrt(squares / (c.dim * (whole ? count : 1)) + 1e-6);
    std::vector<double> values;
    for (int d = 0; d < c.dim; ++d) {
      double v = raw(head, d);
      if (rotated && c.norm != cuda::HeadNorm::kNone)
        v *= scale *
             static_cast<double>(
                 (query ? q_norm_
                        : k_norm_)[static_cast<size_t>(whole ? (head - first) * c.dim + d : d)]);
      if (c.clip > 0) v = std::clamp(v, -static_cast<double>(c.clip), static_cast<double>(c.clip));
      values.push_back(v);
    }
    if (rotated) rotate(values, positions_[row]);
    for (double& v : values) v = value(__float2bfloat16(static_cast<float>(v)));
    return values;
  }

  void rotate(std::vector<double>& v, int position) const {
    const size_t half = v.size() / 2;
    for (size_t i = 0; i < half; ++i) {
      const double angle = static_cast<double>(static_cast<float>(position) * frequencies_[i]);
      const double a = v[i], b = v[i + half];
      v[i] = a * std::cos(angle) - b * std::sin(angle);
      v[i + half] = b * std::cos(angle) + a * std::sin(angle);
    }
  }

  std::vector<double> expected(size_t row, int head) const {
    const AttentionCase& c = GetParam();
    const int kv = head / (c.heads / c.kv_heads);
    const std::vector<double> q = head_of(row, head);
    std::vector<double> out(static_cast<size_t>(c.dim)), scores;
    const size_t first = row - static_cast<size_t>(positions_[row]);
    for (size_t r = first; r <= row; ++r) {
      const std::vector<double> k = head_of(r, c.heads + kv);
      scores.push_back(std::inner_product(q.begin(), q.end(), k.begin(), 0.0) / std::sqrt(c.dim));
    }
    const double most = *std::max_element(scores.begin(), scores.end());
    double total = 0;
    for (double& s : scores) total += s = std::exp(s - most);
    for (size_t r = first; r <= row; ++r) {
      const std::vector<double> v = head_of(r, c.heads + c.kv_heads + kv);
      for (size_t d = 0; d < v.size(); ++d) out[d] += scores[r - first] / total * v[d];
    }
    return out;
  }

  // Every row at once, or one position of every sequence at a time.
  std::vector<Bf16> run(bool split, bool at_once);

  size_t rows_ = 0, width_ = 0;
  std::vector<int32_t> sequences_, positions_;
  std::vector<Bf16> projected_;
  std::vector<float> bias_, q_norm_, k_norm_, frequencies_;
};

std::vector<Bf16> Attention::run(bool split, bool at_once) {
  const AttentionCase& c = GetParam();
  const size_t positions = 96, sequences = c.lengths.size();
  const size_t cache_values = sequences * static_cast<size_t>(c.kv_heads * c.dim) * positions;
  cuda::DeviceArray<Bf16> keys(cache_values), values(cache_values);
  keys.fill(0);
  values.fill(0);
  const cuda::DeviceArray<Bf16> projected(projected_);
  const cuda::DeviceArray<float> bias(bias_), q_norm(q_norm_), k_norm(k_norm_),
      frequencies(frequencies_);
  const cuda::DeviceArray<int32_t> sequence(sequences_), position(positions_);
  const size_t q_width = static_cast<size_t>(c.heads * c.dim);
  cuda::DeviceArray<Bf16> queries(rows_ * q_width), out(rows_ * q_width);
  out.fill(0xFF);
  cuda::ProjectionArguments p;
  p.rows = static_cast<int>(rows_);
  p.heads = c.heads;
  p.projected = projected.data();
  p.bias = c.bias ? bias.data() : nullptr;
  p.norm = c.norm;
  p.q_norm = q_norm.data();
  p.k_norm = k_norm.data();
  p.clip = c.clip;
  p.frequencies = frequencies.data();
  p.sequences = sequence.data();
  p.positions = position.data();
  p.queries = queries.data();
  p.cache = {keys.data(), values.data(), c.kv_heads, c.dim, static_cast<int64_t>(positions)};
  cuda::check(cuda::finish_projections(p, nullptr), "projections");
  std::vector<int32_t> order(rows_);
  std::iota(order.begin(), order.end(), 0);
  std::vector<cuda::AttentionUnit> units;
  const int most = at_once ? cuda::rows_of_unit(c.heads, c.kv_heads) : 1;
  for (size_t r = 0; r < rows_; ++r) {
    if (units.empty() || units.back().sequence != sequences_[r] || units.back().count == most)
      units.push_back({static_cast<int32_t>(r), 0, sequences_[r]});
    ++units.back().count;
  }
  const cuda::DeviceArray<int32_t> order_there(order);
  const cuda::DeviceArray<cuda::AttentionUnit> units_there(units);
  cuda::AttentionArguments a;
  a.heads = c.heads;
  a.units = static_cast<int>(units.size());
  a.unit = units_there.data();
  a.order = order_there.data();
  a.positions = position.data();
  a.queries = queries.data();
  a.cache = p.cache;
  a.out = out.data();
  a.split = split;
  cuda::check(cuda::attend(a, nullptr), "attention");
  return out.host();
}

TEST_P(Attention, MatchesFloat64) {
  const AttentionCase& c = GetParam();
  std::vector<double> want;
  double largest = 0;
  for (size_t r = 0; r < rows_; ++r)
    for (int h = 0; h < c.heads; ++h)
      for (const double v : expected(r, h)) {
        want.push_back(v);
        largest = std::max(largest, std::abs(v));
      }
  for (const bool split : {false, true})
    for (const bool at_once : {false, true}) {
      const std::vector<Bf16> got = run(split, at_once);
      double worst = 0;
      for (size_t i = 0; i < got.size(); ++i)
        worst = std::max(
            worst, std::isfinite(value(got[i])) ? std::abs(value(got[i]) - want[i]) : INFINITY);
      EXPECT_LT(worst, 0.01 * largest) << "split " << split << ", at once " << at_once;
    }
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, Attention,
    ::testing::Values(
        AttentionCase{"nano", 4, 2, 64, cuda::HeadNorm::kPerHead, false, 0, {33, 1, 64}},
        AttentionCase{"qwen3", 32, 4, 128, cuda::HeadNorm::kPerHead, false, 0, {5, 40}},
        AttentionCase{"olmoe", 4, 4, 128, cuda::HeadNorm::kWholeProjection, false, 1.5f, {17, 31}},
        AttentionCase{"biased", 6, 2, 32, cuda::HeadNorm::kNone, true, 0, {90, 2}},
        AttentionCase{"wide", 16, 1, 96, cuda::HeadNorm::kNone, false, 0, {66}},
        AttentionCase{"fives", 5, 1, 64, cuda::HeadNorm::kNone, false, 0, {32, 33}}),
    [](const auto& tested) { return tested.param.name; });

TEST_F(TokenOps, DenseProductsAddAndConvert) {
  const int64_t rows = 3, inputs = 64, outputs = 40;
  const std::vector<Bf16> x = random_bf16(static_cast<size_t>(rows * inputs), 11);
  const std::vector<Bf16> w = random_bf16(static_cast<size_t>(outputs * inputs), 12);
  const cuda::DeviceArray<Bf16> x_there(x), w_there(w);
  cuda::DeviceArray<Bf16> short_y(static_cast<size_t>(rows * outputs));
  const std::vector<float> before = random_floats(static_cast<size_t>(rows * outputs), 13);
  const cuda::DeviceArray<float> y(before);
  cuda::DenseProducts products;
  products.multiply(
      {rows, inputs, outputs, x_there.data(), w_there.data(), short_y.data(), false, false},
      nullptr);
  products.multiply({rows, inputs, outputs, x_there.data(), w_there.data(), y.data(), true, true},
                    nullptr);
  const std::vector<Bf16> got_short = short_y.host();
  const std::vector<float> got = y.host();
  for (int64_t i = 0; i < rows * outputs; ++i) {
    double want = 0;
    for (int64_t c = 0; c < inputs; ++c)
      want += value(x[static_cast<size_t>(i / outputs * inputs + c)]) *
              value(w[static_cast<size_t>(i % outputs * inputs + c)]);
    const size_t at = static_cast<size_t>(i);
    EXPECT_NEAR(got[at], want + before[at], 1e-4);
    EXPECT_NEAR(value(got_short[at]), want, 0.005 * std::abs(want) + 1e-3);
  }
}

TEST_F(TokenOps, SamplesTheLikeliestOrByTheShares) {
  const int vocabulary = 1000, rows = 400;
  std::vector<float> logits(static_cast<size_t>(vocabulary) * rows, -20.0f);
  for (size_t r = 0; r < rows; ++r) {  // three tokens of shares 1/7, 2/7, 4/7
    logits[r * vocabulary + 5] = 0.0f;
    logits[r * vocabulary + 500] = std::log(2.0f);
    logits[r * vocabulary + 999] = std::log(4.0f);
  }
  const cuda::DeviceArray<float> there(logits);
  const cuda::DeviceArray<int32_t> round(std::vector<int32_t>{3});
  const cuda::DeviceArray<int32_t> positions(std::vector<int32_t>(rows, 17));
  cuda::DeviceArray<int32_t> tokens(rows);
  cuda::SampleArguments a{rows, vocabulary,   there.data(),     0,
                          42,   round.data(), positions.data(), tokens.data()};
  cuda::check(cuda::sample(a, nullptr), "sample");
  for (const int32_t token : tokens.host()) EXPECT_EQ(token, 999);
  a.temperature = 1;
  cuda::check(cuda::sample(a, nullptr), "sample");
  const std::vector<int32_t> drawn = tokens.host();
  const auto share = [&](int32_t token) {
    return static_cast<double>(std::count(drawn.begin(), drawn.end(), token)) / rows;
  };
  EXPECT_NEAR(share(5), 1.0 / 7, 0.08);
  EXPECT_NEAR(share(500), 2.0 / 7, 0.1);
  EXPECT_NEAR(share(999), 4.0 / 7, 0.1);
  cuda::check(cuda::sample(a, nullptr), "sample");
  EXPECT_EQ(tokens.host(), drawn);
}

TEST_F(TokenOps, StepsAreLoggedAndCounted) {
  const cuda::DeviceArray<int32_t> tokens(std::vector<int32_t>{7, 8, 9});
  const cuda::DeviceArray<int32_t> positions(std::vector<int32_t>{1, 2, 3});
  const cuda::DeviceArray<int32_t> step(std::vector<int32_t>{1});
  cuda::DeviceArray<int32_t> log(9);
  log.fill(0);
  cuda::check(
      cuda::advance_step(tokens.data(), 3, positions.data(), step.data(), log.data(), nullptr),
      "advance");
  EXPECT_EQ(positions.host(), (std::vector<int32_t>{2, 3, 4}));
  EXPECT_EQ(step.host().front(), 2);
  EXPECT_EQ(log.host(), (std::vector<int32_t>{0, 0, 0, 7, 8, 9, 0, 0, 0}));
}

TEST(TokenOpsArguments, SizesOutOfBoundsAreRefused) {
  EXPECT_EQ(cuda::embed(nullptr, nullptr, 0, 32, nullptr, nullptr), cudaErrorInvalidValue);
  cuda::NormArguments norm;
  norm.rows = 1;
  norm.hidden = 33;
  EXPECT_EQ(cuda::rms_norm(norm, nullptr), cudaErrorInvalidValue);
  cuda::AttentionArguments attention;
  attention.units = 1;
  attention.heads = 17;
  attention.cache = {nullptr, nullptr, 1, 64, 32};
  EXPECT_EQ(cuda::attend(attention, nullptr), cudaErrorInvalidValue);
  attention.heads = 4;
  attention.cache.head_dim = 80;
  EXPECT_EQ(cuda::attend(attention, nullptr), cudaErrorInvalidValue);
  EXPECT_EQ(cuda::sample({}, nullptr), cudaErrorInvalidValue);
}

}  // namespace
}  // namespace thermoe::test
