// The runtime against transformers: logits of the golden models (tests/golden/make_models.py), by
// prefill, by decode and by both, to 1e-4 where they reach 4 to 13.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <numeric>
#include <string>
#include <vector>

#include "model/mapped_file.h"
#include "model/safetensors.h"
#include "model_files.h"
#include "thermoe/adaptive_router.h"
#include "thermoe/checkpoint.h"
#include "thermoe/thread_pool.h"
#include "thermoe/transformer.h"

namespace thermoe {
namespace {

namespace fs = std::filesystem;

const fs::path kGolden = fs::path(THERMOE_SOURCE_DIR) / "tests/golden/models";
constexpr float kTolerance = 1e-4f;

// A row of a batch: token `position` of `sequence`.
struct Row {
  int sequence;
  int position;
};

// The model in `directory`, with the tokens and logits that lie beside it.
class Runner {
 public:
  explicit Runner(const fs::path& directory)
      : checkpoint_(directory), pool_(2), transformer_(checkpoint_, pool_) {
    sequences_ = nlohmann::json::parse(test::read_all(directory / "tokens.json"))["sequences"]
                     .get<std::vector<std::vector<int32_t>>>();
    const MappedFile file(directory / "logits.safetensors");
    const auto header =
        parse_safetensors_header(file.bytes(), file.bytes().size(), file.path().string());
    for (size_t s = 0; s < sequences_.size(); ++s) {
      const StoredTensor& stored = header.at("logits." + std::to_string(s));
      std::vector<float> values(stored.size_bytes / sizeof(float));
      std::memcpy(values.data(), file.bytes().data() + stored.begin_byte, stored.size_bytes);
      expected_.push_back(std::move(values));
    }
    reset();
  }

  void reset() {
    cache_ = std::make_unique<KvCache>(transformer_.config(), static_cast<int>(sequences_.size()),
                                       longest());
  }
  int longest() const {
    size_t out = 0;
    for (const auto& tokens : sequences_) out = std::max(out, tokens.size());
    return static_cast<int>(out);
  }
  int length(int sequence) const { return static_cast<int>(sequences_[sequence].size()); }
  int vocabulary() const { return static_cast<int>(transformer_.config().vocab_size); }

  // Logits [rows, vocabulary] of one pass that routes as one group.
  std::vector<float> forward(const std::vector<Row>& rows, RoutingPolicy& policy) {
    std::vector<int32_t> tokens, sequences, positions, wanted(rows.size());
    for (const Row& row : rows) {
      tokens.push_back(sequences_[row.sequence][row.position]);
      sequences.push_back(row.sequence);
      positions.push_back(row.position);
    }
    std::iota(wanted.begin(), wanted.end(), 0);
    const RowGroup all{0, static_cast<int64_t>(rows.size())};
    std::vector<float> logits(rows.size() * vocabulary());
    RoutingContext routing;
    routing.policy = &policy;
    transformer_.forward({tokens, sequences, positions, {&all, 1}}, routing, *cache_, wanted,
                         Matrix(logits.data(), all.count, vocabulary()));
    return logits;
  }

  // Largest difference from transformers' logits of these rows; infinite where one is NaN.
  float worst_difference(const std::vector<Row>& rows) {
    const std::vector<float> logits = forward(rows, top_k_);
    float worst = 0;
    for (size_t r = 0; r < rows.size(); ++r) {
      const float* expected =
          expected_[rows[r].sequence].data() + int64_t{rows[r].position} * vocabulary();
      for (int v = 0; v < vocabulary(); ++v) {
        const float difference = std::fabs(logits[r * vocabulary() + v] - expected[v]);
        worst = std::max(worst, std::isnan(difference) ? INFINITY : difference);
      }
    }
    return worst;
  }

  // Rows [begin, end) of every sequence that is that long, sequence by sequence.
  std::vector<Row> rows_of_all(int begin, int end) const {
    std::vector<Row> rows;
    for (int s = 0; s < static_cast<int>(sequences_.size()); ++s) {
      for (int p = begin; p < std::min(end, length(s)); ++p) rows.push_back({s, p});
    }
    return rows;
  }

 protected:
  Checkpoint checkpoint_;
  ThreadPool pool_;
  Transformer transformer_;
  std::unique_ptr<KvCache> cache_;
  TopKPolicy top_k_;
  std::vector<std::vector<int32_t>> sequences_;
  std::vector<std::vector<float>> expected_;  // [sequence][position x vocabulary]
};

class Golden : public testing::TestWithParam<const char*>, protected Runner {
 protected:
  Golden() : Runner(kGolden / GetParam()) {}
};

TEST_P(Golden, PrefillOfOneSequence) {
  for (int s = 0; s < static_cast<int>(sequences_.size()); ++s) {
    std::vector<Row> rows;
    for (int p = 0; p < length(s); ++p) rows.push_back({s, p});
    EXPECT_LE(worst_difference(rows), kTolerance);
  }
}

TEST_P(Golden, PrefillOfAllSequencesAtOnce) {
  EXPECT_LE(worst_difference(rows_of_all(0, longest())), kTolerance);
}

TEST_P(Golden, DecodeTokenByToken) {
  for (int p = 0; p < longest(); ++p)
    EXPECT_LE(worst_difference(rows_of_all(p, p + 1)), kTolerance);
}

TEST_P(Golden, PrefillThenDecodeThenAChunk) {
  EXPECT_LE(worst_difference(rows_of_all(0, 4)), kTolerance);
  EXPECT_LE(worst_difference(rows_of_all(4, 5)), kTolerance);
  EXPECT_LE(worst_difference(rows_of_all(5, longest())), kTolerance);
}

TEST_P(Golden, AdaptiveRoutingWithoutPricesIsBitIdentical) {
  AdaptiveRouter adaptive;
  const std::vector<Row> rows = rows_of_all(0, longest());
  const std::vector<float> plain = forward(rows, top_k_);
  reset();
  const std::vector<float> routed = forward(rows, adaptive);
  EXPECT_EQ(std::memcmp(plain.data(), routed.data(), plain.size() * sizeof(float)), 0);
}

// The golden logits do depend on each of these: a runtime that ignored one would be seen.
TEST(GoldenLogits, NoticeEveryChangedSetting) {
  struct Change {
    const char* model;
    nlohmann::json setting;
  };
  const Change changes[] = {
      {"qwen3-tied", {{"norm_topk_prob", false}}},
      {"qwen3-tied", {{"num_experts_per_tok", 1}}},
      {"qwen3-tied", {{"rope_parameters", {{"rope_theta", 20000.0}}}}},
      {"qwen3-tied", {{"rms_norm_eps", 1e-3}}},
      {"qwen3-dense-layers", {{"attention_bias", false}}},
      {"qwen3-dense-layers", {{"norm_topk_prob", true}}},
      {"olmoe", {{"norm_topk_prob", true}}},
      {"olmoe", {{"rope_theta", 20000.0}}},
      {"olmoe-clip", {{"clip_qkv", nullptr}}},
      {"olmoe-clip", {{"attention_bias", false}}},
      {"mixtral", {{"rope_theta", 10000.0}}},
  };
  for (const Change& change : changes) {
    const test::TemporaryDirectory copy;
    fs::copy(kGolden / change.model, copy.path(), fs::copy_options::recursive);
    auto config = nlohmann::json::parse(test::read_all(copy.path() / "config.json"));
    config.update(change.setting);
    test::write_file(copy.path() / "config.json", config.dump());
    Runner runner(copy.path());
    EXPECT_GT(runner.worst_difference(runner.rows_of_all(0, runner.longest())), 10 * kTolerance)
        << change.model << " " << change.setting;
  }
}

INSTANTIATE_TEST_SUITE_P(Models, Golden,
                         testing::Values("qwen3-tied", "qwen3-dense-layers", "qwen3-sparse-step",
                                         "olmoe", "olmoe-clip", "mixtral", "mixtral-tied"),
                         [](const auto& model) {
                           std::string name = model.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

}  // namespace
}  // namespace thermoe
