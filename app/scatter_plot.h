// Small-multiple scatter plots that share their axes, as SVG text that stands alone.
#pragma once

#include <string>
#include <vector>

namespace thermoe::app {

struct ScatterPoint {
  double x = 0, y = 0;
  double y_error = 0;  // half the length of its bar; 0: none
  std::string label;   // shown where the pointer rests on it
};

// Drawn in one colour and marker, the same in every panel.
struct ScatterSeries {
  std::string name;
  std::vector<ScatterPoint> points;
  std::vector<ScatterPoint> line;  // a thin line through these
};

struct ScatterPanel {
  std::string title;
  std::vector<ScatterSeries> series;
};

struct ScatterPlot {
  std::string title, x_label, y_label;
  // y is linear up to this size and logarithmic beyond, so that values near zero of either sign
  // and values a thousand times larger can be read off one axis.
  double linear_up_to = 1e-3;
  double x_low = 0, x_high = 1;  // points outside are left out
  std::vector<ScatterPanel> panels;
  std::string svg() const;
};

}  // namespace thermoe::app
