// --variants: lists, layouts and bytes.
#include "variants.h"

#include <gtest/gtest.h>

#include "nano.h"
#include "refusals.h"
#include "thermoe/routing_policies.h"

namespace thermoe::app {
namespace {

// A dense layer, one that is quantised throughout, one with an expert left in bf16.
std::vector<LayerVariants> quantized_layers() {
  LayerVariants all{.stored = {0, 0, 0},
                    .quantized = {1, 1, 1},
                    .int8_error_frac = {0.001f, 0.002f, 0.003f},
                    .int4_error_frac = {0.01f, 0.02f, 2.0f},
                    .stored_bytes = 1000,
                    .int8_bytes = 520,
                    .int4_bytes = 270};
  LayerVariants some = all;
  some.stored[1] = 1;
  some.quantized[1] = 0;
  return {LayerVariants{}, all, some};
}

std::vector<LayerVariants> plain_layers() {
  LayerVariants plain;
  plain.stored = {1, 1};
  plain.quantized = {0, 0};
  plain.stored_bytes = 10;
  return {LayerVariants{}, plain};
}

TEST(VariantList, IsReadInOrderOfAccuracy) {
  EXPECT_EQ(parse_precisions("bf16,int8,int4"),
            (std::vector{Precision::kStored, Precision::kInt8, Precision::kInt4}));
  EXPECT_EQ(parse_precisions("int4"), std::vector{Precision::kInt4});
  EXPECT_EQ(parse_precisions("int8,fp8,int4"),
            (std::vector{Precision::kInt8, Precision::kFp8, Precision::kInt4}));
  EXPECT_ERROR(InvalidArgument, parse_precisions("fp8,int8"), "most accurate first");
  EXPECT_ERROR(InvalidArgument, parse_precisions("int8,int8"), "int8 is given twice");
  EXPECT_ERROR(InvalidArgument, parse_precisions("int4,int8"), "most accurate first");
  for (const char* bad : {"", "fp4", "int8,", ",int8", "int8 int4", "INT8"})
    EXPECT_ERROR(InvalidArgument, parse_precisions(bad), "known are bf16, int8, int4");
}

TEST(Variants, Fp8IsTheGpusAlone) {
  EXPECT_ERROR(InvalidArgument, Variants(plain_layers(), "fp8", "m"), "--device cuda");
  std::vector<LayerVariants> layers = plain_layers();
  layers[1].fp8 = {1, 1};
  layers[1].fp8_error_frac = 0.004f;
  layers[1].fp8_bytes = 5;
  const Variants both(layers, "bf16,fp8", "m");
  ASSERT_EQ(both.layout(1)->count(), 4);
  EXPECT_FLOAT_EQ(both.layout(1)->error_frac[1], 0.004f);
  EXPECT_FLOAT_EQ(both.layout(1)->variants[1].read_frac, 0.5f);
  const std::vector<ExpertPrices> prices = both.prices(2, 0.1f, 0.01f);
  EXPECT_FLOAT_EQ(prices[1].open[1], 0.05f);
  EXPECT_LT(prices[1].slope[1], prices[1].slope[0]);
  const Variants alone(layers, "fp8", "m");  // nobody is left in bf16
  EXPECT_EQ(alone.layout(1)->count(), 2);
}

TEST(Variants, DefaultsAreWhatTheCheckpointHolds) {
  const Variants plain(plain_layers(), "", "m");
  EXPECT_EQ(plain.name(), "bf16");
  EXPECT_TRUE(plain.layouts().empty());
  EXPECT_FALSE(plain.choice());
  const Variants quantized(quantized_layers(), "", "m");
  EXPECT_EQ(quantized.name(), "int8,int4");
  EXPECT_EQ(quantized.layouts().size(), 3u);
  EXPECT_TRUE(quantized.choice());
}

TEST(Variants, LayoutsHoldWhatEachExpertHas) {
  const Variants variants(quantized_layers(), "int8,int4", "m");
  EXPECT_EQ(variants.layout(0)->count(), 0);
  const ExpertLayout& all = *variants.layout(1);
  ASSERT_EQ(all.count(), 6);
  EXPECT_EQ(all.variant_of(2).name, "int8");
  EXPECT_EQ(all.variant_of(3).name, "int4");
  EXPECT_FLOAT_EQ(all.variant_of(2).read_frac, 0.52f);
  EXPECT_FLOAT_EQ(all.error_of(2), 0.002f);
  EXPECT_FLOAT_EQ(all.error_of(3), 0.02f);
  EXPECT_LT(all.error_of(5), 1.0f);  // as bad as left out, but no worse
  const ExpertLayout& some = *variants.layout(2);
  ASSERT_EQ(some.count(), 5);
  EXPECT_EQ(some.of(1).size(), 1u);
  EXPECT_EQ(some.variant_of(2).name, "bf16");
  EXPECT_EQ(some.variant_of(2).read_frac, 1.0f);
  EXPECT_EQ(some.error_of(2), 0.0f);
  const Variants one(quantized_layers(), "int4", "m");
  EXPECT_FALSE(one.choice());
  EXPECT_TRUE(one.layout(2)->one_each());
  // Prices are those of bf16, times the bytes.
  const auto prices = variants.prices(3, 0.1f, 0.01f);
  EXPECT_FLOAT_EQ(prices[2].open[2], 0.1f);
  EXPECT_FLOAT_EQ(prices[2].open[0], 0.052f);
  EXPECT_FLOAT_EQ(prices[2].slope[0], 0.01f);
  EXPECT_EQ(Variants(plain_layers(), "", "m").prices(2, 0.1f, 0)[1].open,
            (std::vector<float>{0.1f, 0.1f}));
}

TEST(Variants, ListsThatCannotBeServedAreRefused) {
  EXPECT_ERROR(InvalidArgument, Variants(plain_layers(), "int8", "models/nano"),
               "models/nano holds its experts in bf16 only: make a quantised checkpoint with "
               "thermoe quantize --model models/nano --out DIR");
  EXPECT_ERROR(InvalidArgument, Variants(plain_layers(), "bf16,int8", "m"), "thermoe quantize");
  EXPECT_ERROR(InvalidArgument, Variants(quantized_layers(), "bf16", "m"),
               "some experts in int8 and int4 only");
  EXPECT_EQ(Variants(quantized_layers(), "bf16,int8", "m").name(), "bf16,int8");
  std::vector<LayerVariants> none = quantized_layers();
  none.pop_back();
  EXPECT_ERROR(InvalidArgument, Variants(none, "bf16,int8", "m"), "that it was quantised from");
}

TEST(Variants, ReadsAreTheBytesOfEveryInstanceOpened) {
  const Variants variants(quantized_layers(), "int8,int4", "m");
  const ExpertLayout& layout = *variants.layout(2);
  RoutingPlan plan;
  plan.tokens = 3, plan.experts = 3, plan.k = 2;
  plan.ids = {0, 1, 0, 2, 1, -1};
  plan.instances = {0, 2, 0, 4, 2, -1};  // int8 of expert 0, bf16 of 1, int4 of 2
  plan.report.distinct_experts = 3;
  pack(plan, layout.count());
  const PlanReads reads = variants.reads_of(2, plan);
  EXPECT_DOUBLE_EQ(reads.bytes, 520 + 1000 + 270);
  EXPECT_DOUBLE_EQ(reads.bf16_experts, 1.79);
  EXPECT_EQ(reads.opened, (std::array<double, kPrecisions>{1, 1, 1}));
  EXPECT_EQ(precisions_text({0.5, 0, 0.5}), "bf16 50 %, int4 50 %");
  // As stored: the plan's experts.
  const PlanReads plain = Variants(plain_layers(), "", "m").reads_of(1, plan);
  EXPECT_DOUBLE_EQ(plain.bytes, 30);
  EXPECT_EQ(plain.instances(), 3);
}

// A quantised expert is charged as the bf16 experts that have as many bytes.
TEST(Charge, CountsAnInstanceAsItsShareOfBytes) {
  const Engine& engine = nano_engine();
  ModelConfig config;
  config.experts = 3, config.top_k = 2, config.layers = 3;
  config.sparse = {false, true, true};
  const Variants fine(quantized_layers(), "int8", "m"), coarse(quantized_layers(), "int4", "m");
  const Charge in_int8(engine.cost, config, fine), in_int4(engine.cost, config, coarse);
  RoutingPlan plan;
  plan.tokens = 2, plan.experts = 3, plan.k = 2;
  plan.ids = plan.instances = {0, 1, 0, 2};
  plan.report.distinct_experts = 3;
  pack(plan, 3);
  const double experts = std::min(engine.cost.shape().experts * 1.0,
                                  engine.cost.shape().top_k / 2.0 * 4);  // no more than pairs
  EXPECT_NEAR(in_int8.work_of(1, plan).distinct_experts, 0.52 * experts, 1e-9);
  EXPECT_NEAR(in_int4.work_of(1, plan).distinct_experts, 0.27 * experts, 1e-9);
  EXPECT_EQ(in_int8.work_of(1, plan).assignments, in_int4.work_of(1, plan).assignments);
  EXPECT_LT(in_int4.layer(1, plan).latency_us, in_int8.layer(1, plan).latency_us);
  EXPECT_EQ(in_int4.surrogate(4).open_us, in_int8.surrogate(4).open_us);
}

}  // namespace
}  // namespace thermoe::app
