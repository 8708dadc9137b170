#include "thermoe/quantized_expert.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "kernels/cpu/nested_pack.h"
#include "thermoe/error.h"

namespace thermoe {
namespace {

std::string shape_of(const NestedView& w) { return fmt::format("[{}, {}]", w.rows, w.cols); }

void check_view(const char* name, const NestedView& w) {
  if (w.empty() || w.rows < 1 || w.cols < 1)
    throw InvalidArgument(fmt::format("{} {} has no planes or no scales", name, shape_of(w)));
  if (w.plane_ratio < 1 || w.plane_ratio > 16)
    throw InvalidArgument(
        fmt::format("{} has plane_ratio {}: it must be 1 to 16", name, w.plane_ratio));
  if (!(w.base > 0) || !std::isfinite(w.base))
    throw InvalidArgument(
        fmt::format("{} has base {}: it must be finite and positive", name, w.base));
}

// x in groups of 32 rounded to 127 steps of each group's largest magnitude.
void round_groups(const float* x, int64_t count, float* to) {
  for (int64_t first = 0; first < count; first += NestedView::kBlock) {
    const int64_t end = std::min(count, first + NestedView::kBlock);
    float most = 0;
    for (int64_t i = first; i < end; ++i) most = std::max(most, std::fabs(x[i]));
    for (int64_t i = first; i < end; ++i)
      to[i] = most == 0 ? 0 : std::nearbyint(x[i] * (127 / most)) * (most / 127);
  }
}

double dot(const float* a, const float* b, int64_t count) {
  double sum = 0;
  for (int64_t i = 0; i < count; ++i) sum += static_cast<double>(a[i]) * b[i];
  return sum;
}

}  // namespace

QuantizedExpert::QuantizedExpert(const NestedView& gate_up, const NestedView& down)
    : gate_up_(gate_up), down_(down) {
  check_view("gate_up", gate_up);
  check_view("down", down);
  if (gate_up.rows != cpu::gate_up_rows(down.cols) || gate_up.cols != down.rows)
    throw InvalidArgument(fmt::format(
        "expert weights gate_up {} and down {} don't fit together: gate_up must be [2 * "
        "intermediate padded to 16 units, hidden], down [hidden, intermediate]",
        shape_of(gate_up), shape_of(down)));
}

size_t QuantizedExpert::scratch_bytes(int64_t /*rows*/) const {
  const int64_t weights = std::max(gate_up_.rows * gate_up_.cols, down_.rows * down_.cols);
  return static_cast<size_t>(weights + hidden_size() + 2 * inter_size()) * sizeof(float);
}

void QuantizedExpert::run(ConstMatrix x, Planes planes, Matrix out, std::byte* scratch) const {
  const int64_t hidden = hidden_size(), inter = inter_size();
  if (x.cols != hidden || out.cols != hidden || out.rows != x.rows)
    throw InvalidArgument(
        fmt::format("an expert of hidden size {} can't turn [{}, {}] into [{}, {}]", hidden, x.rows,
                    x.cols, out.rows, out.cols));
  float* rounded = reinterpret_cast<float*>(scratch);
  float* inner = rounded + hidden;
  float* rounded_inner = inner + inter;
  float* weights = rounded_inner + inter;
  for (int64_t r = 0; r < x.rows; ++r) {
    round_groups(x.row(r), hidden, rounded);
    cpu::dequantize_nested(gate_up_, planes, Matrix(weights, gate_up_.rows, hidden));
    for (int64_t unit = 0; unit < inter; ++unit) {
      const float* gate = weights + cpu::gate_row(unit) * hidden;
      const double g = dot(rounded, gate, hidden);
      inner[unit] = static_cast<float>(g / (1 + std::exp(-g)) *
                                       dot(rounded, gate + cpu::kUpRow * hidden, hidden));
    }
    round_groups(inner, inter, rounded_inner);
    cpu::dequantize_nested(down_, planes, Matrix(weights, hidden, inter));
    for (int64_t o = 0; o < hidden; ++o)
      out(r, o) = static_cast<float>(dot(rounded_inner, weights + o * inter, inter));
  }
}

}  // namespace thermoe
