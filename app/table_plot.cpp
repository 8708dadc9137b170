#include "table_plot.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "scatter_plot.h"

namespace thermoe::app {
namespace {

constexpr size_t kLeastShapes = 8;

// One curve of the table: a kernel, a shape and a load.
struct Curve {
  std::vector<const RowError*> rows;
  double median_error = 0;
};

std::vector<Curve> curves_of(const std::vector<const RowError*>& rows) {
  std::map<std::string, Curve> by_shape;
  for (const RowError* row : rows) by_shape[cost::text_of(row->row->shape)].rows.push_back(row);
  std::vector<Curve> curves;
  curves.reserve(by_shape.size());
  for (auto& [name, curve] : by_shape) {
    std::vector<double> errors;
    errors.reserve(curve.rows.size());
    for (const RowError* row : curve.rows) errors.push_back(std::abs(row->latency_frac));
    std::sort(errors.begin(), errors.end());
    curve.median_error = errors[errors.size() / 2];
    std::sort(curve.rows.begin(), curve.rows.end(),
              [](const RowError* a, const RowError* b) { return a->row->tokens < b->row->tokens; });
    curves.push_back(std::move(curve));
  }
  std::sort(curves.begin(), curves.end(),
            [](const Curve& a, const Curve& b) { return a.median_error < b.median_error; });
  return curves;
}

ScatterPanel panel_of(const Curve& curve) {
  const cost::MeasuredRow& first = *curve.rows.front()->row;
  ScatterSeries measured{"measured", {}, {}}, predicted{"predicted", {}, {}};
  for (const RowError* row : curve.rows) {
    const double x = std::log2(row->row->tokens);
    const double us = row->row->latency_us;
    measured.points.push_back(
        {x, us, 0, fmt::format("{} tokens: {:.1f} us", row->row->tokens, us)});
    const double guess_us = us * (1 + row->latency_frac);
    predicted.line.push_back({x, guess_us, 0, ""});
    predicted.points.push_back(
        {x, guess_us, 0, fmt::format("{} tokens: {:.1f} us", row->row->tokens, guess_us)});
  }
  return {fmt::format("{} {}, median error {:.1f} %", first.dtype, cost::text_of(first.shape),
                      100 * curve.median_error),
          {measured, predicted}};
}

}  // namespace

std::string plot_of(const TableErrors& errors, const std::string& title) {
  std::map<std::string, std::vector<const RowError*>> kernels;
  double most_tokens = 1;
  for (const RowError& row : errors.rows) {
    kernels[row.row->kernel + row.row->dtype].push_back(&row);
    most_tokens = std::max(most_tokens, row.row->tokens);
  }
  ScatterPlot plot;
  plot.title = title;
  plot.x_label = "log2(tokens)";
  plot.y_label = "latency, us";
  plot.linear_up_to = 10;
  plot.x_high = std::log2(most_tokens);
  for (const auto& [name, rows] : kernels) {
    const std::vector<Curve> curves = curves_of(rows);
    if (curves.size() < kLeastShapes) continue;
    plot.panels.push_back(panel_of(curves[curves.size() / 2]));
    plot.panels.push_back(panel_of(curves[curves.size() * 9 / 10]));
  }
  return plot.svg();
}

}  // namespace thermoe::app
