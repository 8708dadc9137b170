// The GPU runtime against the CPU's: every family, every way to route, decode graphs.
#include "thermoe/cuda_transformer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <memory>
#include <numeric>
#include <vector>

#include "kernels/cuda/gpu.h"
#include "random_checkpoint.h"
#include "thermoe/error.h"
#include "thermoe/quantize_checkpoint.h"
#include "thermoe/routing_policies.h"
#include "thermoe/transformer.h"

namespace thermoe {
namespace {

using test::GpuTest;
using test::RandomCheckpoint;

constexpr const char* kQwen3 = R"({"model_type": "qwen3_moe", "architectures":
  ["Qwen3MoeForCausalLM"], "hidden_size": 128, "head_dim": 32, "num_attention_heads": 4,
  "num_key_value_heads": 2, "moe_intermediate_size": 64, "intermediate_size": 96,
  "num_experts": 8, "num_experts_per_tok": 3, "num_hidden_layers": 3, "mlp_only_layers": [1],
  "decoder_sparse_step": 1, "attention_bias": true, "norm_topk_prob": false, "hidden_act": "silu",
  "rms_norm_eps": 1e-6, "rope_theta": 1000000.0, "vocab_size": 251,
  "max_position_embeddings": 256, "tie_word_embeddings": false})";
constexpr const char* kOlmoe = R"({"model_type": "olmoe", "architectures": ["OlmoeForCausalLM"],
  "hidden_size": 96, "num_attention_heads": 3, "num_key_value_heads": 3, "intermediate_size": 32,
  "num_experts": 12, "num_experts_per_tok": 4, "num_hidden_layers": 2, "norm_topk_prob": false,
  "clip_qkv": 1.0, "hidden_act": "silu", "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
  "vocab_size": 130, "max_position_embeddings": 256, "tie_word_embeddings": false})";
constexpr const char* kMixtral = R"({"model_type": "mixtral", "architectures":
  ["MixtralForCausalLM"], "hidden_size": 256, "num_attention_heads": 4, "num_key_value_heads": 1,
  "intermediate_size": 96, "num_local_experts": 4, "num_experts_per_tok": 2,
  "num_hidden_layers": 2, "hidden_act": "silu", "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
  "vocab_size": 200, "max_position_embeddings": 256, "tie_word_embeddings": true})";

std::filesystem::path nano() { return std::filesystem::path(THERMOE_SOURCE_DIR) / "models/nano"; }

// Some sequences, their positions in turn: groups of one position each.
struct Rows {
  std::vector<int32_t> tokens, sequences, positions, wanted;
  std::vector<RowGroup> groups;

  Rows(int count, int first, int length, int64_t vocabulary) {
    for (int p = first; p < first + length; ++p) {
      groups.push_back({static_cast<int64_t>(tokens.size()), count});
      for (int s = 0; s < count; ++s) {
        tokens.push_back(static_cast<int32_t>((s * 31 + p * 7 + 3) % vocabulary));
        sequences.push_back(s);
        positions.push_back(p);
      }
    }
    wanted.resize(tokens.size());
    std::iota(wanted.begin(), wanted.end(), 0);
  }
  TokenBatch batch() const { return {tokens, sequences, positions, groups}; }
};

std::vector<float> logits_of(LanguageModel& model, const Rows& rows, const RoutingContext& routing,
                             SequenceCache& cache) {
  const int64_t vocabulary = model.config().vocab_size;
  std::vector<float> logits(rows.tokens.size() * static_cast<size_t>(vocabulary), NAN);
  model.forward(rows.batch(), routing, cache, rows.wanted,
                Matrix(logits.data(), static_cast<int64_t>(rows.tokens.size()), vocabulary));
  return logits;
}

std::vector<float> logits_of(LanguageModel& model, const Rows& rows,
                             const RoutingContext& routing) {
  const auto cache = model.make_cache(16, 128);
  return logits_of(model, rows, routing, *cache);
}

// Root of the mean squared difference, of the root of b's mean square.
double relative_error(const std::vector<float>& a, const std::vector<float>& b) {
  double difference = 0, size = 0;
  for (size_t i = 0; i < b.size(); ++i) {
    const double d = static_cast<double>(a[i]) - static_cast<double>(b[i]);
    difference += d * d;
    size += static_cast<double>(b[i]) * static_cast<double>(b[i]);
  }
  return std::sqrt(difference / size);
}

class Plans : public PlanObserver {
 public:
  void on_plan(int layer, const RoutingPlan& plan) override {
    layers.push_back(layer);
    plans.push_back(plan);
  }
  std::vector<int> layers;
  std::vector<RoutingPlan> plans;
};

class CudaRuntime : public GpuTest {
 protected:
  void SetUp() override {
    GpuTest::SetUp();
    if (IsSkipped()) return;
    checkpoint_ = std::make_unique<Checkpoint>(nano());
    cpu_ = std::make_unique<Transformer>(*checkpoint_, pool_);
    gpu_ = make_cuda_transformer(*checkpoint_);
  }
  std::vector<ExpertPrices> prices(float open) const {
    return std::vector<ExpertPrices>(static_cast<size_t>(cpu_->config().layers),
                                     ExpertPrices::uniform(cpu_->config().experts, open));
  }

  ThreadPool pool_{2};
  std::unique_ptr<Checkpoint> checkpoint_;
  std::unique_ptr<Transformer> cpu_;
  std::unique_ptr<LanguageModel> gpu_;
  TopKPolicy top_k_;
};

TEST_F(CudaRuntime, NanosLogitsAreTheCpus) {
  const Rows rows(16, 0, 40, gpu_->config().vocab_size);
  const RoutingContext routing{.policy = &top_k_, .prices = {}};
  // Activations of bf16 against f32's, and the experts that they swap now and then.
  EXPECT_LT(relative_error(logits_of(*gpu_, rows, routing), logits_of(*cpu_, rows, routing)), 0.05);
}

TEST_F(CudaRuntime, ChunksAndDecodeStepsAddUp) {
  const RoutingContext routing{.policy = &top_k_, .prices = {}};
  const Rows all(3, 0, 50, gpu_->config().vocab_size);
  const std::vector<float> whole = logits_of(*gpu_, all, routing);
  const auto cache = gpu_->make_cache(3, 64);
  std::vector<float> parts;
  for (const auto& [first, length] : {std::pair(0, 33), std::pair(33, 1), std::pair(34, 16)}) {
    const Rows rows(3, first, length, gpu_->config().vocab_size);
    const std::vector<float> logits = logits_of(*gpu_, rows, routing, *cache);
    parts.insert(parts.end(), logits.begin(), logits.end());
  }
  EXPECT_LT(relative_error(parts, whole), 0.01);
}

TEST_F(CudaRuntime, FamiliesAgreeWithTheCpu) {
  const std::pair<const char*, const char*> families[] = {
      {"qwen3", kQwen3}, {"olmoe", kOlmoe}, {"mixtral", kMixtral}};
  for (const auto& [name, config] : families) {
    const RandomCheckpoint files(name, config);
    const Checkpoint checkpoint(files.directory());
    Transformer cpu(checkpoint, pool_);
    const auto gpu = make_cuda_transformer(checkpoint);
    const Rows rows(5, 0, 30, cpu.config().vocab_size);
    const RoutingContext routing{.policy = &top_k_, .prices = {}};
    // Random routers are undecided: a token whose k-th and next expert swap shows in its logits.
    EXPECT_LT(relative_error(logits_of(*gpu, rows, routing), logits_of(cpu, rows, routing)), 0.1)
        << name;
  }
}

TEST_F(CudaRuntime, AnyPolicyOnTheHostIsThatOfTheDevice) {
  const Rows rows(16, 0, 12, gpu_->config().vocab_size);
  const auto climb = make_routing_policy("adaptive:search=climb");
  const auto proven = make_routing_policy("adaptive:search=proven");
  for (const float open : {0.0f, 0.02f, 0.2f}) {
    const std::vector<ExpertPrices> priced = prices(open);
    Plans on_device, on_host;
    const auto a =
        logits_of(*gpu_, rows, {.policy = climb.get(), .prices = priced, .observer = &on_device});
    const auto b =
        logits_of(*gpu_, rows, {.policy = proven.get(), .prices = priced, .observer = &on_host});
    ASSERT_EQ(on_device.plans.size(), on_host.plans.size());
    ASSERT_EQ(on_device.layers, on_host.layers);
    double device_worth = 0, host_worth = 0;
    for (size_t p = 0; p < on_device.plans.size(); ++p) {
      const RoutingReport &mine = on_device.plans[p].report, &theirs = on_host.plans[p].report;
      device_worth += mine.objective;
      host_worth += theirs.objective;
      if (p >= rows.groups.size()) continue;  // the first layer alone has the same logits
      EXPECT_EQ(mine.top_k_distinct_experts, theirs.top_k_distinct_experts);
      EXPECT_LE(mine.objective, theirs.bound + 1e-3);
      EXPECT_GE(mine.bound, theirs.objective - 1e-3);
      if (open == 0.0f) {
        EXPECT_EQ(on_device.plans[p].ids, on_host.plans[p].ids);
        EXPECT_EQ(mine.changed_tokens, 0);
      }
    }
    EXPECT_NEAR(device_worth, host_worth, 0.02 * std::abs(host_worth) + 0.01);
    if (open == 0.0f) {
      EXPECT_LT(relative_error(a, b), 1e-5);
    }
  }
}

TEST_F(CudaRuntime, FirstLayersPlansAreTheCpuClimbs) {
  // The logits differ in their last bits, so may plans; but not often.
  const Rows rows(16, 0, 20, gpu_->config().vocab_size);
  const auto climb = make_routing_policy("adaptive:search=climb");
  const std::vector<ExpertPrices> priced = prices(0.05f);
  Plans mine, theirs;
  logits_of(*gpu_, rows, {.policy = climb.get(), .prices = priced, .observer = &mine});
  logits_of(*cpu_, rows, {.policy = climb.get(), .prices = priced, .observer = &theirs});
  int same = 0, pairs = 0;
  for (size_t p = 0; p < rows.groups.size(); ++p)
    for (size_t i = 0; i < mine.plans[p].ids.size(); ++i, ++pairs)
      same += mine.plans[p].ids[i] == theirs.plans[p].ids[i];
  EXPECT_GT(same, pairs * 97 / 100);
}

// Prefills and decodes, greedily or not; prices change between the two calls.
std::vector<int32_t> decoded(LanguageModel& model, RoutingPolicy& policy, int sequences,
                             double temperature, std::span<const std::vector<ExpertPrices>> prices,
                             bool one_by_one) {
  const int prompt = 10, steps = 12;
  const auto cache = model.make_cache(sequences, 64);
  const Rows rows(sequences, 0, prompt, model.config().vocab_size);
  logits_of(model, rows, {.policy = &policy, .prices = prices[0]}, *cache);
  std::vector<int32_t> tokens(static_cast<size_t>(sequences), 5), all;
  std::vector<int32_t> positions(tokens.size(), prompt);
  for (const std::vector<ExpertPrices>& at : prices) {
    for (int done = 0; done < steps; done += one_by_one ? 1 : steps) {
      const int some = one_by_one ? 1 : steps;
      std::vector<int32_t> sampled(tokens.size() * static_cast<size_t>(some));
      model.decode({tokens, positions, some, {temperature, 9, 2}},
                   {.policy = &policy, .prices = at}, *cache, sampled);
      all.insert(all.end(), sampled.begin(), sampled.end());
      tokens.assign(sampled.end() - sequences, sampled.end());
      for (int32_t& position : positions) position += some;
    }
  }
  return all;
}

TEST_F(CudaRuntime, GraphsDecodeAsStepsDoAndSeeNewPrices) {
  const auto climb = make_routing_policy("adaptive:search=climb");
  const std::vector<std::vector<ExpertPrices>> varied{prices(0.1f), prices(0.02f)};
  const std::vector<std::vector<ExpertPrices>> steady{prices(0.1f), prices(0.1f)};
  for (const double temperature : {0.0, 0.8}) {
    const auto ahead = decoded(*gpu_, *climb, 8, temperature, varied, false);
    EXPECT_EQ(decoded(*gpu_, *climb, 8, temperature, varied, true), ahead);
    EXPECT_NE(decoded(*gpu_, *climb, 8, temperature, steady, false), ahead);
  }
}

TEST_F(CudaRuntime, AtZeroPricesTokensAreTopKs) {
  const auto climb = make_routing_policy("adaptive:search=climb");
  const std::vector<std::vector<ExpertPrices>> zero{prices(0), prices(0)};
  for (const int sequences : {1, 16})
    EXPECT_EQ(decoded(*gpu_, *climb, sequences, 0.8, zero, false),
              decoded(*gpu_, top_k_, sequences, 0.8, zero, false));
}

TEST_F(CudaRuntime, TheObserverSeesTheLastStep) {
  Plans plans;
  const auto cache = gpu_->make_cache(4, 32);
  const std::vector<int32_t> tokens{1, 2, 3, 4}, positions(4, 0);
  std::vector<int32_t> sampled(4 * 5);
  gpu_->decode({tokens, positions, 5, {}}, {.policy = &top_k_, .prices = {}, .observer = &plans},
               *cache, sampled);
  ASSERT_EQ(plans.plans.size(), static_cast<size_t>(gpu_->config().layers));
  EXPECT_EQ(plans.plans[0].tokens, 4);
  EXPECT_DOUBLE_EQ(plans.plans[0].report.gate_mass_frac, 1.0);
  EXPECT_EQ(plans.plans[0].report.distinct_experts, plans.plans[0].report.top_k_distinct_experts);
}

TEST_F(CudaRuntime, QuantizedExpertsRunInTheirPrecisions) {
  const std::filesystem::path to = std::filesystem::temp_directory_path() / "thermoe-cuda-nested";
  std::filesystem::remove_all(to);
  std::vector<int32_t> text(256);
  for (size_t i = 0; i < text.size(); ++i) text[i] = static_cast<int32_t>(i * 37 % 4000);
  quantize_checkpoint(*checkpoint_, {&text, 1}, to, pool_);
  {
    const Checkpoint nested(to);
    Transformer cpu(nested, pool_);
    const auto gpu = make_cuda_transformer(nested);
    const Rows few(8, 0, 3, cpu.config().vocab_size);     // planes on the decode kernel
    const Rows many(16, 0, 40, cpu.config().vocab_size);  // as bf16 on the prefill kernel
    for (const char* precision : {"int8", "int4"}) {
      ExpertLayout layout = ExpertLayout::single(cpu.config().experts);
      layout.variants = {{precision, 0.0f, 1.0f}};
      const std::vector<ExpertLayout> layouts(static_cast<size_t>(cpu.config().layers), layout);
      const RoutingContext routing{.policy = &top_k_, .prices = {}, .layouts = layouts};
      for (const Rows* rows : {&few, &many})  // the CPU's inputs are int8
        EXPECT_LT(relative_error(logits_of(*gpu, *rows, routing), logits_of(cpu, *rows, routing)),
                  0.1)
            << precision << ", " << rows->tokens.size() << " rows";
    }
  }
  std::filesystem::remove_all(to);
}

TEST_F(CudaRuntime, Fp8IsCloseToBf16) {
  std::unique_ptr<LanguageModel> gpu;
  try {
    gpu = make_cuda_transformer(*checkpoint_, {.fp8 = true});
  } catch (const InvalidArgument& error) {
    GTEST_SKIP() << error.what();
  }
  ExpertLayout fp8 = ExpertLayout::single(gpu->config().experts);
  fp8.variants = {{"fp8", 0.0f, 0.5f}};
  ExpertLayout both = ExpertLayout::with_variants(gpu->config().experts,
                                                  {{"bf16", 0.0f, 1.0f}, {"fp8", 0.003f, 0.5f}});
  const std::vector<ExpertLayout> alone(static_cast<size_t>(gpu->config().layers), fp8);
  const std::vector<ExpertLayout> choice(static_cast<size_t>(gpu->config().layers), both);
  for (const Rows& rows : {Rows(16, 0, 40, gpu->config().vocab_size), Rows(3, 0, 2, 100)}) {
    const RoutingContext plain{.policy = &top_k_, .prices = {}};
    const std::vector<float> bf16 = logits_of(*gpu, rows, plain);
    const RoutingContext coarse{.policy = &top_k_, .prices = {}, .layouts = alone};
    const double error = relative_error(logits_of(*gpu, rows, coarse), bf16);
    EXPECT_GT(error, 1e-4);
    EXPECT_LT(error, 0.15);
    // Where both can be had and nothing costs anything, bf16 it is.
    const auto climb = make_routing_policy("adaptive:search=climb");
    const RoutingContext free{.policy = climb.get(), .prices = {}, .layouts = choice};
    EXPECT_LT(relative_error(logits_of(*gpu, rows, free), bf16), 0.05);
  }
}

TEST_F(CudaRuntime, BadCallsAreRefusedAndLoseNothing) {
  const auto cache = gpu_->make_cache(2, 16);
  const RoutingContext routing{.policy = &top_k_, .prices = {}};
  Rows rows(2, 0, 4, gpu_->config().vocab_size);
  rows.tokens[3] = static_cast<int32_t>(gpu_->config().vocab_size);
  EXPECT_THROW(logits_of(*gpu_, rows, routing, *cache), InvalidArgument);
  const Rows gap(2, 1, 4, gpu_->config().vocab_size);
  EXPECT_THROW(logits_of(*gpu_, gap, routing, *cache), InvalidArgument);
  KvCache foreign(gpu_->config(), 2, 16);
  const Rows good(2, 0, 4, gpu_->config().vocab_size);
  EXPECT_THROW(logits_of(*gpu_, good, routing, foreign), InvalidArgument);
  std::vector<int32_t> tokens{1, 2}, positions{0, 0}, sampled(2 * 17);
  EXPECT_THROW(gpu_->decode({tokens, positions, 17, {}}, routing, *cache, sampled),
               InvalidArgument);
  EXPECT_THROW(gpu_->make_cache(0, 4), InvalidArgument);
  EXPECT_TRUE(std::isfinite(logits_of(*gpu_, good, routing, *cache).back()));
}

TEST(CudaRuntimeRefusals, ShapesThatNoKernelTakes) {
  const Checkpoint golden(std::filesystem::path(THERMOE_SOURCE_DIR) /
                          "tests/golden/models/qwen3-tied");
  try {
    make_cuda_transformer(golden);
    FAIL() << "head_dim 20 was taken";
  } catch (const InvalidArgument& error) {
    EXPECT_NE(std::string(error.what()).find("--device cpu"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace thermoe
