#include "kernels/cpu/nested_pack.h"

#include <fmt/format.h>

#include <algorithm>

#include "thermoe/error.h"

namespace thermoe::cpu {
namespace {

constexpr int64_t kBlock = NestedView::kBlock;
constexpr int kBias = 8;  // of a stored nibble

// Where one value of a weight stands in a plane.
struct Place {
  size_t byte = 0;
  int shift = 0;
};

size_t block_of(int64_t row, int64_t col, int64_t col_blocks) {
  return static_cast<size_t>(row / kBlock * col_blocks + col / kBlock);
}

// nested_view.h, read backwards: which thread (g, t), word (m, k) and nibble hold (row, col).
Place place_of(int64_t row, int64_t col, int64_t col_blocks) {
  const size_t r = static_cast<size_t>(row % kBlock), c = static_cast<size_t>(col % kBlock);
  const size_t m = r / 16, g = r % 8, high = r % 16 / 8;
  const size_t k = c / 16, t = c % 8 / 2, byte = c % 2 * 2 + c % 16 / 8;
  return {block_of(row, col, col_blocks) * NestedView::kPlaneBlockBytes + 16 * (4 * g + t) +
              4 * (m + 2 * k) + byte,
          high != 0 ? 4 : 0};
}

size_t scale_place(int64_t row, int64_t group, int64_t col_blocks) {
  const size_t r = static_cast<size_t>(row % kBlock);
  return block_of(row, group * kBlock, col_blocks) * NestedView::kScaleBlockBytes + 4 * (r % 8) +
         r / 16 + 2 * (r % 16 / 8);
}

int nibble_at(const uint8_t* plane, const Place& place) {
  return (plane[place.byte] >> place.shift & 15) - kBias;
}

void put_nibble(std::vector<uint8_t>& plane, const Place& place, int8_t value) {
  if (value < -kBias || value >= kBias)
    throw InvalidArgument(fmt::format("a nested plane can't hold {}: values are -8 to 7", value));
  uint8_t& byte = plane[place.byte];
  byte = static_cast<uint8_t>((byte & ~(15 << place.shift)) | ((value + kBias) << place.shift));
}

void check_sizes(const NaturalPlanes& planes) {
  const auto values = static_cast<size_t>(planes.rows * planes.cols);
  const auto scales = static_cast<size_t>(planes.rows * planes.groups());
  if (planes.rows < 1 || planes.cols < 1 || planes.hi.size() != values ||
      planes.lo.size() != values || planes.scales.size() != scales)
    throw InvalidArgument(fmt::format(
        "planes of [{}, {}] need {} values each and {} scales, not {}, {} and {}", planes.rows,
        planes.cols, values, scales, planes.hi.size(), planes.lo.size(), planes.scales.size()));
}

}  // namespace

PackedPlanes pack_nested(const NaturalPlanes& planes) {
  check_sizes(planes);
  PackedPlanes packed{planes.rows, planes.cols, {}, {}, {}};
  const NestedView shape = packed.view(1, 16);
  const size_t blocks = static_cast<size_t>(shape.blocks());
  constexpr uint8_t kZeros = kBias << 4 | kBias;
  packed.hi.assign(blocks * NestedView::kPlaneBlockBytes, kZeros);
  packed.lo = packed.hi;
  packed.scales.assign(blocks * NestedView::kScaleBlockBytes, 0);
  for (int64_t r = 0; r < planes.rows; ++r) {
    for (int64_t c = 0; c < planes.cols; ++c) {
      const Place place = place_of(r, c, shape.col_blocks());
      const auto at = static_cast<size_t>(r * planes.cols + c);
      put_nibble(packed.hi, place, planes.hi[at]);
      put_nibble(packed.lo, place, planes.lo[at]);
    }
    for (int64_t group = 0; group < planes.groups(); ++group)
      packed.scales[scale_place(r, group, shape.col_blocks())] =
          planes.scales[static_cast<size_t>(r * planes.groups() + group)];
  }
  return packed;
}

NaturalPlanes unpack_nested(const NestedView& w) {
  NaturalPlanes planes{w.rows, w.cols, {}, {}, {}};
  for (int64_t r = 0; r < w.rows; ++r) {
    for (int64_t c = 0; c < w.cols; ++c) {
      const Place place = place_of(r, c, w.col_blocks());
      planes.hi.push_back(static_cast<int8_t>(nibble_at(w.hi, place)));
      planes.lo.push_back(static_cast<int8_t>(nibble_at(w.lo, place)));
    }
    for (int64_t group = 0; group < w.col_blocks(); ++group)
      planes.scales.push_back(w.scales[scale_place(r, group, w.col_blocks())]);
  }
  return planes;
}

void dequantize_nested(const NestedView& w, Planes planes, Matrix to) {
  for (int64_t r = 0; r < w.rows; ++r)
    for (int64_t c = 0; c < w.cols; ++c) {
      const Place place = place_of(r, c, w.col_blocks());
      const int lo = planes == Planes::kBoth ? nibble_at(w.lo, place) : 0;
      const float scale = nested_scale(w.scales[scale_place(r, c / kBlock, w.col_blocks())]);
      to(r, c) = w.base * scale * static_cast<float>(w.plane_ratio * nibble_at(w.hi, place) + lo);
    }
}

NaturalPlanes join_gate_up(const NaturalPlanes& gate, const NaturalPlanes& up) {
  check_sizes(gate);
  check_sizes(up);
  if (gate.rows != up.rows || gate.cols != up.cols)
    throw InvalidArgument(fmt::format("gate [{}, {}] and up [{}, {}] must have one shape",
                                      gate.rows, gate.cols, up.rows, up.cols));
  const int64_t cols = gate.cols, groups = gate.groups();
  NaturalPlanes both{gate_up_rows(gate.rows), cols, {}, {}, {}};
  both.hi.resize(static_cast<size_t>(both.rows * cols));
  both.lo.resize(both.hi.size());
  both.scales.resize(static_cast<size_t>(both.rows * groups));
  const auto put = [&](const NaturalPlanes& from, int64_t unit, int64_t row) {
    std::copy_n(from.hi.data() + unit * cols, cols, both.hi.data() + row * cols);
    std::copy_n(from.lo.data() + unit * cols, cols, both.lo.data() + row * cols);
    std::copy_n(from.scales.data() + unit * groups, groups, both.scales.data() + row * groups);
  };
  for (int64_t unit = 0; unit < gate.rows; ++unit) {
    put(gate, unit, gate_row(unit));
    put(up, unit, gate_row(unit) + kUpRow);
  }
  return both;
}

}  // namespace thermoe::cpu
