// The CPU runtime on a golden model: whatever way the rows are batched, and bad arguments.
#include "thermoe/transformer.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <numeric>

#include "thermoe/error.h"

namespace thermoe {
namespace {

constexpr int kSequences = 3, kLength = 20;

class Runtime : public ::testing::TestWithParam<const char*> {
 protected:
  explicit Runtime(int threads = 2)
      : checkpoint_(std::filesystem::path(THERMOE_SOURCE_DIR) / "tests/golden/models" / GetParam()),
        pool_(threads),
        model_(checkpoint_, pool_) {}

  int64_t vocabulary() const { return model_.config().vocab_size; }
  int32_t token(int sequence, int position) const {
    return static_cast<int32_t>((sequence * 31 + position * 7 + 3) % vocabulary());
  }

  // Appends rows of `sequence` at positions [begin, end).
  void add(int sequence, int begin, int end) {
    for (int p = begin; p < end; ++p) {
      tokens_.push_back(token(sequence, p));
      sequences_.push_back(sequence);
      positions_.push_back(p);
    }
  }

  // Runs the rows added so far as one group; their logits go to results_[sequence, position].
  void run(Transformer& model, KvCache& cache) {
    std::vector<int32_t> wanted(tokens_.size());
    std::iota(wanted.begin(), wanted.end(), 0);
    const RowGroup all{0, static_cast<int64_t>(tokens_.size())};
    std::vector<float> logits(tokens_.size() * static_cast<size_t>(vocabulary()));
    model.forward({tokens_, sequences_, positions_, {&all, 1}},
                  {.policy = &policy_, .prices = {}, .observer = nullptr}, cache, wanted,
                  Matrix(logits.data(), all.count, vocabulary()));
    results_.resize(static_cast<size_t>(kSequences * kLength * vocabulary()));
    for (size_t r = 0; r < tokens_.size(); ++r)
      std::copy_n(logits.begin() + static_cast<int64_t>(r) * vocabulary(), vocabulary(),
                  results_.begin() + (sequences_[r] * kLength + positions_[r]) * vocabulary());
    clear();
  }
  void clear() {
    tokens_.clear();
    sequences_.clear();
    positions_.clear();
  }
  std::vector<float> prefill_each(Transformer& model) {
    KvCache cache(model.config(), kSequences, kLength);
    for (int s = 0; s < kSequences; ++s) {
      add(s, 0, kLength);
      run(model, cache);
    }
    return std::move(results_);
  }
  static float difference(const std::vector<float>& a, const std::vector<float>& b) {
    float worst = a.size() == b.size() ? 0.0f : INFINITY;
    for (size_t i = 0; i < std::min(a.size(), b.size()); ++i)
      worst = std::max(worst, std::fabs(a[i] - b[i]));
    return worst;
  }

  Checkpoint checkpoint_;
  ThreadPool pool_;
  Transformer model_;
  TopKPolicy policy_;
  std::vector<int32_t> tokens_, sequences_, positions_;
  std::vector<float> results_;
};

TEST_P(Runtime, DecodeAndChunksEqualPrefill) {
  const std::vector<float> prefill = prefill_each(model_);
  KvCache cache(model_.config(), kSequences, kLength);
  for (int p = 0; p < kLength; ++p) {
    for (int s = 0; s < kSequences; ++s) add(s, p, p + 1);
    run(model_, cache);
  }
  // Below multiply()'s crossover to sgemm a row's bits don't depend on its batch at all.
  EXPECT_EQ(difference(prefill, results_), 0.0f);
  results_.clear();
  KvCache fresh(model_.config(), kSequences, kLength);
  for (int begin = 0; begin < kLength; begin += 18) {  // 54 rows, then 6
    const int end = std::min(begin + 18, kLength);
    for (int p = begin; p < end; ++p)  // position by position: rows of a sequence lie apart
      for (int s = 0; s < kSequences; ++s) add(s, p, p + 1);
    run(model_, fresh);
  }
  EXPECT_LE(difference(prefill, results_), 1e-4f);
}

TEST_P(Runtime, ThreadsDoNotChangeTheLogits) {
  const std::vector<float> two = prefill_each(model_);
  for (const int threads : {1, 4}) {
    ThreadPool pool(threads);
    Transformer model(checkpoint_, pool);
    EXPECT_EQ(two, prefill_each(model)) << threads << " threads";
  }
}

TEST_P(Runtime, RewindingOverwritesTheCache) {
  const std::vector<float> prefill = prefill_each(model_);
  KvCache cache(model_.config(), kSequences, kLength);
  for (int s = 0; s < kSequences; ++s) {
    add((s + 1) % kSequences, 0, kLength);  // something else first
    for (int32_t& sequence : sequences_) sequence = s;
    run(model_, cache);
  }
  results_.clear();
  for (int s = 0; s < kSequences; ++s) {
    add(s, 0, 8);
    run(model_, cache);
    add(s, 8, kLength);
    run(model_, cache);
  }
  EXPECT_LE(difference(prefill, results_), 1e-4f);
}

TEST_P(Runtime, OnlyTheWantedRowsHaveLogits) {
  const std::vector<float> prefill = prefill_each(model_);
  KvCache cache(model_.config(), 1, kLength);
  add(0, 0, kLength);
  const std::vector<int32_t> wanted{0, 7, 19};
  const RowGroup all{0, kLength};
  std::vector<float> logits(3 * static_cast<size_t>(vocabulary()));
  model_.forward({tokens_, sequences_, positions_, {&all, 1}},
                 {.policy = &policy_, .prices = {}, .observer = nullptr}, cache, wanted,
                 Matrix(logits.data(), 3, vocabulary()));
  for (size_t i = 0; i < wanted.size(); ++i)
    for (int64_t v = 0; v < vocabulary(); ++v)
      ASSERT_EQ(logits[i * static_cast<size_t>(vocabulary()) + static_cast<size_t>(v)],
                prefill[static_cast<size_t>(wanted[i] * vocabulary() + v)]);
}

TEST_P(Runtime, RefusesBadArguments) {
  KvCache cache(model_.config(), 2, kLength);
  std::vector<float> logits(static_cast<size_t>(4 * vocabulary()));
  std::vector<RowGroup> groups{{0, 2}};
  std::vector<int32_t> wanted;
  RoutingContext routing{.policy = &policy_, .prices = {}, .observer = nullptr};
  const auto refused = [&] {
    try {
      model_.forward({tokens_, sequences_, positions_, groups}, routing, cache, wanted,
                     Matrix(logits.data(), static_cast<int64_t>(wanted.size()), vocabulary()));
    } catch (const InvalidArgument&) {
      return true;
    }
    return false;
  };
  const auto rows = [&](std::vector<int32_t> tokens, std::vector<int32_t> sequences,
                        std::vector<int32_t> positions) {
    tokens_ = std::move(tokens);
    sequences_ = std::move(sequences);
    positions_ = std::move(positions);
  };
  rows({1, 2}, {0, 0}, {0, 1});
  EXPECT_FALSE(refused());
  rows({1, static_cast<int32_t>(vocabulary())}, {0, 0}, {0, 1});
  EXPECT_TRUE(refused());
  rows({1, -1}, {0, 0}, {0, 1});
  EXPECT_TRUE(refused());
  rows({1, 2}, {0, 2}, {0, 0});  // no such sequence
  EXPECT_TRUE(refused());
  rows({1, 2}, {0, 1}, {0, kLength});  // no such position
  EXPECT_TRUE(refused());
  rows({1, 2}, {1, 1}, {1, 2});  // position 0 isn't there
  EXPECT_TRUE(refused());
  rows({1, 2}, {0, 0}, {0, 2});  // a gap
  EXPECT_TRUE(refused());
  rows({1, 2}, {0, 0}, {1, 0});  // falling
  EXPECT_TRUE(refused());
  rows({1, 2}, {0}, {0, 1});
  EXPECT_TRUE(refused());
  rows({1, 2}, {0, 0}, {0, 1});
  groups = {{0, 1}};
  EXPECT_TRUE(refused());
  groups = {{0, 2}};
  wanted = {1, 0};
  EXPECT_TRUE(refused());
  wanted = {2};
  EXPECT_TRUE(refused());
  wanted = {1};
  routing.policy = nullptr;
  EXPECT_TRUE(refused());
  routing.policy = &policy_;
  const std::vector<ExpertPrices> prices(1);
  routing.prices = prices;
  EXPECT_EQ(refused(), model_.config().layers != 1);
  routing.prices = {};
  EXPECT_FALSE(refused());
  EXPECT_THROW(KvCache(model_.config(), 0, 4), InvalidArgument);
  EXPECT_THROW(KvCache(model_.config(), 1, model_.config().max_positions + 1), InvalidArgument);
  ModelConfig other = model_.config();
  ++other.layers;
  KvCache foreign(other, 2, kLength);
  EXPECT_THROW(model_.forward({tokens_, sequences_, positions_, groups}, routing, foreign, {}, {}),
               InvalidArgument);
}

INSTANTIATE_TEST_SUITE_P(Models, Runtime,
                         ::testing::Values("qwen3-dense-layers", "qwen3-tied", "olmoe-clip",
                                           "mixtral"),
                         [](const auto& model) {
                           std::string name = model.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

}  // namespace
}  // namespace thermoe
