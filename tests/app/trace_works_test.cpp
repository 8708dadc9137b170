#include "trace_works.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include "nano.h"
#include "thermoe/error.h"
#include "twin_files.h"

namespace thermoe::app {
namespace {

TEST(TraceWorks, ReadsSizesFromTheNames) {
  const TraceWorks works(source("data/telemetry/works.json"));
  const auto gemm = works.find("gemm_bf16_4096", h100());
  ASSERT_TRUE(gemm.has_value());
  EXPECT_DOUBLE_EQ(gemm->work.flops, 2.0 * 4096 * 4096 * 4096);
  EXPECT_DOUBLE_EQ(gemm->work.bytes, 3.0 * 2 * 4096 * 4096);
  const auto fp8 = works.find("gemm_fp8_4096", h100());
  ASSERT_TRUE(fp8.has_value());
  EXPECT_LT(fp8->work.latency_us, 0.6 * gemm->work.latency_us);
  EXPECT_TRUE(works.find("cool", h100())->idle);
  EXPECT_EQ(works.find("copy_2GiB", h100())->work.sm_active_frac, 0);
}

TEST(TraceWorks, LayersAreMeasuredOrBetween) {
  const TraceWorks works(source("data/telemetry/works.json"));
  EXPECT_DOUBLE_EQ(works.find("moe_B16_d64", h100())->work.latency_us, 250.8);
  const double between = works.find("moe_B16_d96", h100())->work.latency_us;
  EXPECT_NEAR(between, (250.8 + 474.5) / 2, 1e-9);
  EXPECT_LT(works.find("moe_B8_d8", h100())->work.latency_us, 80.6);
  EXPECT_TRUE(works.find("moe_B256_d128", h100()).has_value());   // 16 tokens an expert: one tile
  EXPECT_FALSE(works.find("moe_B512_d128", h100()).has_value());  // arithmetic gets in
}

TEST(TraceWorks, WhatItDoesNotKnowItSays) {
  const TraceWorks works(source("data/telemetry/works.json"));
  for (const char* name : {"", "prefill", "gemm_bf16_", "gemm_bf16_8192x", "gemm_fp64_128",
                           "moe_B16", "moe_B16_d", "moe_B0_d4", "moe_B16_d-3"})
    EXPECT_FALSE(works.find(name, h100()).has_value()) << name;
}

TEST(TraceWorks, NamesWhatIsWrongInTheFile) {
  const std::string head = R"({"schema":"thermoe-trace-works","version":1,"works":)";
  const std::pair<std::string, const char*> files[] = {
      {R"({"schema":"other","version":1})", "schema"},
      {head + "[]}", "no filled list"},
      {head + R"([{"kind":"sort","prefix":"x"}]})", "\"sort\" is not known"},
      {head + R"([{"kind":"copy","prefix":"x"}]})", "bytes_per_s"},
      {head + R"([{"kind":"gemm","prefix":"x","element_bytes":0}]})", "element_bytes"},
      {head + R"([{"kind":"moe","prefix":"m","hidden_size":1,"expert_inter_size":1,"top_k":1,
         "element_bytes":2,"tile_rows":16,"distinct_experts":[4,2],"latency_us":[1,2]}]})",
       "don't rise"}};
  for (const auto& [text, words] : files) {
    const ScratchFile file("works.json", text);
    try {
      TraceWorks{file.path()};
      FAIL() << text;
    } catch (const IoError& error) {
      EXPECT_NE(std::string(error.what()).find(words), std::string::npos) << error.what();
    }
  }
}

}  // namespace
}  // namespace thermoe::app
