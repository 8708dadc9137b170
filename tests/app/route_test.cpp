// thermoe route: what it reads, what it refuses, and that plans say what their reports claim.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numeric>
#include <random>

#include "npy.h"
#include "npy_files.h"
#include "program.h"
#include "refusals.h"
#include "route_input.h"
#include "route_report.h"

namespace thermoe::app {
namespace {

using nlohmann::json;

// Logits with a spread that makes k = 2 of 8 a real choice.
std::vector<float> some_logits(size_t count, uint32_t seed) {
  std::mt19937 bits(seed);
  std::vector<float> out(count);
  for (float& value : out) value = static_cast<float>(bits() % 4096) / 1024.0f - 2.0f;
  return out;
}

struct Stack {  // [3, 16, 8] logits in a file
  std::vector<float> logits = some_logits(3 * 16 * 8, 7);
  ScratchFile file{"stack.npy", npy("<f4", "(3, 16, 8)", bytes_of(logits))};
};

TEST(RouteInput, LogitsBecomeTheModelsProbabilities) {
  const Stack stack;
  const ScoreBatches scores = read_scores(stack.file.path(), true);
  EXPECT_EQ(scores.batches, 3);
  EXPECT_EQ(scores.tokens, 16);
  EXPECT_EQ(scores.experts, 8);
  for (size_t row = 0; row < 48; ++row) {
    double sum = 0;
    for (size_t e = 0; e < 8; ++e) sum += std::exp(static_cast<double>(stack.logits[row * 8 + e]));
    for (size_t e = 0; e < 8; ++e)
      EXPECT_NEAR(scores.values[row * 8 + e],
                  std::exp(static_cast<double>(stack.logits[row * 8 + e])) / sum, 1e-6);
  }
  const ScratchFile matrix("matrix.npy",
                           npy("<f2", "(2, 2)", bytes_of<uint16_t>({0x3c00, 0, 0, 0x3800})));
  const ScoreBatches as_they_are = read_scores(matrix.path(), false);
  EXPECT_FALSE(as_they_are.stacked);
  EXPECT_EQ(as_they_are.values, (std::vector<float>{1, 0, 0, 0.5f}));
}

TEST(RouteInput, BadScoresAreNamed) {
  std::vector<float> logits = some_logits(3 * 16 * 8, 7);
  logits[2 * 128 + 5 * 8 + 3] = std::nanf("");
  const ScratchFile nan("nan.npy", npy("<f4", "(3, 16, 8)", bytes_of(logits)));
  EXPECT_REFUSED(read_scores(nan.path(), true), "batch 2, token 5, expert 3 is nan");
  const ScratchFile negative("negative.npy", npy("<f4", "(1, 2)", bytes_of<float>({0.5f, -1})));
  EXPECT_REFUSED(read_scores(negative.path(), false), "batch 0, token 0, expert 1 is -1");
  EXPECT_EQ(refusal([&] { read_scores(negative.path(), true); }), "accepted");
  const ScratchFile empty("empty.npy", npy("<f4", "(0, 8)", ""));
  EXPECT_REFUSED(read_scores(empty.path(), true), "nothing to route: it is [0, 8]");
  const ScratchFile flat("flat.npy", npy("<f4", "(2,)", bytes_of<float>({1, 2})));
  EXPECT_REFUSED(read_scores(flat.path(), true), "has 1 dimensions");
}

TEST(RouteInput, VariantsSayErrorsAndSizes) {
  const auto variants = parse_variants("bf16,int8:0.004,int4:0.03:0.28");
  ASSERT_EQ(variants.size(), 3u);
  EXPECT_EQ(variants[1].name, "int8");
  EXPECT_EQ(variants[1].error_frac, 0.004f);
  EXPECT_EQ(variants[0].read_frac, 1.0f);
  EXPECT_EQ(variants[1].read_frac, 0.5f);
  EXPECT_EQ(variants[2].read_frac, 0.28f);
  EXPECT_EQ(parse_variants("f32,fp8_e4m3:0.02")[1].read_frac, 0.25f);
  EXPECT_REFUSED(parse_variants("bf16,small:0.1"), "small:ERROR_FRAC:0.5");
  EXPECT_REFUSED(parse_variants("bf16,int8:1"), "'int8:1' has an error");
  EXPECT_REFUSED(parse_variants("bf16,int8:nan"), "'int8:nan' has an error");
  EXPECT_REFUSED(parse_variants("bf16,int8:0.1:-1"), "opening share");
  EXPECT_REFUSED(parse_variants("bf16,bf16"), "given twice");
  EXPECT_REFUSED(parse_variants("bf16,"), "NAME[:ERROR_FRAC");
}

TEST(RouteInput, PlacementsAndPricesMeetTheInstances) {
  const ScratchFile file("placement.json",
                         R"({"devices": 2, "experts": [[0], [1, 0], [1]], "capacity": [4, 5, 6],
                            "device_base": 0.25})");
  const Placement placement = read_placement(file.path(), 3);
  EXPECT_EQ(placement.device_base, (std::vector<float>{0.25f, 0.25f}));
  const auto variants = parse_variants("bf16,int8:0.01");
  const auto layout = make_layout(3, variants, placement, std::nullopt);
  ASSERT_TRUE(layout);
  ASSERT_EQ(layout->count(), 8);  // (1 + 2 + 1) replicas in two variants
  EXPECT_EQ(layout->capacity, (std::vector<int32_t>{4, 4, 5, 5, 5, 5, 6, 6}));
  const auto prices = [&](const std::string& source) {
    return read_prices({"--open-price", source}, 3, &*layout, true);
  };
  EXPECT_EQ(prices("2"), (std::vector<float>{2, 1, 2, 2, 1, 1, 2, 1}));
  const ScratchFile each("each.json", "[2, 4, 6]");
  EXPECT_EQ(prices(each.path()), (std::vector<float>{2, 1, 4, 4, 2, 2, 6, 3}));
  const ScratchFile own("own.npy", npy("<f4", "(8,)", bytes_of<float>({1, 2, 3, 4, 5, 6, 7, 8})));
  EXPECT_EQ(prices(own.path()), (std::vector<float>{1, 2, 3, 4, 5, 6, 7, 8}));
  EXPECT_EQ(prices(""), std::vector<float>());
  const ScratchFile four("four.json", "[1, 2, 3, 4]");
  EXPECT_REFUSED(prices(four.path()), "has 4 values: give one for each of 3 experts, or of 8");
  EXPECT_REFUSED(prices("-1"), "--open-price is -1");
  EXPECT_REFUSED(prices("nan"), "--open-price is nan");
  EXPECT_REFUSED(prices("/nonexistent"), "/nonexistent");
  EXPECT_FALSE(make_layout(3, {}, std::nullopt, std::nullopt));
  EXPECT_REFUSED(make_layout(3, {}, placement, 7), "leave --capacity out");
}

TEST(RouteInput, BadPlacementsAreNamed) {
  const auto says = [](const std::string& text) {
    const ScratchFile file("placement.json", text);
    return refusal([&] { read_placement(file.path(), 2); });
  };
  const auto expect = [&](const std::string& text, const std::string& named) {
    EXPECT_NE(says(text).find(named), std::string::npos) << says(text);
  };
  EXPECT_EQ(says(R"({"devices": 2, "experts": [[0], [1]]})"), "accepted");
  expect(R"({"devices": 2, "experts": [[0], [2]]})", "expert 1 is on device 2, and there are 2");
  expect(R"({"devices": 2, "experts": [[0], [-1]]})", "a device of expert 1 is no natural number");
  expect(R"({"devices": 2, "experts": [[0], []]})", "expert 1 is on no device");
  expect(R"({"devices": 2, "experts": [[0], [1, 1]]})", "expert 1 is on device 1 twice");
  expect(R"({"devices": 2, "experts": [[0]]})", "places 1 experts, the scores have 2");
  expect(R"({"devices": 0, "experts": [[0], [1]]})", "has 0 devices");
  expect(R"({"devices": 2, "experts": [[0], [1]], "slots": 1})", "unknown key 'slots'");
  expect(R"({"devices": 2, "experts": [[0], [1]], "device_base": [1]})", "1 values for 2 devices");
  expect(R"([])", "is no placement");
  expect(R"({"devices": 2, )", "not valid JSON");
}

TEST(RouteReport, PercentilesAreNearestRanks) {
  std::vector<double> values(100);
  std::iota(values.rbegin(), values.rend(), 1.0);  // 100, 99, ..., 1
  const Spread s = Spread::of(values);
  EXPECT_EQ(s.mean, 50.5);
  EXPECT_EQ(s.median, 50);
  EXPECT_EQ(s.p90, 90);
  EXPECT_EQ(s.p99, 99);
  EXPECT_EQ(s.largest, 100);
  EXPECT_EQ(Spread::of({3}).p99, 3);
}

// The k best of each token by the logits alone: falling, ties by lower expert.
std::vector<std::vector<int>> best(const std::vector<float>& logits, size_t experts, size_t k) {
  std::vector<std::vector<int>> out;
  for (size_t row = 0; row < logits.size() / experts; ++row) {
    std::vector<int> ids(experts);
    std::iota(ids.begin(), ids.end(), 0);
    std::stable_sort(ids.begin(), ids.end(), [&](int a, int b) {
      return logits[row * experts + static_cast<size_t>(a)] >
             logits[row * experts + static_cast<size_t>(b)];
    });
    ids.resize(k);
    out.push_back(ids);
  }
  return out;
}

json route(const std::string& arguments) {
  const Outcome outcome = run("route " + arguments + " --json -");
  EXPECT_EQ(outcome.status, 0) << outcome.error;
  EXPECT_EQ(outcome.error, "");
  return json::parse(outcome.out);
}

TEST(Route, AtZeroPriceThePlanIsTopK) {
  const Stack stack;
  const auto expected = best(stack.logits, 8, 2);
  for (const char* prices : {"", " --open-price 0 --slope-price 0", " --policy topk"}) {
    const json result = route("--logits " + stack.file.path() + " --k 2" + prices);
    ASSERT_EQ(result["batches"].size(), 3u);
    for (size_t n = 0; n < 3; ++n) {
      const json& plan = result["batches"][n]["plan"];
      for (size_t t = 0; t < 16; ++t) EXPECT_EQ(plan["ids"][t], json(expected[n * 16 + t]));
      EXPECT_EQ(result["batches"][n]["report"]["changed_tokens"], 0);
      EXPECT_EQ(plan["packed"].size(), 32u);
    }
  }
}

TEST(Route, StandardInputAndProbabilitiesGiveTheSamePlans) {
  const Stack stack;
  const std::string arguments = " --k 2 --open-price 0.6 --json -";
  const Outcome piped = run("route --logits -" + arguments, stack.file.path());
  ASSERT_EQ(piped.status, 0) << piped.error;
  const ScoreBatches scores = read_scores(stack.file.path(), true);
  const ScratchFile probabilities("probabilities.npy",
                                  npy("<f4", "(3, 16, 8)", bytes_of(scores.values)));
  const json other = route("--scores " + probabilities.path() + " --k 2 --open-price 0.6");
  const json first = json::parse(piped.out);
  for (size_t n = 0; n < 3; ++n)
    EXPECT_EQ(first["batches"][n]["plan"], other["batches"][n]["plan"]);
  EXPECT_GT(first["batches"][0]["report"]["changed_tokens"], 0);
}

TEST(Route, WritesArraysAndATable) {
  const Stack stack;
  const ScratchFile ids("out.ids.npy"), instances("out.instances.npy"), weights("out.weights.npy");
  const std::string prefix =
      ids.path().substr(0, ids.path().size() - std::string(".ids.npy").size());
  const std::string arguments =
      "--logits " + stack.file.path() + " --k 2 --open-price 0.1 --out '" + prefix + "'";
  const Outcome table = run("route " + arguments + " --repeat 3");
  ASSERT_EQ(table.status, 0) << table.error;
  EXPECT_NE(table.out.find("mass kept"), std::string::npos);
  EXPECT_NE(table.out.find("3 batches of 16 tokens over 8 experts"), std::string::npos);
  const json result = route(arguments);
  std::vector<float> flat;
  std::vector<int32_t> flat_ids;
  for (const json& batch : result["batches"])
    for (size_t t = 0; t < 16; ++t)
      for (size_t s = 0; s < 2; ++s) {
        flat.push_back(batch["plan"]["weights"][t][s]);
        flat_ids.push_back(batch["plan"]["ids"][t][s]);
      }
  std::ifstream file(weights.path(), std::ios::binary);
  const std::string bytes(std::istreambuf_iterator<char>(file), {});
  const FloatArray written = parse_npy(std::as_bytes(std::span(bytes)), weights.path());
  EXPECT_EQ(written.shape, (std::vector<int64_t>{3, 16, 2}));
  EXPECT_EQ(written.values, flat);
  std::ifstream id_file(ids.path(), std::ios::binary);
  const std::string id_bytes(std::istreambuf_iterator<char>(id_file), {});
  EXPECT_TRUE(id_bytes.ends_with(bytes_of(flat_ids)));
}

// What a plan costs by the formula of expert_prices.h, from the JSON alone.
double cost_of(const json& result, const json& plan, const std::vector<double>& open,
               const std::vector<double>& device_open, const std::vector<double>& base) {
  double sum = 0;
  std::vector<double> devices = base;
  for (size_t i = 0; i < open.size(); ++i) {
    if (plan["offsets"][i + 1] == plan["offsets"][i]) continue;
    sum += open[i];
    devices[result["layout"]["instances"][i][2].get<size_t>()] += device_open[i];
  }
  return sum + *std::max_element(devices.begin(), devices.end());
}

TEST(Route, APlacementsPlansKeepItsCapacitiesAndCostWhatTheySay) {
  const Stack stack;
  const ScratchFile placement("placement.json",
                              R"({"devices": 2, "device_base": [0.5, 0.25], "capacity": 9,
                           "experts": [[0], [1], [0, 1], [0], [1], [0, 1], [0], [1]]})");
  const json result =
      route("--logits " + stack.file.path() + " --k 2 --placement " + placement.path() +
            " --open-price 0.05 --device-open-price 0.1" + " --variants bf16,int8:0.01");
  const json& instances = result["layout"]["instances"];
  ASSERT_EQ(instances.size(), 20u);
  std::vector<double> open, device_open;
  for (const json& instance : instances) {
    const double share = instance[1] == 0 ? 1.0 : 0.5;
    open.push_back(0.05 * share);
    device_open.push_back(0.1 * share);
  }
  for (const json& batch : result["batches"]) {
    const json &plan = batch["plan"], &report = batch["report"];
    ASSERT_EQ(report["status"], "solved");
    for (size_t t = 0; t < 16; ++t)
      for (size_t s = 0; s < 2; ++s)
        EXPECT_EQ(instances[plan["instances"][t][s].get<size_t>()][0], plan["ids"][t][s]);
    for (size_t i = 0; i < instances.size(); ++i)
      EXPECT_LE(plan["offsets"][i + 1].get<int>() - plan["offsets"][i].get<int>(), 9);
    EXPECT_NEAR(report["cost"], cost_of(result, plan, open, device_open, {0.5, 0.25}), 1e-4);
    EXPECT_NEAR(report["objective"], report["utility"].get<double>() - report["cost"].get<double>(),
                1e-6);
    EXPECT_GE(report["bound"].get<double>(), report["objective"].get<double>() - 1e-9);
  }
}

TEST(Route, GoalsKeepTheirLimits) {
  const Stack stack;
  const std::string base = "--logits " + stack.file.path() + " --k 2 --open-price 0.2";
  const json priced = route(base);
  const json loss = route(base + " --max-loss-frac 0.05");
  const json budget = route(base + " --cost-budget 1.0");
  for (size_t n = 0; n < 3; ++n) {
    EXPECT_GE(loss["batches"][n]["report"]["utility"], 0.95 * 16 - 1e-6);
    EXPECT_LE(budget["batches"][n]["report"]["cost"], 1.0 + 1e-6);
    EXPECT_LE(budget["batches"][n]["report"]["distinct_experts"], 5);
    EXPECT_LE(loss["batches"][n]["report"]["cost"],
              0.2 * loss["batches"][n]["report"]["top_k_distinct_experts"].get<double>() + 1e-6);
  }
}

TEST(Route, BadInputIsOneLineAndStatusTwo) {
  const Stack stack;
  const std::string logits = "route --logits " + stack.file.path();
  expect_refusal("route --k 2", "--logits");
  expect_refusal("route --logits /nonexistent.npy --k 2", "/nonexistent.npy");
  expect_refusal("route --logits - --k 2", "standard input");
  expect_refusal(logits + " --k 9", "--k 9");
  expect_refusal(logits + " --k 2 --min-k 3", "--min-k 3");
  expect_refusal(logits + " --k 2 --policy best", "best");
  expect_refusal(logits + " --k 2 --open-price -1", "--open-price");
  expect_refusal(logits + " --k 2 --variants bf16,int8:2", "int8:2");
  expect_refusal(logits + " --k 2 --placement " + stack.file.path(), "stack.npy");
  const std::string file = npy("<f4", "(3, 16, 8)", bytes_of(stack.logits));
  const ScratchFile cut("cut.npy", file.substr(0, file.size() - 1));
  expect_refusal("route --logits " + cut.path() + " --k 2", "cut.npy");
  expect_refusal(logits + " --k 2 --out /nonexistent/prefix", "/nonexistent/prefix");
}

}  // namespace
}  // namespace thermoe::app
