#include "svg_plot.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace thermoe::app {
namespace {

constexpr double kStripWidth = 900, kStripLeft = 62, kStripRight = 14, kStripTop = 64;
constexpr double kStripHeight = 84, kStripGap = 30, kStripBottom = 44;
constexpr size_t kMostPoints = 360;  // about one for every two pixels

struct Range {
  double low = 0, high = 1;
  double span() const { return high - low; }
};

// A round step that puts two to four ticks into the span.
double tick_step(double span) {
  const double raw = span / 4;
  const double power = std::pow(10.0, std::floor(std::log10(raw)));
  for (const double factor : {1.0, 2.0, 2.5, 5.0})
    if (factor * power >= raw) return factor * power;
  return 10 * power;
}

Range y_range(const PlotPanel& panel) {
  double low = INFINITY, high = -INFINITY;
  for (const PlotSeries& series : panel.series)
    for (const double y : series.y) low = std::min(low, y), high = std::max(high, y);
  if (!(low <= high)) return {};
  // A quantity that stays in the upper half of its range is not drawn from zero.
  if (low > 0 && low < 0.5 * high) low = 0;
  const double margin = high > low ? 0.06 * (high - low) : std::max(std::abs(high), 1e-3) * 0.5;
  return {low == 0 ? 0 : low - margin, high + margin};
}

Range x_range(const Plot& plot) {
  Range range{INFINITY, -INFINITY};
  for (const PlotBand& band : plot.bands) {
    range.low = std::min(range.low, band.begin);
    range.high = std::max(range.high, band.end);
  }
  return range.low < range.high ? range : Range{};
}

// The series as an SVG polyline, averaged down where it has more points than the plot has pixels.
std::string polyline(const PlotSeries& series, Range x, Range y, double top) {
  std::string points;
  const size_t stride = (series.x.size() + kMostPoints - 1) / kMostPoints;
  for (size_t i = 0; i < series.x.size(); i += stride) {
    const size_t end = std::min(i + stride, series.x.size());
    double mean_x = 0, mean_y = 0;
    for (size_t j = i; j < end; ++j) mean_x += series.x[j], mean_y += series.y[j];
    mean_x /= static_cast<double>(end - i), mean_y /= static_cast<double>(end - i);
    points += fmt::format(
        "{:.1f},{:.1f} ",
        kStripLeft + (mean_x - x.low) / x.span() * (kStripWidth - kStripLeft - kStripRight),
        top + kStripHeight - (mean_y - y.low) / y.span() * kStripHeight);
  }
  return fmt::format("<polyline fill=\"none\" stroke=\"{}\" stroke-width=\"1.5\" points=\"{}\"/>\n",
                     series.colour, points);
}

std::string panel_svg(const PlotPanel& panel, Range x, double top) {
  const Range y = y_range(panel);
  std::string svg = fmt::format("<text x=\"{}\" y=\"{}\" class=\"panel\">{}</text>\n", kStripLeft,
                                top - 6, escape_markup(panel.title));
  const double step = tick_step(y.span());
  for (double tick = std::ceil(y.low / step) * step; tick <= y.high + 1e-9; tick += step) {
    const double at = top + kStripHeight - (tick - y.low) / y.span() * kStripHeight;
    svg += fmt::format(
        "<line x1=\"{}\" y1=\"{:.1f}\" x2=\"{}\" y2=\"{:.1f}\" class=\"grid\"/>"
        "<text x=\"{}\" y=\"{:.1f}\" class=\"tick\" text-anchor=\"end\">{:g}</text>\n",
        kStripLeft, at, kStripWidth - kStripRight, at, kStripLeft - 6, at + 4,
        std::abs(tick) < 1e-12 ? 0.0 : tick);
  }
  for (const PlotSeries& series : panel.series) svg += polyline(series, x, y, top);
  return svg;
}

std::string bands_svg(const Plot& plot, Range x, double bottom) {
  std::string svg;
  const double scale = (kStripWidth - kStripLeft - kStripRight) / x.span();
  for (size_t i = 0; i < plot.bands.size(); ++i) {
    const PlotBand& band = plot.bands[i];
    const double left = kStripLeft + (band.begin - x.low) * scale,
                 wide = (band.end - band.begin) * scale;
    svg += fmt::format(
        "<rect x=\"{:.1f}\" y=\"{}\" width=\"{:.1f}\" height=\"{:.1f}\" fill=\"{}\"/>"
        "<text x=\"{:.1f}\" y=\"{}\" class=\"band\" text-anchor=\"middle\">{}</text>\n",
        left, kStripTop - 22, wide, bottom - kStripTop + 22, i % 2 ? "#f1f4f8" : "#fafbfc",
        left + wide / 2, kStripTop - 28, escape_markup(band.name));
  }
  return svg;
}

std::string legend_svg(const Plot& plot) {
  std::string svg;
  double right = kStripWidth - kStripRight;
  for (auto entry = plot.legend.rbegin(); entry != plot.legend.rend(); ++entry) {
    const double wide = 8.0 * static_cast<double>(entry->name.size()) + 34;
    right -= wide;
    svg += fmt::format(
        "<line x1=\"{:.1f}\" y1=\"16\" x2=\"{:.1f}\" y2=\"16\" stroke=\"{}\" stroke-width=\"3\"/>"
        "<text x=\"{:.1f}\" y=\"20\" class=\"panel\">{}</text>\n",
        right, right + 20, entry->colour, right + 26, escape_markup(entry->name));
  }
  return svg;
}

std::string time_axis_svg(const Plot& plot, Range x, double bottom) {
  std::string svg;
  const double step = tick_step(x.span() / 3);
  for (double tick = std::ceil(x.low / step) * step; tick <= x.high + 1e-9; tick += step)
    svg += fmt::format(
        "<text x=\"{:.1f}\" y=\"{:.1f}\" class=\"tick\" text-anchor=\"middle\">{:g}</text>\n",
        kStripLeft + (tick - x.low) / x.span() * (kStripWidth - kStripLeft - kStripRight),
        bottom + 16, tick);
  return svg + fmt::format(
                   "<text x=\"{}\" y=\"{:.1f}\" class=\"tick\" text-anchor=\"middle\">{}</text>\n",
                   (kStripLeft + kStripWidth - kStripRight) / 2, bottom + 34,
                   escape_markup(plot.x_label));
}

}  // namespace

std::string escape_markup(const std::string& text) {
  std::string escaped;
  for (const char c : text) {
    if (c == '&')
      escaped += "&amp;";
    else if (c == '<')
      escaped += "&lt;";
    else if (c == '>')
      escaped += "&gt;";
    else if (c == '"')
      escaped += "&quot;";
    else
      escaped += c;
  }
  return escaped;
}

std::string Plot::svg() const {
  const Range x = x_range(*this);
  const double bottom =
      kStripTop + static_cast<double>(panels.size()) * (kStripHeight + kStripGap) - kStripGap;
  std::string out = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0} {1}\" width=\"{0}\" "
      "height=\"{1}\" font-family=\"system-ui, sans-serif\">\n"
      "<style>.panel{{font-size:12px;fill:#24292f}}.tick{{font-size:11px;fill:#57606a}}"
      ".band{{font-size:12px;fill:#57606a}}.title{{font-size:14px;font-weight:600;fill:#24292f}}"
      ".grid{{stroke:#d8dee4;stroke-width:1}}</style>\n"
      "<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n"
      "<text x=\"{2}\" y=\"20\" class=\"title\">{3}</text>\n",
      kStripWidth, bottom + kStripBottom, kStripLeft, escape_markup(title));
  out += legend_svg(*this) + bands_svg(*this, x, bottom);
  double top = kStripTop;
  for (const PlotPanel& panel : panels) {
    out += panel_svg(panel, x, top);
    top += kStripHeight + kStripGap;
  }
  return out + time_axis_svg(*this, x, bottom) + "</svg>\n";
}

}  // namespace thermoe::app
