#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "run_outcome.h"
#include "svg_plot.h"
#include "table.h"

namespace thermoe::app {
namespace {

RunOutcome small_outcome() {
  RunOutcome outcome;
  outcome.model = "nano";
  outcome.cost_shape = "shape <&>";
  outcome.cost_device = "device";
  outcome.model_experts = 32;
  outcome.shape_experts = 128;
  outcome.batch = 16;
  PhaseRecord phase;
  phase.name = "hot \"air\"";
  phase.duration_s = 2;
  phase.tokens = 100;
  phase.energy_j = 50;
  phase.distinct_experts = 24;
  phase.prices = {ExpertPrices::uniform(32, 0.1f), ExpertPrices::uniform(32, 0.3f)};
  for (int i = 0; i < 1000; ++i)
    outcome.top_k.samples.push_back({0.002 * i, 600, 70, 1980, 0, 24, 800});
  outcome.thermoe.samples = outcome.top_k.samples;
  outcome.top_k.phases = outcome.thermoe.phases = {phase};
  outcome.losses.push_back({{0.01, 0.001}});
  outcome.texts.push_back({"hot", "A prompt", "<b>one</b>", "two"});
  return outcome;
}

TEST(Report, TableHasTwoRowsAPhase) {
  const std::string table = to_table(small_outcome());
  EXPECT_NE(table.find("top-k"), std::string::npos);
  EXPECT_NE(table.find("+0.0100 ± 0.0010"), std::string::npos);
  EXPECT_NE(table.find("+1.01"), std::string::npos);  // exp(0.01) - 1, in percent
  EXPECT_NE(table.find("0.500"), std::string::npos);  // J/token
  EXPECT_NE(table.find("96.0"), std::string::npos);   // 24 of 32 as 96 of 128
}

TEST(Report, JsonCarriesUnits) {
  const auto json = to_json(small_outcome());
  const auto& phase = json["phases"]["thermoe"][0];
  EXPECT_DOUBLE_EQ(phase["tokens_per_s"].get<double>(), 50.0);
  EXPECT_DOUBLE_EQ(phase["power_mean_w"].get<double>(), 25.0);
  EXPECT_NEAR(phase["open_price_mean"].get<double>(), 0.2, 1e-6);
  EXPECT_DOUBLE_EQ(phase["loss_nats"].get<double>(), 0.01);
}

TEST(Report, HtmlStandsAloneAndEscapes) {
  const std::string html = to_html(small_outcome());
  EXPECT_EQ(html.find("src="), std::string::npos);
  EXPECT_EQ(html.find("href="), std::string::npos);
  EXPECT_EQ(html.find("<b>one</b>"), std::string::npos);
  EXPECT_NE(html.find("&lt;b&gt;one"), std::string::npos);
  EXPECT_NE(html.find("shape &lt;&amp;&gt;"), std::string::npos);
}

TEST(Report, PlotAveragesManyPointsDown) {
  const std::string svg = to_plot(small_outcome()).svg();
  EXPECT_LT(svg.size(), 80000u);
  EXPECT_EQ(svg.find("nan"), std::string::npos);
  EXPECT_EQ(svg.find("inf"), std::string::npos);
}

TEST(Plot, OfNothingIsStillSvg) {
  Plot plot;
  plot.panels.push_back({"empty", {{"red", {}, {}}}});
  const std::string svg = plot.svg();
  EXPECT_EQ(svg.find("nan"), std::string::npos);
  EXPECT_NE(svg.find("</svg>"), std::string::npos);
}

TEST(Table, AlignsByCodePoints) {
  const Table table{{"name", "°C"}, {{"a", "71.5"}, {}, {"longer", "9"}}};
  EXPECT_EQ(table.text(), "name      °C\n------------\na       71.5\n------------\nlonger     9\n");
}

}  // namespace
}  // namespace thermoe::app
