#include "thermoe/quantized_expert.h"

#include <fmt/format.h>

#include <cmath>

#include "kernels/cpu/nested.h"
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

// Columns of a row of silu(gate) * up, whose bytes keep to multiples of 64.
int64_t padded_inter(int64_t inter) {
  return (inter + cpu::kUnitsPerBlock - 1) / cpu::kUnitsPerBlock * cpu::kUnitsPerBlock;
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

size_t QuantizedExpert::scratch_bytes(int64_t rows) const {
  return static_cast<size_t>(rows) *
         static_cast<size_t>(cpu::quantized_row_bytes(hidden_size()) +
                             cpu::quantized_row_bytes(inter_size()) +
                             padded_inter(inter_size()) * int64_t{sizeof(float)});
}

void QuantizedExpert::run(ConstMatrix x, Planes planes, Matrix out, std::byte* scratch) const {
  const int64_t rows = x.rows, hidden = hidden_size(), inter = inter_size();
  if (x.cols != hidden || out.cols != hidden || out.rows != rows)
    throw InvalidArgument(
        fmt::format("an expert of hidden size {} can't turn [{}, {}] into [{}, {}]", hidden, rows,
                    x.cols, out.rows, out.cols));
  const cpu::MutableQuantizedRows input{scratch, hidden, rows};
  const cpu::MutableQuantizedRows inner{input.row(rows), inter, rows};
  const Matrix activated(reinterpret_cast<float*>(inner.row(rows)), rows, inter,
                         padded_inter(inter));
  cpu::quantize_rows(x, 0, input);
  cpu::nested_swiglu({input.data, hidden, rows}, gate_up_, planes, 0, gate_up_.row_blocks(),
                     activated.data, activated.stride);
  cpu::quantize_rows(activated, 0, inner);
  cpu::nested_multiply({inner.data, inter, rows}, down_, planes, 0, down_.row_blocks(), out.data,
                       out.stride);
}

}  // namespace thermoe
