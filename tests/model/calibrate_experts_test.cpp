// The calibration of golden models against plain float64 on the layers' own inputs.
#include "thermoe/calibrate_experts.h"

#include <gtest/gtest.h>

#include <map>

#include "experts/direct_statistics.h"
#include "model/finite.h"
#include "thermoe/error.h"
#include "thermoe/transformer.h"

namespace thermoe {
namespace {

using test::DenseExpert;
using test::SeenRow;
using test::StoredWeight;

StoredWeight stored(const WeightView& view) {
  StoredWeight weight;
  weight.rows = view.rows;
  weight.cols = view.cols;
  weight.floats.resize(static_cast<size_t>(view.rows * view.cols));
  to_f32(view.data, view.dtype, weight.floats);
  return weight;
}

// Keeps what the layers saw.
class Witness : public PlanObserver {
 public:
  void on_plan(int layer, const RoutingPlan& plan) override { ids_[layer] = plan.ids; }
  void on_layer(const LayerPass& pass) override {
    const int layer = pass.layer.settings().layer;
    if (weights[layer].empty())
      for (int e = 0; e < pass.layer.experts(); ++e) {
        const SimpleExpert& expert = *pass.layer.expert(e).stored;
        weights[layer].push_back(
            {stored(expert.gate()), stored(expert.up()), stored(expert.down())});
      }
    const int k = pass.plan.k;
    for (int64_t r = 0; r < pass.x.rows; ++r) {
      const auto x = pass.x.row_span(r);
      const auto first = ids_[layer].begin() + r * k;
      rows[layer].push_back({{x.begin(), x.end()}, {first, first + k}, false});
    }
  }
  std::map<int, std::vector<DenseExpert>> weights;
  std::map<int, std::vector<SeenRow>> rows;

 private:
  std::map<int, std::vector<int32_t>> ids_;
};

class Calibration : public ::testing::TestWithParam<const char*> {
 protected:
  Calibration()
      : checkpoint_(std::filesystem::path(THERMOE_SOURCE_DIR) / "tests/golden/models" / GetParam()),
        pool_(2),
        model_(checkpoint_, pool_) {
    for (const int length : {40, 23}) {
      texts_.emplace_back();
      for (int t = 0; t < length; ++t)
        texts_.back().push_back(
            static_cast<int32_t>((t * t * 7 + length * t + 3) % checkpoint_.config().vocab_size));
    }
  }

  // The layers' inputs in windows of `context`.
  Witness witness(size_t context) {
    Witness out;
    TopKPolicy policy;
    for (const auto& text : texts_)
      for (size_t first = 0; first < text.size(); first += context) {
        KvCache cache(model_.config(), 1, static_cast<int64_t>(context));
        const auto window = std::span(text).subspan(first, std::min(context, text.size() - first));
        std::vector<int32_t> zeros(window.size()), positions(window.size());
        std::iota(positions.begin(), positions.end(), 0);
        const RowGroup all{0, static_cast<int64_t>(window.size())};
        model_.forward({window, zeros, positions, {&all, 1}},
                       {.policy = &policy, .prices = {}, .observer = &out}, cache, {}, {});
      }
    return out;
  }

  Checkpoint checkpoint_;
  ThreadPool pool_;
  Transformer model_;
  std::vector<std::vector<int32_t>> texts_;
};

TEST_P(Calibration, AgreesWithFloat64) {
  Witness seen = witness(16);
  int64_t reported = 0;
  for (const int64_t sampled : {1000, 10}) {
    CalibrationSettings settings;
    settings.context = 16;
    settings.similarity_tokens = sampled;
    settings.progress = [&reported](int64_t done, int64_t total) {
      EXPECT_EQ(total, 63);
      reported = done;
    };
    const ExpertCalibration got = calibrate_experts(model_, texts_, pool_, settings);
    EXPECT_EQ(reported, 63);
    EXPECT_EQ(got.tokens, 63);
    EXPECT_EQ(got.similarity_tokens, std::min<int64_t>(sampled, 63));
    EXPECT_EQ(got.experts, model_.config().experts);
    EXPECT_EQ(got.top_k, model_.config().top_k);
    ASSERT_EQ(got.layers.size(), static_cast<size_t>(model_.config().layers));
    for (int l = 0; l < model_.config().layers; ++l) {
      const LayerCalibration& layer = got.layers[static_cast<size_t>(l)];
      if (!model_.config().sparse[static_cast<size_t>(l)]) {
        EXPECT_TRUE(layer.load_frac.empty() && layer.similarity.empty());
        continue;
      }
      int64_t kept = 0;
      for (int64_t t = 0; t < 63; ++t) {
        // 10 of 63: the last token of every tenth part.
        const bool sample = sampled > 63 || (t * 10 + 10) / 63 != t * 10 / 63;
        seen.rows[l][static_cast<size_t>(t)].sampled = sample;
        kept += sample ? 1 : 0;
      }
      EXPECT_EQ(kept, got.similarity_tokens);
      test::expect_near(layer, test::direct_statistics(seen.weights[l], seen.rows[l]));
    }
    EXPECT_NO_THROW(check_calibration(got, model_.config()));
  }
}

TEST_P(Calibration, ThreadsDoNotChangeIt) {
  const ExpertCalibration two = calibrate_experts(model_, texts_, pool_);
  for (const int threads : {1, 3}) {
    ThreadPool pool(threads);
    Transformer model(checkpoint_, pool);
    const ExpertCalibration other = calibrate_experts(model, texts_, pool);
    for (size_t l = 0; l < two.layers.size(); ++l) {
      EXPECT_EQ(two.layers[l].load_frac, other.layers[l].load_frac);
      EXPECT_EQ(two.layers[l].output_norm, other.layers[l].output_norm);
      EXPECT_EQ(two.layers[l].output_square, other.layers[l].output_square);
      EXPECT_EQ(two.layers[l].similarity, other.layers[l].similarity);
    }
  }
}

TEST_P(Calibration, RefusesWhatItCannotDo) {
  const auto run = [&](std::vector<std::vector<int32_t>> texts, int64_t context, int64_t sampled) {
    CalibrationSettings settings;
    settings.context = context;
    settings.similarity_tokens = sampled;
    calibrate_experts(model_, texts, pool_, settings);
  };
  EXPECT_THROW(run({}, 16, 16), InvalidArgument);
  EXPECT_THROW(run({{}, {}}, 16, 16), InvalidArgument);
  EXPECT_THROW(run({{1, 2}}, 0, 16), InvalidArgument);
  EXPECT_THROW(run({{1, 2}}, 16, 0), InvalidArgument);
  EXPECT_THROW(run({{1, 1 << 20}}, 16, 16), InvalidArgument);
  EXPECT_NO_THROW(run({{}, {1}}, 16, 16));
}

TEST_P(Calibration, OfAnotherModelIsRefused) {
  ExpertCalibration good = calibrate_experts(model_, texts_, pool_);
  good.model = "other-one";
  const auto complaint = [&](const ExpertCalibration& calibration) -> std::string {
    try {
      check_calibration(calibration, model_.config());
    } catch (const InvalidArgument& error) {
      EXPECT_NE(std::string(error.what()).find("'other-one'"), std::string::npos);
      return error.what();
    }
    return "";
  };
  EXPECT_EQ(complaint(good), "");
  ExpertCalibration bad = good;
  bad.layers.emplace_back();
  EXPECT_NE(complaint(bad).find(std::to_string(bad.layers.size()) + " layers"), std::string::npos);
  bad = good;
  bad.experts += 1;
  EXPECT_NE(complaint(bad).find(std::to_string(bad.experts) + " experts"), std::string::npos);
  bad = good;
  bad.top_k += 1;
  EXPECT_NE(complaint(bad).find("top-" + std::to_string(bad.top_k)), std::string::npos);
  bad = good;
  bad.layers[1] = {};
  EXPECT_NE(complaint(bad).find("layer 1 is sparse here"), std::string::npos);
}

INSTANTIATE_TEST_SUITE_P(GoldenModels, Calibration,
                         ::testing::Values("olmoe", "mixtral", "qwen3-dense-layers",
                                           "qwen3-sparse-step"));

}  // namespace
}  // namespace thermoe
