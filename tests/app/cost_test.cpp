// thermoe cost and thermoe fit as a person meets them.
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "cost/kernel_shape.h"
#include "program.h"

namespace thermoe::app {
namespace {

using nlohmann::json;

json run_json(const std::string& arguments) {
  const Outcome outcome = run(arguments + " --json -");
  EXPECT_EQ(outcome.status, 0) << arguments << "\n" << outcome.error;
  EXPECT_EQ(outcome.error, "");
  return outcome.status == 0 ? json::parse(outcome.out) : json();
}

TEST(Cost, EachOperationAsJson) {
  for (const char* operation : {"experts", "linear", "attention", "elementwise", "dense-step"}) {
    const json result = run_json(std::string("cost --tokens 1,16,256 --op ") + operation);
    EXPECT_EQ(result.at("device"), "NVIDIA H100 80GB HBM3");
    EXPECT_EQ(result.at("operation"), operation);
    ASSERT_EQ(result.at("estimates").size(), 3u) << operation;
    double last_us = 0;
    for (const json& e : result["estimates"]) {
      for (const char* key : {"latency_us", "uncertainty_frac", "energy_mj", "bytes"})
        EXPECT_GT(e.at(key).get<double>(), 0) << operation << " " << key;
      EXPECT_TRUE(e.at("bound_by").is_string());
      EXPECT_GE(e["latency_us"].get<double>(), last_us * 0.9) << operation;
      last_us = e["latency_us"];
    }
  }
}

TEST(Cost, AskedAtSizesClocksAndOtherProfiles) {
  const std::string profiles = std::string(THERMOE_SOURCE_DIR) + "/data/profiles/";
  const auto us = [](const std::string& arguments) {
    return run_json("cost " + arguments)["estimates"][0]["latency_us"].get<double>();
  };
  const json measured = run_json("cost --tokens 16 --shape qwen3-30b-a3b")["estimates"][0];
  EXPECT_NEAR(measured["latency_us"].get<double>(), 420.38, 1e-9);  // as in the table
  EXPECT_EQ(measured["source"], "measured");
  EXPECT_EQ(run_json("cost --tokens 16 --tp 2 --ep 2")["estimates"][0]["source"], "transferred");
  EXPECT_LT(us("--tokens 16 --distinct 40"), us("--tokens 16 --distinct 120"));
  EXPECT_LT(us("--tokens 64 --distribution power_law_1.2"), us("--tokens 64"));
  EXPECT_LT(us("--tokens 16 --dtype fp8_block --kernel vllm_fp8moe_triton_tritonexperts"),
            us("--tokens 16"));
  EXPECT_GT(us("--tokens 8192 --clock-mhz 1000"), 1.3 * us("--tokens 8192"));
  EXPECT_LT(us("--tokens 16 --profile " + profiles + "h200-sxm.json"), us("--tokens 16"));
  EXPECT_GT(us("--op attention --tokens 1 --sequences 16 --context 30000"),
            10 * us("--op attention --tokens 1 --sequences 16 --context 1000"));
}

TEST(Cost, PrintsATable) {
  const Outcome outcome = run("cost --op linear --inputs 2048 --outputs 4096 --tokens 1,64");
  ASSERT_EQ(outcome.status, 0) << outcome.error;
  for (const char* part :
       {"NVIDIA H100", "linear", "latency us", "energy mJ", "bound by", "memory", "transferred"})
    EXPECT_NE(outcome.out.find(part), std::string::npos) << part << "\n" << outcome.out;
}

TEST(Cost, SaysWhatItDoesNotKnow) {
  expect_refusal("cost --shape gpt-0", "olmoe-1b-7b");
  expect_refusal("cost --dtype fp6", "bf16 (vllm_unquantizedfusedmoe_triton_tritonexperts)");
  expect_refusal("cost --kernel mine", "no measured kernel for moe bf16 (mine)");
  expect_refusal("cost --distribution odd", "\"odd\"");
  expect_refusal("cost --tp 7", "divide");
  expect_refusal("cost --ep 7", "divide");
  expect_refusal("cost --top-k 200", "top_k");
  expect_refusal("cost --tokens 0.5", "0.5 tokens");
  expect_refusal("cost --tokens 1e300", "tokens");
  expect_refusal("cost --profile /nonexistent.json", "/nonexistent.json");
  expect_refusal("cost --csv /nonexistent.csv", "/nonexistent.csv");
  EXPECT_EQ(run("cost --op convolution").status, 2);
  EXPECT_EQ(run("cost --tokens -1").status, 2);
}

// A table of `kernel` on `device` whose times follow a roofline that no profile knows.
std::string made_up_table(const std::string& device, const std::string& kernel) {
  std::string text =
      "framework,version,device,op_name,kernel_source,moe_dtype,num_tokens,hidden_size,inter_size,"
      "topk,num_experts,moe_tp_size,moe_ep_size,distribution,latency\n";
  for (const char* distribution : {"balanced", "power_law_1.2"})
    for (int inter : {512, 768, 1024, 2048})
      for (int ep : {1, 2})
        for (int tokens : {1, 4, 16, 64, 256, 1024}) {
          cost::KernelShape shape{cost::Operation::kExperts,       2048, inter, 64, 4, 1, ep,
                                  distribution[0] == 'b' ? 0 : 1.2};
          const double us = cost::roofline(shape, cost::load_of(shape, tokens),
                                           cost::peaks_of("bf16", 3e12, 8e14),
                                           {30, 1.4, 1, 0.7, 0.7, 0.2, 4, 4, 3, 1})
                                .total_us;
          text += "X,1," + device + ",moe," + kernel + ",bfloat16," + std::to_string(tokens) +
                  ",2048," + std::to_string(inter) + ",4,64,1," + std::to_string(ep) + "," +
                  distribution + "," + std::to_string(us * 1e-3) + "\n";
        }
  return text;
}

TEST(CostOfATable, GroupsTheShippedProfilesErrors) {
  std::string text = made_up_table("NVIDIA H100 80GB HBM3", "somebodys");
  // One row far beyond what was measured, and one of a type without a kernel.
  const std::string tail = "2048,768,4,64,1,1,balanced,";
  text += "X,1,NVIDIA H100 80GB HBM3,moe,somebodys,bfloat16,1000000," + tail + "200\n";
  text += "X,1,NVIDIA H100 80GB HBM3,moe,somebodys,nvfp4,16," + tail + "0.2\n";
  const ScratchFile table("table.csv", text);
  const json result = run_json("cost --csv " + table.path());
  EXPECT_EQ(result["device"], "NVIDIA H100 80GB HBM3");
  EXPECT_EQ(result["rows"], 98);
  EXPECT_EQ(result["all"]["latency"]["rows"], 96);
  EXPECT_TRUE(result["all"]["power"].is_null());
  for (const char* key : {"median_frac", "p90_frac", "mean_frac"})
    EXPECT_GT(result["all"]["latency"][key].get<double>(), 0);
  EXPECT_EQ(result["by_type"]["bf16"]["latency"]["rows"], 96);
  EXPECT_EQ(result["by_distribution"]["balanced"]["latency"]["rows"], 48);
  EXPECT_EQ(result["by_distribution"]["power_law_1.2"]["latency"]["rows"], 48);
  EXPECT_EQ(result["by_place"]["unseen shape"]["latency"]["rows"], 96);
  EXPECT_EQ(result["by_kernel"]["somebodys bf16"]["latency"]["rows"], 96);
  EXPECT_EQ(result["beyond_measured_range"]["latency"]["rows"], 1);
  EXPECT_EQ(result["missed_rows"], 1);
  EXPECT_EQ(result["missed"], json::array({"moe nvfp4 (somebodys)"}));

  const Outcome printed = run("cost --csv " + table.path());
  ASSERT_EQ(printed.status, 0) << printed.error;
  for (const char* part :
       {"all", "bf16", "power_law_1.2", "unseen shape", "beyond the measured range", "nvfp4"})
    EXPECT_NE(printed.out.find(part), std::string::npos) << part << "\n" << printed.out;
}

TEST(CostOfATable, NeedsAProfileOfItsDevice) {
  const ScratchFile table("table.csv", made_up_table("Toaster 3000", "somebodys"));
  expect_refusal("cost --csv " + table.path(), "Toaster 3000");
  expect_refusal("cost --csv " + table.path() + " --profile " + THERMOE_SOURCE_DIR +
                     "/data/profiles/h100-sxm.json",
                 "Toaster 3000");
  expect_refusal("fit --csv " + table.path() + " --out " + table.path() + ".json",
                 "--power-profile");
}

TEST(Fit, WhatItWritesPredictsItsOwnTable) {
  const ScratchFile table("table.csv", made_up_table("Toaster 3000", "somebodys"));
  const auto folder =
      std::filesystem::temp_directory_path() / ("thermoe-fit-" + std::to_string(::getpid()));
  std::filesystem::create_directory(folder);
  const std::string shipped = std::string(THERMOE_SOURCE_DIR) + "/data/profiles/";
  std::filesystem::copy(shipped + "h100-sxm-power.json", folder);
  const std::string profile = (folder / "toaster.json").string();
  const std::string fit = "fit --csv " + table.path() + " --out " + profile + " --power-profile " +
                          (folder / "h100-sxm-power.json").string() + " --provenance licence=none";
  const json fitted = run_json(fit);
  EXPECT_EQ(fitted["device"], "Toaster 3000");
  EXPECT_EQ(fitted["out"], profile);
  ASSERT_EQ(fitted["kernels"].size(), 1u);
  EXPECT_EQ(fitted["kernels"][0]["curves"], 16);
  EXPECT_LT(fitted["kernels"][0]["unseen_shape_error"]["median_frac"], 0.05);
  EXPECT_LT(fitted["kernels"][0]["unseen_tokens_error"]["median_frac"], 0.05);
  EXPECT_TRUE(fitted["kernels"][0]["unseen_shape_power_error"].is_null());

  const json errors = run_json("cost --csv " + table.path() + " --profile " + profile);
  EXPECT_EQ(errors["by_place"]["measured"]["latency"]["rows"], 96);
  EXPECT_LT(errors["all"]["latency"]["p90_frac"], 5e-5);  // five digits are kept
  // A query of a shape that the table lacks; there is no table of dense products beside it.
  const std::string query =
      "cost --profile " + profile + " --hidden 2048 --experts 64 --top-k 4 --tokens 16 --inter 896";
  EXPECT_EQ(run_json(query)["estimates"][0]["source"], "transferred");
  expect_refusal("cost --op linear --profile " + profile, "linear_profile");
  EXPECT_EQ(
      run_json("cost --op dense-step --tokens 16 --profile " + profile)["estimates"][0]["source"],
      "roofline");

  const Outcome printed = run(fit);
  ASSERT_EQ(printed.status, 0) << printed.error;
  EXPECT_NE(printed.out.find("unseen shape: median"), std::string::npos) << printed.out;
  EXPECT_NE(printed.out.find("Wrote " + profile), std::string::npos) << printed.out;
  expect_refusal(fit + " --provenance nothing", "KEY=TEXT");
  std::filesystem::remove_all(folder);
}

TEST(Fit, BadInputIsOneLineAndStatusTwo) {
  const ScratchFile bad("bad.csv", "a,b\n1,2\n");
  const std::string out = " --out " + bad.path() + ".json";
  expect_refusal("fit --csv " + bad.path() + out, "bad.csv: column \"op_name\" is missing");
  expect_refusal("fit --csv /nonexistent.csv" + out, "/nonexistent.csv");
  EXPECT_EQ(run("fit").status, 2);
  const ScratchFile table("table.csv", made_up_table("NVIDIA H200", "somebodys"));
  expect_refusal("fit --csv " + table.path() + " --out /nonexistent/x.json", "/nonexistent/x.json");
  const ScratchFile other("other.csv", made_up_table("NVIDIA H100 80GB HBM3", "somebodys"));
  expect_refusal("fit --csv " + table.path() + " " + other.path() + out, "two devices");
}

}  // namespace
}  // namespace thermoe::app
