// --kernels: what is chosen by, and what an explanation lists.
#include "kernel_choice.h"

#include <gtest/gtest.h>

#include <cstdlib>

#include "refusals.h"
#include "thermoe/error.h"

namespace thermoe::app {
namespace {

ModelConfig layer_of_qwen3() {
  ModelConfig config;
  config.hidden_size = 2048;
  config.expert_inter_size = 768;
  config.experts = 128;
  config.top_k = 8;
  return config;
}

// Takes as many microseconds as tokens, prefill half of it and 100.
class FakeSweep : public SweepBackend {
 public:
  std::string name() const override { return "cuda"; }
  std::string device() const override { return "Fake GPU"; }
  std::string driver() const override { return "none"; }
  int threads() const override { return 1; }
  SweepSample run(const SweepPoint& point, double) override {
    const auto tokens = static_cast<double>(point.tokens);
    SweepSample sample;
    sample.latency_us = point.kernel == "cuda_prefill" ? 100 + tokens / 2 : tokens;
    return sample;
  }
};

TEST(KernelChoice, WithoutAProfileOfSeveralKernelsThresholdsDecide) {
  setenv("THERMOE_HOME", THERMOE_SOURCE_DIR, 1);  // where the shipped profiles are
  const ModelConfig config = layer_of_qwen3();
  KernelOptions options;
  const KernelChoiceMade unknown = choose_kernels(options, config, "Fake GPU");
  EXPECT_EQ(unknown.chooser, nullptr);
  EXPECT_NE(unknown.why.find("no profile of Fake GPU"), std::string::npos);
  options.kernels = "triton";
  EXPECT_NE(choose_kernels(options, config, "Fake GPU").chooser, nullptr);
  options.profile = "some.json";
  EXPECT_REFUSED(choose_kernels(options, config, "Fake GPU"), "--kernels auto");
}

TEST(KernelChoice, ExplainsWhatWasChosenAndMeasured) {
  FakeSweep sweep;
  const auto explained = explain_kernels(sweep, {"cuda_experts", "cuda_prefill"}, layer_of_qwen3(),
                                         "bf16", {1, 4096}, {nullptr, nullptr, ""});
  ASSERT_EQ(explained.size(), 4u);
  EXPECT_TRUE(explained[0].chosen && explained[3].chosen);
  EXPECT_FALSE(explained[1].chosen || explained[2].chosen);
  EXPECT_EQ(explained[0].measured_us, 1.0);
  EXPECT_EQ(explained[3].measured_us, 2148.0);
  EXPECT_EQ(explained[0].predicted_us, std::nullopt);
  const std::string table = to_table(explained);
  EXPECT_NE(table.find("cuda_prefill"), std::string::npos);
  const auto json = to_json(explained);
  EXPECT_EQ(json[3].at("tokens"), 4096);
  EXPECT_TRUE(json[0].at("predicted_us").is_null());
}

}  // namespace
}  // namespace thermoe::app
