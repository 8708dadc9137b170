// Nested planes between their natural order and the packed one of thermoe/nested_view.h, and their
// values in f32: the scalar reference of every kernel that reads them. Not fast: for the quantiser,
// the loader and tests.
#pragma once

#include <cstdint>
#include <vector>

#include "thermoe/nested_view.h"
#include "thermoe/views.h"

namespace thermoe::cpu {

// A weight's planes in natural, row-major order.
struct NaturalPlanes {
  int64_t rows = 0, cols = 0;
  std::vector<int8_t> hi, lo;   // [rows, cols], in [-8, 7]
  std::vector<uint8_t> scales;  // [rows, groups()] codes as nested_scale() reads them

  int64_t groups() const { return (cols + NestedView::kBlock - 1) / NestedView::kBlock; }
};

// A weight's planes in packed order, owned.
struct PackedPlanes {
  int64_t rows = 0, cols = 0;
  std::vector<uint8_t> hi, lo, scales;  // as NestedView has them

  // Looks at this: valid until a vector changes.
  NestedView view(float base, int32_t plane_ratio) const {
    return {hi.data(), lo.data(), scales.data(), rows, cols, base, plane_ratio};
  }
};

// Rows and columns beyond the weight's become hi = lo = 0 with the scale's code 0.
// Throws InvalidArgument where a vector has another size or a value is outside [-8, 7].
PackedPlanes pack_nested(const NaturalPlanes& planes);

// The inverse, without the padding.
NaturalPlanes unpack_nested(const NestedView& w);

// to [w.rows, w.cols] = the weight that `planes` stand for.
void dequantize_nested(const NestedView& w, Planes planes, Matrix to);

// The row of gate_up (thermoe/quantized_expert.h) that holds the gate of a unit; its up is 8 below.
constexpr int64_t kUnitsPerBlock = NestedView::kBlock / 2;
constexpr int64_t kUpRow = 8;
constexpr int64_t gate_row(int64_t unit) { return unit / 8 * 16 + unit % 8; }

// Rows of gate_up for so many units.
constexpr int64_t gate_up_rows(int64_t units) {
  return (units + kUnitsPerBlock - 1) / kUnitsPerBlock * NestedView::kBlock;
}

// gate and up [units, hidden] as one matrix [gate_up_rows(units), hidden]; units that pad the last
// block are zero. Throws InvalidArgument where the two differ in shape.
NaturalPlanes join_gate_up(const NaturalPlanes& gate, const NaturalPlanes& up);

}  // namespace thermoe::cpu
