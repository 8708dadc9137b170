// Small-multiple line plots over one time axis, as SVG text that stands alone.
#pragma once

#include <string>
#include <vector>

namespace thermoe::app {

struct PlotSeries {
  std::string colour;  // CSS
  std::vector<double> x, y;
};

struct PlotPanel {
  std::string title;  // with the unit
  std::vector<PlotSeries> series;
};

// A span of the axis with a name, shaded in turn.
struct PlotBand {
  std::string name;
  double begin = 0, end = 0;
};

struct PlotLegendEntry {
  std::string name, colour;
};

struct Plot {
  std::string title, x_label;
  std::vector<PlotBand> bands;
  std::vector<PlotLegendEntry> legend;
  std::vector<PlotPanel> panels;
  // Series of many points are drawn as means over equal spans of the axis.
  std::string svg() const;
};

// Text for SVG or HTML: &, <, > and quotes escaped.
std::string escape_markup(const std::string& text);

}  // namespace thermoe::app
