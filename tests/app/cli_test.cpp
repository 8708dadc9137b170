// The program as a person meets it: exit status, one line of error, JSON on standard output.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "program.h"

namespace thermoe::app {
namespace {

std::string wiki() { return std::string(THERMOE_SOURCE_DIR) + "/data/text/wikitext103-valid.txt"; }

TEST(Cli, EvalPrintsEveryPromisedKey) {
  const Outcome outcome = run("eval --text " + wiki() +
                              " --policy adaptive --open-price 0.05 --batch 4 --context 64 "
                              "--max-windows 8 --json -");
  ASSERT_EQ(outcome.status, 0) << outcome.error;
  EXPECT_EQ(outcome.error, "");
  const auto json = nlohmann::json::parse(outcome.out);
  for (const char* key :
       {"tokens", "cross_entropy_nats", "perplexity", "bits_per_byte", "distinct_experts_mean",
        "expert_bytes_frac", "gate_mass_frac", "predicted_latency_us", "predicted_energy_mj",
        "certificate_gap_frac_median", "certificate_gap_frac_max", "wall_s"})
    EXPECT_TRUE(json.at(key).is_number()) << key;
  EXPECT_EQ(json["tokens"], 8 * 64);
  EXPECT_LT(json["expert_bytes_frac"], 1.0);
}

TEST(Cli, EvalPrintsATable) {
  const Outcome outcome =
      run("eval --text " + wiki() + " --policy topk --context 32 --max-windows 16");
  ASSERT_EQ(outcome.status, 0) << outcome.error;
  EXPECT_NE(outcome.out.find("cross-entropy"), std::string::npos);
}

TEST(Cli, EvalListsAndNamesPolicies) {
  const Outcome help = run("eval --help");
  EXPECT_EQ(help.status, 0);
  for (const char* part : {"adaptive", "topk", "min_k"})
    EXPECT_NE(help.out.find(part), std::string::npos) << part;
  const std::string text = "eval --text " + wiki() + " --context 8 --max-windows 16 ";
  expect_refusal(text + "--policy best", "known are adaptive");
  expect_refusal(text + "--policy adaptive:opne=1", "no parameter 'opne'");
  const Outcome outcome =
      run(text + "--policy adaptive:utility=gate,power=1,loss=0.02 --open-price 0.1 --json -");
  ASSERT_EQ(outcome.status, 0) << outcome.error;
  const auto json = nlohmann::json::parse(outcome.out);
  EXPECT_EQ(json["policy"], "adaptive:utility=gate,power=1,loss=0.02");
  EXPECT_LT(json["gate_mass_frac"], 1.0);
  EXPECT_GE(json["gate_mass_frac"], 0.98);
}

TEST(Cli, FrontierWritesItsFilesAndGoesOnWhereItWas) {
  const ScratchFile prefix("frontier");
  const std::string arguments = "frontier --text " + wiki() +
                                " --batch 4,8 --context 16 --max-tokens 256 --policies "
                                "adaptive:open=0.05,0.3 --out " +
                                prefix.path();
  const Outcome first = run(arguments);
  ASSERT_EQ(first.status, 0) << first.error;
  EXPECT_EQ(first.error, "");
  EXPECT_NE(first.out.find("batch 8"), std::string::npos);
  const auto read = [&prefix](const std::string& ending) {
    std::ifstream file(prefix.path() + ending);
    return std::string(std::istreambuf_iterator<char>(file), {});
  };
  const std::string csv = read(".csv");
  EXPECT_EQ(std::count(csv.begin(), csv.end(), '\n'), 7);  // two batches, three settings, a header
  EXPECT_NE(read(".svg").find("</svg>"), std::string::npos);
  const Outcome again = run(arguments + " --json -");
  const auto json = nlohmann::json::parse(again.out);
  EXPECT_EQ(json["rows_resumed"], 6);
  EXPECT_EQ(json["points"].size(), 6u);
  EXPECT_EQ(json["model"], "nano");
  EXPECT_EQ(read(".csv"), csv);
  expect_refusal(arguments + " --part 1/2", "frontier.partial.jsonl");
  for (const char* ending : {".csv", ".json", ".svg", ".partial.jsonl"})
    std::filesystem::remove(prefix.path() + ending);
}

TEST(Cli, EvalRunsATask) {
  const ScratchFile task(
      "pairs.jsonl", R"({"paradigm": "p", "good": "He is here.", "bad": "Is he here here is."})");
  const Outcome outcome = run("eval --task blimp:" + task.path() + " --policy topk --json -");
  ASSERT_EQ(outcome.status, 0) << outcome.error;
  EXPECT_EQ(nlohmann::json::parse(outcome.out)["items"], 1);
  EXPECT_NE(run("eval --task blimp:" + task.path()).out.find("accuracy"), std::string::npos);
}

TEST(Cli, DoctorSaysWhatIsMissing) {
  const Outcome outcome = run("doctor");
  EXPECT_EQ(outcome.status, 0);
  for (const char* subject : {"CPU", "CUDA", "NVML", "profiles", "model"})
    EXPECT_NE(outcome.out.find(subject), std::string::npos) << subject;
  const auto json = nlohmann::json::parse(run("doctor --json -").out);
  EXPECT_GE(json.at("findings").size(), 5u);
}

TEST(Cli, RunWritesItsReports) {
  const ScratchFile scenario("short.json",
                             R"({"schema":"thermoe-scenario-1","name":"short","phases":[
    {"name":"cool","duration_s":1},{"name":"cap","duration_s":1,"power_cap_w":450}]})");
  const ScratchFile report("report.html"), plot("plot.svg");
  const Outcome outcome =
      run("run --telemetry twin --scenario " + scenario.path() + " --report " + report.path() +
          " --plot " + plot.path() +
          " --loss-windows 16 --loss-context 64 --prompt 'Once upon a time' --json -");
  ASSERT_EQ(outcome.status, 0) << outcome.error;
  EXPECT_EQ(outcome.error, "");  // no progress where nobody watches
  const auto json = nlohmann::json::parse(outcome.out);
  EXPECT_EQ(json["identity"]["different"], 0);
  EXPECT_GT(json["identity"]["relaxed_tokens"], 0);
  EXPECT_EQ(json["phases"]["thermoe"][0]["loss_nats"], 0.0);
  EXPECT_EQ(json["texts"][0]["prompt"], "Once upon a time");
  EXPECT_GT(std::filesystem::file_size(report.path()), 5000u);
  EXPECT_GT(std::filesystem::file_size(plot.path()), 1000u);
}

TEST(Cli, BadInputIsOneLineAndStatusTwo) {
  expect_refusal("eval --text /nonexistent.txt", "/nonexistent.txt");
  expect_refusal("eval --model /nonexistent --text " + wiki(), "/nonexistent");
  expect_refusal("eval --policy best --text " + wiki(), "best");
  expect_refusal("eval --cost-shape huge --text " + wiki(), "huge");
  expect_refusal("eval --profile " + wiki() + " --text " + wiki(), "wikitext103-valid.txt");
  expect_refusal("eval --context 1000000 --text " + wiki(), "wikitext103-valid.txt");
  expect_refusal("eval --batch 4096 --text " + wiki(), "--batch");
  expect_refusal("eval --text " + wiki() + " --part 3/2", "3/2");
  expect_refusal("eval --task blimp:/nonexistent", "/nonexistent");
  expect_refusal("eval --task blimp:/nonexistent --text " + wiki(), "--task");
  expect_refusal("eval", "--text");
  expect_refusal("frontier --out x --text " + wiki() + " --policies best", "best");
  expect_refusal("frontier --out x --text " + wiki() + " --policies adaptive:open=2..1", "2..1");
  expect_refusal("frontier --out x --text " + wiki() + " --context 12x", "12x");
  expect_refusal("frontier --out /nonexistent/x --policies topk --text " + wiki(), "--out");
  expect_refusal("run --telemetry sundial", "sundial");
  expect_refusal("run --telemetry replay:/nonexistent.csv", "/nonexistent.csv");
  expect_refusal("run --scenario /nonexistent.json", "/nonexistent.json");
}

// A copy of nano whose first shard `damage` changes.
class DamagedModel {
 public:
  template <typename Damage>
  explicit DamagedModel(Damage damage)
      : path_(std::filesystem::temp_directory_path() /
              ("thermoe-model-" + std::to_string(::getpid()))) {
    std::filesystem::copy(std::string(THERMOE_SOURCE_DIR) + "/models/nano", path_);
    damage(path_ / "model-00001-of-00002.safetensors");
  }
  ~DamagedModel() { std::filesystem::remove_all(path_); }
  std::string path() const { return path_.string(); }

 private:
  std::filesystem::path path_;
};

TEST(Cli, DamagedCheckpointsAreNamed) {
  const std::string shard = "model-00001-of-00002.safetensors";
  {
    const DamagedModel model([](const auto& file) { std::filesystem::resize_file(file, 5000000); });
    expect_refusal("eval --model " + model.path() + " --text " + wiki(), shard);
  }
  {
    const DamagedModel model([](const auto& file) { std::filesystem::remove(file); });
    expect_refusal("eval --model " + model.path() + " --text " + wiki(), shard);
  }
  {
    // The last two bytes are a bf16 weight: 0x7FC0 is a NaN.
    const DamagedModel model([](const auto& file) {
      std::fstream stream(file, std::ios::in | std::ios::out | std::ios::binary);
      stream.seekp(-2, std::ios::end);
      stream.write("\xC0\x7F", 2);
    });
    expect_refusal("eval --model " + model.path() + " --text " + wiki(), "holds a NaN");
  }
}

TEST(Cli, AProfileWithoutTheTypeIsRefused) {
  // The shipped profile without its bf16 kernel.
  const std::string profiles = std::string(THERMOE_SOURCE_DIR) + "/data/profiles/";
  std::ifstream file(profiles + "h100-sxm.json");
  auto json = nlohmann::json::parse(file);
  auto kernels = nlohmann::json::array();
  for (const auto& kernel : json["kernels"])
    if (kernel["dtype"] != "bf16") kernels.push_back(kernel);
  json["kernels"] = kernels;
  const auto folder =
      std::filesystem::temp_directory_path() / ("thermoe-profiles-" + std::to_string(::getpid()));
  std::filesystem::create_directory(folder);
  std::ofstream(folder / "other.json") << json.dump();
  std::filesystem::copy(profiles + "h100-sxm-power.json", folder);
  expect_refusal("eval --profile " + (folder / "other.json").string() + " --text " + wiki(),
                 "no measured kernel for moe bf16");
  std::filesystem::remove_all(folder);
}

TEST(Cli, CalibrateExpertsWritesWhatEvalReads) {
  const ScratchFile out("experts.json");
  const Outcome outcome = run("calibrate-experts --tokens 300 --similarity-tokens 40 --text " +
                              wiki() + " " + wiki() + " --out " + out.path() + " --json -");
  ASSERT_EQ(outcome.status, 0) << outcome.error;
  EXPECT_EQ(outcome.error, "");
  const auto json = nlohmann::json::parse(outcome.out);
  EXPECT_EQ(json["model"], "nano");
  EXPECT_EQ(json["tokens"], 300);
  EXPECT_EQ(json["similarity_tokens"], 40);
  ASSERT_EQ(json["layers"].size(), 6u);
  const auto& layer = json["layers"][5];
  EXPECT_LT(layer["output_norm_min"], layer["output_norm_mean"]);
  EXPECT_LT(layer["output_norm_mean"], layer["output_norm_max"]);
  EXPECT_NE(layer["most_similar"][0], layer["most_similar"][1]);
  EXPECT_GE(layer["load_max_of_mean"], 1.0);

  const Outcome table =
      run("calibrate-experts --tokens 64 --text " + wiki() + " --out " + out.path());
  ASSERT_EQ(table.status, 0) << table.error;
  EXPECT_NE(table.out.find("most alike"), std::string::npos);
  const Outcome eval = run("eval --context 32 --batch 2 --max-windows 2 --text " + wiki() +
                           " --calibration " + out.path());
  EXPECT_EQ(eval.status, 0) << eval.error;
}

TEST(Cli, CalibrationsThatDoNotFitAreRefused) {
  const std::string text = " --text " + wiki();
  EXPECT_EQ(run("calibrate-experts" + text).status, 2);  // never into a model's directory unasked
  expect_refusal("calibrate-experts --tokens 100000000 --out none.json" + text, "holds");
  expect_refusal("eval --calibration none.json" + text, "none.json: can't be read");
  const ScratchFile odd("odd.json", "{}");
  expect_refusal("eval --calibration " + odd.path() + text, "\"schema\" is missing");
  const ScratchFile other("other.json", R"({"schema":"thermoe-expert-calibration","version":1,
    "model":"tiny","tokens":5,"similarity_tokens":5,"model_layers":1,"experts":1,"top_k":1,
    "layers":[{"layer":0,"load_frac":[1],"output_norm":[2],"output_square":[4],
               "similarity":[[1]]}]})");
  expect_refusal("eval --calibration " + other.path() + text,
                 "1 layers, 1 experts, top-1, where this one has 6 layers, 32 experts, top-4");
  // Where one lies in the model's directory it is read unasked.
  const DamagedModel model([](const auto& shard) {
    std::ofstream(shard.parent_path() / "thermoe-experts.json", std::ios::trunc) << "[]";
  });
  expect_refusal("eval --model " + model.path() + text, "thermoe-experts.json: is no calibration");
}

TEST(Cli, UsageErrorsAreStatusTwo) {
  EXPECT_EQ(run("").status, 2);
  EXPECT_EQ(run("eval").status, 2);
  EXPECT_EQ(run("eval --text a --open-price -1").status, 2);
  EXPECT_EQ(run("dance").status, 2);
  EXPECT_EQ(run("--help").status, 0);
  EXPECT_EQ(run("run --help").status, 0);
}

}  // namespace
}  // namespace thermoe::app
