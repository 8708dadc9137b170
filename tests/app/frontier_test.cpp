// The arithmetic of a frontier, on points made by hand, and what a sweep stands for.
#include "frontier.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>

#include "frontier_report.h"
#include "frontier_study.h"
#include "frontier_sweep.h"
#include "nano.h"
#include "scatter_plot.h"
#include "thermoe/error.h"

namespace thermoe::app {
namespace {

using Strings = std::vector<std::string>;

// The message of the error of kind `Kind` that `action` throws.
template <typename Kind, typename Action>
std::string message_of(Action action) {
  try {
    action();
  } catch (const Kind& error) {
    return error.what();
  }
  ADD_FAILURE() << "nothing was thrown";
  return "";
}

bool mentions(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

TEST(Sweep, RangesAndListsAreExpanded) {
  EXPECT_EQ(expand_specification("topk"), Strings{"topk"});
  EXPECT_EQ(expand_specification("oea:k0=2..4"), (Strings{"oea:k0=2", "oea:k0=3", "oea:k0=4"}));
  EXPECT_EQ(expand_specification("a:p=0.1..0.3..0.1"), (Strings{"a:p=0.1", "a:p=0.2", "a:p=0.3"}));
  EXPECT_EQ(expand_specification("a:x=-1..1..0.5,7"),
            (Strings{"a:x=-1", "a:x=-0.5", "a:x=0", "a:x=0.5", "a:x=1", "a:x=7"}));
  // The last parameter runs fastest, and values keep their spelling.
  EXPECT_EQ(expand_specification("adaptive:open=0.010,0.02,power=1,2"),
            (Strings{"adaptive:open=0.010,power=1", "adaptive:open=0.010,power=2",
                     "adaptive:open=0.02,power=1", "adaptive:open=0.02,power=2"}));
}

TEST(Sweep, WhatIsNoRangeIsNamed) {
  for (const char* text : {"oea:k0=7..2", "oea:k0=2..", "oea:k0=..4", "a:p=0..1..0", "a:p=0..1..-1",
                           "a:p=x..2", "a:p=0..1e9"})
    EXPECT_TRUE(
        mentions(message_of<InvalidArgument>([&] { expand_specification(text); }), "no range"))
        << text;
  for (const char* text : {"oea:", "oea:4", "oea:,k0=4", "oea:k0=4,"})
    EXPECT_THROW(expand_specification(text), InvalidArgument) << text;
  EXPECT_THROW(expand_specification("a:p=1..200,q=1..200"), InvalidArgument);  // 40,000
}

TEST(Sweep, FilesAreReadLineByLineAndTopKStandsFirst) {
  const ScratchFile file("sweep.txt", "# a comment\n\nadaptive:open=0.1,0.2  # another\n topk\n");
  const Strings arguments{file.path(), "adaptive:open=0.2,0.3"};
  const auto sweep = read_sweep(arguments);
  Strings specifications;
  for (const SweptPolicy& swept : sweep) specifications.push_back(swept.specification);
  EXPECT_EQ(specifications,
            (Strings{"topk", "adaptive:open=0.1", "adaptive:open=0.2", "adaptive:open=0.3"}));
  EXPECT_TRUE(mentions(sweep[1].origin, "sweep.txt: line 3"));
}

TEST(Sweep, ABadLineIsNamedBeforeAnythingRuns) {
  const ScratchFile range("range.txt", "topk\nadaptive:open=3..1\n");
  const Strings ranges{range.path()};
  EXPECT_TRUE(
      mentions(message_of<InvalidArgument>([&] { read_sweep(ranges); }), "range.txt: line 2"));
  const ScratchFile name("name.txt", "topk\n\nbest:k=1\n");
  const Strings names{name.path()};
  const std::string message =
      message_of<InvalidArgument>([&] { check_sweep(read_sweep(names), 32, 4, 16, {}); });
  EXPECT_TRUE(mentions(message, "name.txt: line 3")) << message;
  EXPECT_TRUE(mentions(message, "best")) << message;
}

TEST(Sweep, DefaultsWorkForEveryShape) {
  for (const auto& [experts, k] : {std::pair{32, 4}, {64, 8}, {8, 2}, {128, 8}, {4, 1}})
    for (const int batch : {1, 4, 16, 64}) {
      const auto sweep = default_sweep(experts, k, batch, false);
      EXPECT_GT(sweep.size(), 10u);
      EXPECT_EQ(sweep.front().specification, "topk");
      check_sweep(sweep, experts, k, batch, {});
    }
}

TEST(Sweep, DefaultsHaveEveryPolicy) {
  const auto sweep = default_sweep(64, 8, 16, true, true);
  for (const PolicyInfo& info : known_policies()) {
    if (info.name == "eplb" || info.name == "metro") continue;  // choose replicas, nothing else
    EXPECT_TRUE(std::any_of(sweep.begin(), sweep.end(), [&info](const SweptPolicy& swept) {
      return policy_name(swept.specification) == info.name;
    })) << info.name;
  }
}

TEST(Sweep, PublishedExpertsWithOtherWeightsAreASeriesOfTheirOwn) {
  EXPECT_EQ(series_name("oea:k0=4"), "oea");
  EXPECT_EQ(series_name("oea:k0=4,weights=raw"), "oea+raw");
  EXPECT_EQ(series_name("topk"), "topk");
  EXPECT_EQ(series_name("topk", "int8"), "topk@int8");
  EXPECT_EQ(series_name("oea:k0=4,weights=raw", "int8,int4"), "oea+raw@int8,int4");
}

TEST(Envelope, KeepsTheLowerHullOfWhatNothingBeats) {
  const FrontierEnvelope envelope({{1.0, 0.0, 0.0, "off"},
                                   {0.6, 0.10, 0.01, "a"},
                                   {0.8, 0.02, 0.002, "b"},
                                   {0.7, 0.08, 0.0, "above the line from a to b"},
                                   {0.85, 0.03, 0.0, "beaten by b"},
                                   {0.6, 0.12, 0.0, "beaten by a"}});
  ASSERT_EQ(envelope.settings().size(), 3u);
  EXPECT_EQ(envelope.settings()[0].specification, "a");
  EXPECT_EQ(envelope.settings()[1].specification, "b");
  EXPECT_EQ(envelope.settings()[2].specification, "off");
  EXPECT_FALSE(envelope.at(0.59));
  EXPECT_DOUBLE_EQ(envelope.at(0.6)->loss_nats, 0.10);
  EXPECT_NEAR(envelope.at(0.65)->loss_nats, 0.08, 1e-12);             // a quarter of the way
  EXPECT_NEAR(envelope.at(0.65)->standard_error_nats, 0.008, 1e-12);  // 3/4 of 0.01, 1/4 of 0.002
  EXPECT_DOUBLE_EQ(envelope.at(0.8)->loss_nats, 0.02);
  EXPECT_NEAR(envelope.at(0.9)->loss_nats, 0.01, 1e-12);
  EXPECT_DOUBLE_EQ(envelope.at(1.5)->loss_nats, 0.0);
}

TEST(Envelope, ALuckyPointBelowTopKStaysTheLastOne) {
  const FrontierEnvelope envelope({{1.0, 0.0, 0.0, "off"}, {0.9, -0.01, 0.0, "lucky"}});
  ASSERT_EQ(envelope.settings().size(), 1u);
  EXPECT_DOUBLE_EQ(envelope.at(0.95)->loss_nats, -0.01);
  EXPECT_FALSE(FrontierEnvelope({}).at(1.0));
}

FrontierRow row(const char* text, int batch, const char* specification, double distinct,
                std::vector<double> losses) {
  FrontierRow row;
  row.text = text, row.batch = batch, row.specification = specification;
  row.context = 10, row.tokens = 10 * static_cast<int64_t>(losses.size());
  row.plans.distinct_experts_mean = distinct;
  row.plans.expert_bytes_mean = 1000 * distinct;
  row.window_losses_nats = std::move(losses);
  return row;
}

std::vector<FrontierRow> two_texts() {
  return {row("a", 16, "topk", 20, {2, 3}),
          row("a", 16, "adaptive:open=1", 12, {2.1, 3.1}),
          row("a", 16, "oea:k0=2", 12, {2.2, 3.4}),
          row("b", 16, "topk", 10, {1, 1}),
          row("b", 16, "adaptive:open=1", 6, {1.2, 1.0}),
          row("b", 16, "oea:k0=2", 8, {1.3, 1.3})};
}

TEST(Frontier, PairsWithTopKOfTheSameTextAndAveragesOverTexts) {
  const auto points = pair_with_top_k(two_texts());
  EXPECT_NEAR(points[1].loss.mean_nats, 0.1, 1e-12);
  EXPECT_NEAR(points[1].loss.standard_error_nats, 0.0, 1e-12);
  EXPECT_NEAR(points[2].loss.mean_nats, 0.3, 1e-12);
  EXPECT_NEAR(points[2].loss.standard_error_nats, 0.1, 1e-12);  // of 0.2 and 0.4
  EXPECT_DOUBLE_EQ(points[2].distinct_frac, 0.6);
  const auto means = mean_over_texts(points);
  ASSERT_EQ(means.size(), 3u);
  EXPECT_NEAR(means[1].sample.loss_nats, 0.1, 1e-12);
  EXPECT_NEAR(means[1].sample.standard_error_nats, 0.05, 1e-12);  // 0 and 0.1: 0.1 / 2
  EXPECT_NEAR(means[2].distinct_frac, 0.7, 1e-12);
  EXPECT_NEAR(means[2].sample.read_frac, 0.7, 1e-12);
  EXPECT_EQ(means[2].tokens, 40);
  auto rows = two_texts();
  rows.erase(rows.begin());
  EXPECT_THROW(pair_with_top_k(rows), InvalidArgument);
}

TEST(Frontier, ComparesAtEqualExperts) {
  const auto means = mean_over_texts(pair_with_top_k(two_texts()));
  const std::array levels{0.6, 0.8};
  const auto compared = compare(means, levels);
  ASSERT_EQ(compared.size(), 2u);
  // adaptive: 0.1 at 0.6; oea: 0.3 at 0.7, so it never gets to 0.6.
  EXPECT_EQ(compared[0].policies[0].policy, "adaptive");
  EXPECT_NEAR(compared[0].policies[0].value->loss_nats, 0.1, 1e-12);
  EXPECT_FALSE(compared[0].policies[1].value);
  EXPECT_EQ(compared[0].best_published, "");
  EXPECT_FALSE(compared[0].adaptive_frac);
  // At 0.8: adaptive half way from 0.1 to 0; oea two thirds of 0.3.
  EXPECT_NEAR(compared[1].policies[0].value->loss_nats, 0.05, 1e-12);
  EXPECT_NEAR(compared[1].policies[1].value->loss_nats, 0.2, 1e-12);
  EXPECT_EQ(compared[1].best_published, "oea");
  EXPECT_NEAR(*compared[1].adaptive_frac, 0.25, 1e-12);
}

// Top-k in bf16 of the base, and two lists of variants: in int8 a half of the bytes, in both less.
std::vector<FrontierRow> quantized_text() {
  std::vector<FrontierRow> rows{row("a", 16, "topk", 20, {2, 3}),
                                row("a", 16, "topk", 20, {2.01, 3.01}),
                                row("a", 16, "oea:k0=2", 12, {2.21, 3.21}),
                                row("a", 16, "topk", 20, {2.01, 3.01}),
                                row("a", 16, "adaptive:open=1", 18, {2.03, 3.03}),
                                row("a", 16, "threshold:theta=1", 20, {2.05, 3.05})};
  const double bytes[] = {20000, 10000, 6000, 10000, 6000, 6000};
  for (size_t r = 0; r < rows.size(); ++r) {
    rows[r].variants = r == 0 ? "bf16" : r < 3 ? "int8" : "int8,int4";
    rows[r].plans.expert_bytes_mean = bytes[r];
  }
  return rows;
}

TEST(Frontier, VariantsAreComparedAtEqualBytesWithTopKInBf16) {
  const auto points = pair_with_top_k(quantized_text());
  EXPECT_TRUE(points[0].reference);
  EXPECT_NEAR(points[2].read_frac, 0.3, 1e-12);
  EXPECT_NEAR(points[2].distinct_frac, 0.6, 1e-12);
  EXPECT_NEAR(points[1].loss.mean_nats, 0.01, 1e-12);
  const auto means = mean_over_texts(points);
  EXPECT_EQ(policies_in(means),
            (std::vector<std::string>{"adaptive@int8,int4", "oea@int8", "threshold@int8,int4",
                                      "topk@int8", "topk@int8,int4"}));
  const std::array levels{0.3, 0.4, 0.5};
  const auto compared = compare(means, levels);
  const auto value = [&](size_t level, const std::string& series) {
    for (const auto& entry : compared[level].policies)
      if (entry.policy == series) return entry.value ? entry.value->loss_nats : -1.0;
    return -2.0;
  };
  EXPECT_NEAR(value(0, "oea@int8"), 0.21, 1e-12);
  EXPECT_NEAR(value(1, "oea@int8"), 0.11, 1e-12);  // half way to its own variants' top-k
  EXPECT_NEAR(value(1, "adaptive@int8,int4"), 0.02, 1e-12);
  EXPECT_EQ(value(1, "topk@int8"), -1.0);
  EXPECT_NEAR(value(2, "topk@int8"), 0.01, 1e-12);
  EXPECT_EQ(compared[0].best_published, "threshold@int8,int4");
  EXPECT_NEAR(*compared[0].adaptive_frac, 0.03 / 0.05, 1e-9);
  // Without bf16 another reference can be named, and has to be there.
  auto rows = quantized_text();
  rows.erase(rows.begin());
  EXPECT_THROW(pair_with_top_k(rows), InvalidArgument);
  const auto own = mean_over_texts(pair_with_top_k(rows, "int8"));
  EXPECT_NEAR(own[1].sample.read_frac, 0.6, 1e-12);
  const auto series = policies_in(own);
  EXPECT_EQ(std::count(series.begin(), series.end(), "topk@int8"), 0);
}

FrontierReport report() {
  FrontierReport report;
  report.title = "a <title>";
  report.about = {{"model", "none"}};
  report.points = pair_with_top_k(two_texts());
  report.means = mean_over_texts(report.points);
  const std::array levels{0.6, 0.8};
  report.levels = compare(report.means, levels);
  return report;
}

TEST(FrontierReport, CsvQuotesAndHasARowAPoint) {
  FrontierReport two_knobs = report();
  two_knobs.points[1].row.specification = "adaptive:open=1,power=2";
  const std::string csv = to_csv(two_knobs);
  EXPECT_EQ(std::count(csv.begin(), csv.end(), '\n'), 7);
  EXPECT_TRUE(
      mentions(csv, "text,batch,context_tokens,policy,specification,variants,tokens,windows,"));
  EXPECT_TRUE(mentions(csv, "\na,16,10,adaptive,\"adaptive:open=1,power=2\",bf16,20,2,"));
  const std::string header = csv.substr(0, csv.find('\n'));
  const size_t second = csv.find('\n', header.size() + 1);
  const std::string first_row = csv.substr(header.size() + 1, second - header.size() - 1);
  EXPECT_EQ(std::count(header.begin(), header.end(), ','),
            std::count(first_row.begin(), first_row.end(), ','));
}

TEST(FrontierReport, TableShowsWhatIsNotReachedAsADash) {
  const std::string table = to_table(report());
  EXPECT_TRUE(mentions(table, "batch 16"));
  EXPECT_TRUE(mentions(table, "+0.2000 ± 0.0"));
  EXPECT_TRUE(mentions(table, "0.250"));
  const size_t oea = table.find("\noea");
  ASSERT_NE(oea, std::string::npos);
  const std::string line = table.substr(oea + 1, table.find('\n', oea + 1) - oea - 1);
  EXPECT_TRUE(mentions(line, " - ")) << line;
}

TEST(FrontierReport, JsonHasComparisonMeansAndPoints) {
  const auto json = to_json(report());
  EXPECT_EQ(json["points"].size(), 6u);
  EXPECT_EQ(json["means"].size(), 3u);
  EXPECT_EQ(json["comparison"][0]["policies"]["oea"], nullptr);
  EXPECT_NEAR(json["comparison"][1]["adaptive_of_best_published_frac"].get<double>(), 0.25, 1e-12);
  EXPECT_EQ(json["model"], "none");
}

TEST(FrontierReport, SvgHasAMarkerForEveryPointInside) {
  const std::string svg = to_svg(report());
  EXPECT_TRUE(mentions(svg, "a &lt;title&gt;"));
  EXPECT_TRUE(mentions(svg, "batch 16"));
  size_t markers = 0;
  for (size_t at = svg.find("<title>"); at != std::string::npos; at = svg.find("<title>", at + 1))
    ++markers;
  EXPECT_EQ(markers, 2u);  // adaptive's and oea's: top-k has no series of its own
  EXPECT_FALSE(mentions(svg, "nan"));
  EXPECT_FALSE(mentions(ScatterPlot{}.svg(), "nan"));
}

TEST(FrontierCells, ContextShrinksUntilABatchFits) {
  FrontierSettings settings;
  EXPECT_EQ(plan_cell(settings, "t", 512 * 16 * 3 + 1, 16).windows, 48);
  EXPECT_EQ(plan_cell(settings, "t", 512 * 16 * 3, 16).windows, 32);  // a target too few
  const std::string message =
      message_of<InvalidArgument>([&] { plan_cell(settings, "short.txt", 8000, 16); });
  EXPECT_TRUE(mentions(message, "short.txt")) << message;
  EXPECT_TRUE(mentions(message, "--context auto")) << message;
  settings.choose_context = true;
  EXPECT_EQ(plan_cell(settings, "t", 100000, 16).context, 512);
  EXPECT_EQ(plan_cell(settings, "t", 100000, 256).context, 384);  // 390 rounded down
  EXPECT_EQ(plan_cell(settings, "t", 100000, 256).windows, 256);
  EXPECT_EQ(plan_cell(settings, "t", 161, 16).context, 10);
  EXPECT_THROW(plan_cell(settings, "t", 16, 16), InvalidArgument);
  EXPECT_THROW(plan_cell(settings, "t", 0, 1), InvalidArgument);
  settings.max_tokens = 4096;
  EXPECT_EQ(plan_cell(settings, "t", 100000, 16).context, 256);
  EXPECT_EQ(plan_cell(settings, "t", 100000, 16).windows, 16);
  EXPECT_EQ(plan_cell(settings, "t", 100000, 1).windows, 8);
}

}  // namespace
}  // namespace thermoe::app
