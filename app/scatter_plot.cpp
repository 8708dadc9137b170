#include "scatter_plot.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "svg_plot.h"

namespace thermoe::app {
namespace {

constexpr double kPanelWidth = 420, kPanelHeight = 280;
constexpr double kLeft = 64, kRight = 18, kGapX = 58, kGapY = 62, kTop = 40, kBottom = 48;
constexpr double kLegendRow = 18, kLegendColumn = 150;
constexpr size_t kColumns = 2;

// Twelve hues that stay apart in print too; with more series than these the marker tells.
constexpr std::array kColours{"#0b6e99", "#d1495b", "#2a9d5c", "#e08e0b", "#7b4fb5", "#8a5a3b",
                              "#c2388f", "#5b6770", "#8c9c14", "#15a3a3", "#3d4fc4", "#a11d1d"};
constexpr size_t kMarkers = 4;

struct Style {
  const char* colour;
  size_t marker;
};

Style style_of(size_t series) {
  return {kColours[series % kColours.size()], (series + series / kColours.size()) % kMarkers};
}

std::string marker(Style style, double x, double y, double size) {
  switch (style.marker) {
    case 0:
      return fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"{:.1f}\" fill=\"{}\"/>", x, y,
                         size, style.colour);
    case 1:
      return fmt::format(
          "<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\" fill=\"{}\"/>",
          x - 0.9 * size, y - 0.9 * size, 1.8 * size, 1.8 * size, style.colour);
    case 2:
      return fmt::format("<path d=\"M{:.1f} {:.1f}l{:.1f} {:.1f}h{:.1f}z\" fill=\"{}\"/>", x,
                         y - 1.2 * size, 1.2 * size, 2.1 * size, -2.4 * size, style.colour);
    default:
      return fmt::format(
          "<path d=\"M{:.1f} {:.1f}l{:.1f} {:.1f}l{:.1f} {:.1f}l{:.1f} {:.1f}z\" fill=\"{}\"/>", x,
          y - 1.4 * size, 1.4 * size, 1.4 * size, -1.4 * size, 1.4 * size, -1.4 * size, -1.4 * size,
          style.colour);
  }
}

// Series by name, in the order of their first appearance: one colour each in every panel.
std::vector<std::string> names_of(const ScatterPlot& plot) {
  std::vector<std::string> names;
  for (const ScatterPanel& panel : plot.panels)
    for (const ScatterSeries& series : panel.series)
      if (std::find(names.begin(), names.end(), series.name) == names.end())
        names.push_back(series.name);
  return names;
}

class Drawing {
 public:
  explicit Drawing(const ScatterPlot& plot) : plot_(plot), names_(names_of(plot)) {
    const size_t columns = std::max<size_t>(1, std::min(kColumns, plot.panels.size()));
    const size_t rows = (plot.panels.size() + kColumns - 1) / kColumns;
    width_ = kLeft + static_cast<double>(columns) * (kPanelWidth + kGapX) - kGapX + kRight;
    legend_columns_ =
        std::max<size_t>(1, static_cast<size_t>((width_ - kLeft - kRight) / kLegendColumn));
    const size_t legend_rows = (names_.size() + legend_columns_ - 1) / legend_columns_;
    top_ = kTop + static_cast<double>(legend_rows) * kLegendRow + 28;
    height_ = top_ + static_cast<double>(rows) * (kPanelHeight + kGapY) - kGapY + kBottom;
    find_y_range();
  }

  std::string svg() const {
    std::string out = fmt::format(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0} {1}\" width=\"{0}\" "
        "height=\"{1}\" font-family=\"system-ui, sans-serif\">\n"
        "<style>.panel{{font-size:12px;fill:#24292f}}.tick{{font-size:11px;fill:#57606a}}"
        ".title{{font-size:14px;font-weight:600;fill:#24292f}}"
        ".grid{{stroke:#d8dee4;stroke-width:1}}.zero{{stroke:#8c959f;stroke-width:1}}</style>\n"
        "<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n"
        "<text x=\"{2}\" y=\"22\" class=\"title\">{3}</text>\n",
        width_, height_, kLeft, escape_markup(plot_.title));
    out += legend();
    for (size_t p = 0; p < plot_.panels.size(); ++p) {
      const size_t row = p / kColumns;
      out +=
          panel(plot_.panels[p], kLeft + static_cast<double>(p % kColumns) * (kPanelWidth + kGapX),
                top_ + static_cast<double>(row) * (kPanelHeight + kGapY));
    }
    return out + "</svg>\n";
  }

 private:
  // Symmetric logarithm: the size of the linear part is one decade's.
  double bend(double y) const {
    const double size = std::abs(y) / plot_.linear_up_to;
    return std::copysign(size <= 1 ? size : 1 + std::log10(size), y);
  }
  bool inside(const ScatterPoint& point) const {
    return point.x >= plot_.x_low && point.x <= plot_.x_high && std::isfinite(point.y);
  }
  double across(double x, double left) const {
    return left + (x - plot_.x_low) / (plot_.x_high - plot_.x_low) * kPanelWidth;
  }
  double down(double y, double top) const {
    const double at = (bend(y) - low_) / (high_ - low_);
    return top + kPanelHeight * (1 - std::clamp(at, 0.0, 1.0));
  }

  void find_y_range() {
    low_ = -0.2, high_ = 1;
    for (const ScatterPanel& panel : plot_.panels)
      for (const ScatterSeries& series : panel.series)
        for (const ScatterPoint& point : series.points)
          if (inside(point)) {
            low_ = std::min(low_, bend(point.y - point.y_error) - 0.1);
            high_ = std::max(high_, bend(point.y + point.y_error) + 0.1);
          }
  }

  std::string legend() const {
    std::string out;
    for (size_t n = 0; n < names_.size(); ++n) {
      const double x = kLeft + static_cast<double>(n % legend_columns_) * kLegendColumn;
      const size_t row = n / legend_columns_;
      const double y = kTop + static_cast<double>(row) * kLegendRow;
      out += marker(style_of(n), x + 6, y, 4) +
             fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" class=\"panel\">{}</text>\n", x + 16,
                         y + 4, escape_markup(names_[n]));
    }
    return out;
  }

  std::string y_tick(double y, double left, double top) const {
    if (bend(y) < low_ || bend(y) > high_) return "";
    const double at = down(y, top);
    return fmt::format(
        "<line x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\" class=\"{}\"/>"
        "<text x=\"{:.1f}\" y=\"{:.1f}\" class=\"tick\" text-anchor=\"end\">{:g}</text>\n",
        left, at, left + kPanelWidth, at, y == 0 ? "zero" : "grid", left - 6, at + 4, y);
  }

  std::string axes(double left, double top) const {
    std::string out = y_tick(0, left, top);
    for (double y = plot_.linear_up_to; bend(y) <= high_ || bend(-y) >= low_; y *= 10)
      out += y_tick(y, left, top) + y_tick(-y, left, top);
    const double span = plot_.x_high - plot_.x_low, step = span > 0.65 ? 0.2 : 0.1;
    for (double x = std::ceil(plot_.x_low / step) * step; x <= plot_.x_high + 1e-9; x += step)
      out += fmt::format(
          "<line x1=\"{0:.1f}\" y1=\"{1:.1f}\" x2=\"{0:.1f}\" y2=\"{2:.1f}\" class=\"grid\"/>"
          "<text x=\"{0:.1f}\" y=\"{3:.1f}\" class=\"tick\" "
          "text-anchor=\"middle\">{4:.2g}</text>\n",
          across(x, left), top, top + kPanelHeight, top + kPanelHeight + 15, x);
    return out + fmt::format(
                     "<text x=\"{:.1f}\" y=\"{:.1f}\" class=\"tick\" "
                     "text-anchor=\"middle\">{}</text>\n",
                     left + kPanelWidth / 2, top + kPanelHeight + 32, escape_markup(plot_.x_label));
  }

  std::string series_svg(const ScatterSeries& series, double left, double top) const {
    const size_t index =
        static_cast<size_t>(std::find(names_.begin(), names_.end(), series.name) - names_.begin());
    const Style style = style_of(index);
    std::string out, line;
    for (const ScatterPoint& point : series.line)
      if (inside(point))
        line += fmt::format("{:.1f},{:.1f} ", across(point.x, left), down(point.y, top));
    out += fmt::format(
        "<polyline fill=\"none\" stroke=\"{}\" stroke-width=\"1\" stroke-opacity=\"0.6\" "
        "points=\"{}\"/>\n",
        style.colour, line);
    for (const ScatterPoint& point : series.points) {
      if (!inside(point)) continue;
      const double x = across(point.x, left);
      const double high = down(point.y + point.y_error, top);
      const double low = down(point.y - point.y_error, top);
      out += "<g>";
      if (low - high > 7)  // a shorter bar hides behind its marker
        out += fmt::format(
            "<line x1=\"{0:.1f}\" y1=\"{1:.1f}\" x2=\"{0:.1f}\" y2=\"{2:.1f}\" stroke=\"{3}\" "
            "stroke-opacity=\"0.5\"/>",
            x, high, low, style.colour);
      out += marker(style, x, down(point.y, top), 3) + "<title>" + escape_markup(point.label) +
             "</title></g>\n";
    }
    return out;
  }

  std::string panel(const ScatterPanel& panel, double left, double top) const {
    std::string out =
        fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" class=\"panel\">{}: {}</text>\n", left,
                    top - 8, escape_markup(panel.title), escape_markup(plot_.y_label));
    out += axes(left, top);
    for (const ScatterSeries& series : panel.series) out += series_svg(series, left, top);
    return out;
  }

  const ScatterPlot& plot_;
  std::vector<std::string> names_;
  double width_ = 0, height_ = 0, top_ = 0, low_ = 0, high_ = 1;
  size_t legend_columns_ = 1;
};

}  // namespace

std::string ScatterPlot::svg() const { return Drawing(*this).svg(); }

}  // namespace thermoe::app
