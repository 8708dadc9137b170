// thermoe quantize's work on the golden models of the three families.
#include "thermoe/quantize_checkpoint.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "kernels/cpu/nested_pack.h"
#include "model/finite.h"
#include "model/model_files.h"
#include "model/transformer_weights.h"
#include "thermoe/transformer.h"

namespace thermoe {
namespace {

namespace fs = std::filesystem;
using test::io_error_of;
using test::TemporaryDirectory;

std::vector<std::vector<int32_t>> some_texts(int64_t vocab_size) {
  std::vector<std::vector<int32_t>> texts;
  for (const int length : {200, 73}) {
    texts.emplace_back();
    for (int t = 0; t < length; ++t)
      texts.back().push_back(static_cast<int32_t>((t * t * 7 + length * t + 3) % vocab_size));
  }
  return texts;
}

class Quantize : public ::testing::TestWithParam<const char*> {
 protected:
  Quantize()
      : source_(fs::path(THERMOE_SOURCE_DIR) / "tests/golden/models" / GetParam()),
        pool_(2),
        out_(folder_.path() / "out") {}

  QuantizeResult run(const QuantizeSettings& settings = {}) {
    return quantize_checkpoint(source_, some_texts(source_.config().vocab_size), out_, pool_,
                               settings);
  }
  // What a row of tokens is to a model.
  static std::vector<float> logits(const Checkpoint& checkpoint, ThreadPool& pool,
                                   std::span<const ExpertLayout> layouts = {}) {
    Transformer model(checkpoint, pool);
    const std::vector<int32_t> tokens = some_texts(checkpoint.config().vocab_size)[1];
    std::vector<int32_t> sequences(tokens.size()), positions(tokens.size()), rows(tokens.size());
    std::iota(positions.begin(), positions.end(), 0);
    std::iota(rows.begin(), rows.end(), 0);
    const RowGroup all{0, static_cast<int64_t>(tokens.size())};
    KvCache cache(checkpoint.config(), 1, static_cast<int64_t>(tokens.size()));
    TopKPolicy policy;
    std::vector<float> out(tokens.size() * static_cast<size_t>(checkpoint.config().vocab_size));
    RoutingContext routing{.policy = &policy, .prices = {}, .observer = nullptr};
    routing.layouts = layouts;
    model.forward(
        {tokens, sequences, positions, {&all, 1}}, routing, cache, rows,
        Matrix(out.data(), static_cast<int64_t>(tokens.size()), checkpoint.config().vocab_size));
    return out;
  }

  TemporaryDirectory folder_;
  Checkpoint source_;
  ThreadPool pool_;
  fs::path out_;
};

double distance(const std::vector<float>& a, const std::vector<float>& b) {
  double sum = 0, size = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    sum += std::pow(static_cast<double>(a[i]) - static_cast<double>(b[i]), 2);
    size += std::pow(static_cast<double>(a[i]), 2);
  }
  return std::sqrt(sum / size);
}

TEST_P(Quantize, WritesWhatTheLoaderTakesBack) {
  const QuantizeResult result = run();
  EXPECT_EQ(result.calibration_tokens, 273);
  const Checkpoint back(out_);
  const ModelConfig& config = back.config();
  EXPECT_EQ(config.plane_ratio, 12);
  EXPECT_EQ(config.sparse, source_.config().sparse);
  EXPECT_NO_THROW(back.check_finite());
  const TransformerWeights weights = bind_weights(back, make_moe_workspace());
  int64_t experts = 0;
  for (int l = 0; l < config.layers; ++l) {
    const LayerWeights& layer = weights.layers[static_cast<size_t>(l)];
    if (!layer.moe) continue;
    const LayerVariants& variants = layer.variants;
    for (int e = 0; e < config.experts; ++e, ++experts) {
      const size_t at = static_cast<size_t>(e);
      EXPECT_FALSE(variants.stored[at]);
      EXPECT_TRUE(variants.quantized[at]);
      EXPECT_GT(variants.int8_error_frac[at], 0);
      EXPECT_LT(variants.int8_error_frac[at], 0.002f);
      EXPECT_GT(variants.int4_error_frac[at], 3 * variants.int8_error_frac[at]);
      EXPECT_LT(variants.int4_error_frac[at], 0.1f);
    }
  }
  EXPECT_EQ(experts, result.experts);
  EXPECT_FALSE(fs::exists(out_.string() + ".partial"));
}

TEST_P(Quantize, KeepsTheWeightsInInt8) {
  run();
  const Checkpoint back(out_);
  const TransformerWeights before = bind_weights(source_, make_moe_workspace());
  const TransformerWeights after = bind_weights(back, make_moe_workspace());
  for (size_t l = 0; l < before.layers.size(); ++l) {
    if (!before.layers[l].moe) continue;
    for (int e = 0; e < source_.config().experts; ++e) {
      const WeightView& dense = before.layers[l].moe->expert(e).stored->down();
      const NestedView& planes = after.layers[l].moe->expert(e).quantized->down();
      std::vector<float> wanted(static_cast<size_t>(dense.rows * dense.cols)), got(wanted.size());
      to_f32(dense.data, dense.dtype, wanted);
      cpu::dequantize_nested(planes, Planes::kBoth, Matrix(got.data(), dense.rows, dense.cols));
      EXPECT_LT(distance(wanted, got), 0.015) << "layer " << l << " expert " << e;
    }
  }
}

TEST_P(Quantize, ChangesLogitsLittle) {
  const std::vector<float> exact = logits(source_, pool_);
  run();
  const Checkpoint back(out_);
  EXPECT_LT(distance(exact, logits(back, pool_)), 0.03);
  const std::vector<ExpertLayout> int4(
      static_cast<size_t>(back.config().layers),
      ExpertLayout::with_variants(back.config().experts, {{.name = "int4"}}));
  const double coarse = distance(exact, logits(back, pool_, int4));
  EXPECT_LT(coarse, 0.3);
  EXPECT_GT(coarse, distance(exact, logits(back, pool_)));
}

TEST_P(Quantize, DependsOnNoThreadCount) {
  run();
  const Checkpoint first(out_);
  out_ = folder_.path() / "again";
  ThreadPool one(1);
  quantize_checkpoint(source_, some_texts(source_.config().vocab_size), out_, one);
  for (const auto& entry : fs::directory_iterator(out_))
    EXPECT_EQ(test::read_all(entry.path()),
              test::read_all(first.directory() / entry.path().filename()))
        << entry.path();
}

TEST_P(Quantize, KeepsExpertsThatItIsTold) {
  int layer = 0;
  while (!source_.config().sparse[static_cast<size_t>(layer)]) ++layer;
  const QuantizeResult result = run({.keep = {{layer, 1}}, .progress = {}});
  EXPECT_EQ(result.kept_experts, 1);
  const Checkpoint back(out_);
  const TransformerWeights weights = bind_weights(back, make_moe_workspace());
  const MoeLayer& moe = *weights.layers[static_cast<size_t>(layer)].moe;
  EXPECT_TRUE(moe.expert(1).stored.has_value());
  EXPECT_FALSE(moe.expert(1).quantized.has_value());
  EXPECT_FALSE(moe.expert(0).stored.has_value());
  EXPECT_NO_THROW(logits(back, pool_));
  for (const auto& bad : {std::pair(layer, 100), {99, 0}, {-1, 0}})
    EXPECT_THROW(quantize_checkpoint(source_, {}, folder_.path() / "other", pool_,
                                     {.keep = {bad}, .progress = {}}),
                 InvalidArgument);
}

TEST_P(Quantize, LeavesNothingWhereItIsInterrupted) {
  // A killed process leaves its shards; the next run clears them away.
  fs::create_directories(out_.string() + ".partial");
  test::write_file(fs::path(out_.string() + ".partial") / "model-00001-of-00009.safetensors", "x");
  QuantizeSettings settings;
  settings.progress = [](int64_t done, int64_t experts) {
    if (done > experts / 2) throw std::runtime_error("stop");
  };
  EXPECT_THROW(run(settings), std::runtime_error);
  EXPECT_FALSE(fs::exists(out_));
  EXPECT_FALSE(fs::exists(out_.string() + ".partial"));
  run();
  EXPECT_TRUE(fs::exists(out_ / "config.json"));
  const std::string taken = io_error_of([this] { run(); });
  EXPECT_NE(taken.find("is there already"), std::string::npos) << taken;
  const Checkpoint back(out_);
  EXPECT_THROW(quantize_checkpoint(back, {}, folder_.path() / "twice", pool_), InvalidArgument);
}

TEST_P(Quantize, MeasuresErrorsWithoutAText) {
  quantize_checkpoint(source_, {}, out_, pool_);
  const Checkpoint back(out_);
  const Transformer model(back, pool_);
  for (const LayerVariants& variants : model.variants())
    for (const float error : variants.int4_error_frac) {
      EXPECT_GT(error, 0.001f);
      EXPECT_LT(error, 0.1f);
    }
}

TEST_P(Quantize, SaysWhatADamagedCheckpointLacks) {
  run();
  const fs::path config = out_ / "config.json";
  const std::string text = test::read_all(config);
  const auto with = [&](const std::string& from, const std::string& to) {
    std::string changed = text;
    changed.replace(changed.find(from), from.size(), to);
    test::write_file(config, changed);
    return io_error_of([this] { Checkpoint{out_}; });
  };
  EXPECT_NE(with("thermoe-nested", "gptq").find("thermoe quantize"), std::string::npos);
  EXPECT_NE(with("\"group_size\": 32", "\"group_size\": 64").find("only 32"), std::string::npos);
  EXPECT_NE(with("\"plane_ratio\": 12", "\"plane_ratio\": 17").find("plane_ratio"),
            std::string::npos);
  // A shape that the planes don't have.
  std::string changed = text;
  const std::string size = "\"hidden_size\": 48";
  changed.replace(changed.find(size), size.size(), "\"hidden_size\": 96");
  test::write_file(config, changed);
  EXPECT_NE(io_error_of([this] {
              const Checkpoint wrong(out_);
              bind_weights(wrong, make_moe_workspace());
            }).find("shape"),
            std::string::npos);
}

INSTANTIATE_TEST_SUITE_P(Families, Quantize,
                         ::testing::Values("qwen3-dense-layers", "olmoe", "mixtral"),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

}  // namespace
}  // namespace thermoe
