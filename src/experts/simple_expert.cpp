#include "thermoe/simple_expert.h"

#include <fmt/format.h>

#include <algorithm>

#include "kernels/cpu/multiply.h"
#include "thermoe/error.h"

namespace thermoe {
namespace {

std::string shape_of(const WeightView& w) {
  return fmt::format("{} [{}, {}]", name_of(w.dtype), w.rows, w.cols);
}

}  // namespace

SimpleExpert::SimpleExpert(const WeightView& gate, const WeightView& up, const WeightView& down)
    : gate_(gate), up_(up), down_(down) {
  const bool fits = gate.rows > 0 && gate.cols > 0 && up.rows == gate.rows &&
                    up.cols == gate.cols && down.rows == gate.cols && down.cols == gate.rows &&
                    up.dtype == gate.dtype && down.dtype == gate.dtype;
  if (!fits || gate.empty() || up.empty() || down.empty())
    throw InvalidArgument(fmt::format(
        "expert weights gate {}, up {}, down {} don't fit together: gate and up must be "
        "[intermediate, hidden], down [hidden, intermediate], of one dtype",
        shape_of(gate), shape_of(up), shape_of(down)));
}

size_t SimpleExpert::scratch_floats(int64_t rows) const {
  const int64_t packed = cpu::padded_cols(hidden_size()) + cpu::padded_cols(inter_size());
  return static_cast<size_t>(rows * (packed + 2 * inter_size())) +
         std::max(cpu::multiply_scratch_floats(rows, hidden_size(), false),
                  cpu::multiply_scratch_floats(rows, inter_size(), false));
}

void SimpleExpert::run(ConstMatrix x, Matrix out, float* scratch) const {
  if (x.cols != hidden_size() || out.cols != hidden_size() || out.rows != x.rows)
    throw InvalidArgument(
        fmt::format("an expert of hidden size {} can't turn [{}, {}] into [{}, {}]", hidden_size(),
                    x.rows, x.cols, out.rows, out.cols));
  const int64_t rows = x.rows, inter = inter_size();
  const Matrix input(scratch, rows, cpu::padded_cols(hidden_size()));
  const Matrix gated(input.row(rows), rows, inter);
  const Matrix upped(gated.row(rows), rows, inter);
  const Matrix inner(upped.row(rows), rows, cpu::padded_cols(inter));
  float* rest = inner.row(rows);
  const cpu::PackedRows packed{input.data, input.stride, rows};
  cpu::pack_rows(dtype(), x, input);
  cpu::multiply(packed, gate_, 0, inter, gated.data, gated.stride, false, rest);
  cpu::multiply(packed, up_, 0, inter, upped.data, upped.stride, false, rest);
  cpu::pack_swiglu(dtype(), gated, upped, inner);
  cpu::multiply({inner.data, inner.stride, rows}, down_, 0, hidden_size(), out.data, out.stride,
                false, rest);
}

}  // namespace thermoe
