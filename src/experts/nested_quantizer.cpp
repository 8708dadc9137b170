#include "experts/nested_quantizer.h"

#include <fmt/format.h>

#include <Eigen/Cholesky>
#include <algorithm>
#include <array>
#include <cmath>

#include "thermoe/error.h"

namespace thermoe {
namespace {

constexpr int64_t kGroup = NestedView::kBlock;
constexpr int64_t kChunkRows = 32;
constexpr int kCodes = 127;  // positive scales: codes 1 to 127
constexpr float kLargestScale = 31;
constexpr float kBaseRoom = 1.02f;  // a scale may come out a little above the largest weight's own

// To the nearest integer, ties to even, for |x| < 2^22: vectorises without SSE4.
inline float nearest(float x) {
  constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23
  return (x + kMagic) - kMagic;
}

inline float nearest_nibble(float x) { return std::clamp(nearest(x), -8.0f, 7.0f); }

const std::array<float, kCodes>& scale_table() {
  static const std::array<float, kCodes> table = [] {
    std::array<float, kCodes> values{};
    for (int code = 1; code <= kCodes; ++code)
      values[static_cast<size_t>(code - 1)] = nested_scale(static_cast<uint8_t>(code));
    return values;
  }();
  return table;
}

// Weighted squared error of a group at one scale: of int4, plus int8's times `int8_weight`.
float group_error(const float* w, const float* worth, float scale, float ratio, float int8_weight) {
  const float inverse = 1 / scale, inverse_hi = 1 / (scale * ratio);
  float error = 0;
  for (int64_t c = 0; c < kGroup; ++c) {
    const float hi = nearest_nibble(w[c] * inverse_hi) * ratio;
    const float whole = hi + nearest_nibble(w[c] * inverse - hi);
    const float hi_error = w[c] - scale * hi, whole_error = w[c] - scale * whole;
    error += worth[c] * (hi_error * hi_error + int8_weight * whole_error * whole_error);
  }
  return error;
}

// The code of a group's best scale; 0 where the group is all zero.
uint8_t best_code(const float* w, const float* worth, float base, const NestedRounding& rounding) {
  constexpr int kBelow = 12, kAbove = 3;  // codes tried around the one that clips nothing
  float largest = 0;
  for (int64_t c = 0; c < kGroup; ++c) largest = std::max(largest, std::fabs(w[c]));
  if (largest == 0) return 0;
  const auto& table = scale_table();
  const float ratio = static_cast<float>(rounding.plane_ratio);
  const float whole = largest / (8 * ratio * base);
  const int at =
      static_cast<int>(std::lower_bound(table.begin(), table.end(), whole) - table.begin());
  uint8_t best = 0;
  float least = 0;
  for (int i = std::max(at - kBelow, 0); i <= std::min(at + kAbove, kCodes - 1); ++i)
    for (const float sign : {1.0f, -1.0f}) {
      const float scale = sign * base * table[static_cast<size_t>(i)];
      const float error = group_error(w, worth, scale, ratio, rounding.int8_weight);
      if (best != 0 && error >= least) continue;
      least = error;
      best = static_cast<uint8_t>((i + 1) | (sign < 0 ? 0x80 : 0));
    }
  return best;
}

}  // namespace

float nested_base(float largest_magnitude, const NestedRounding& rounding) {
  if (!(largest_magnitude > 0)) return 1;
  return largest_magnitude / (8 * static_cast<float>(rounding.plane_ratio)) / kLargestScale *
         kBaseRoom;
}

struct NestedRounder::Chunk {
  int64_t rows = 0;
  RowMajor target;             // [rows, cols] the weights as later columns have to make them up
  RowMajor weights;            // [rows, cols] the weights
  RowMajor hi;                 // [rows, cols] whole numbers
  RowMajor scales;             // [rows, groups]
  std::vector<uint8_t> codes;  // [rows, groups]
  RowMajor errors;             // [rows, kGroup] of the group at hand
  int64_t groups = 0;

  // The whole numbers that hi may be so that lo reaches the weight itself; nearest to `wanted`.
  float reachable(float weight, float scale, float ratio, float wanted) const {
    const float steps = weight / scale;
    const float least = std::ceil((steps - 7.5f) / ratio),
                most = std::floor((steps + 8.5f) / ratio);
    return std::clamp(std::max(std::min(wanted, most), least), -8.0f, 7.0f);
  }
};

NestedRounder::NestedRounder(int64_t cols, const Moments& moments, const NestedRounding& rounding)
    : cols_(cols), rounding_(rounding), worth_(Eigen::VectorXf::Ones(cols)) {
  if (moments.size() == 0) return;
  if (moments.rows() != cols || moments.cols() != cols || !moments.allFinite())
    throw InvalidArgument(fmt::format(
        "moments of {} inputs must be [{}, {}] and finite, not [{}, {}]{}", cols, cols, cols,
        moments.rows(), moments.cols(), moments.allFinite() ? "" : " with values that are not"));
  const double mean = moments.diagonal().cast<double>().mean();
  if (!(mean > 0)) return;
  Eigen::MatrixXd damped = moments.cast<double>() / mean;
  damped.diagonal().array() += static_cast<double>(rounding.damping) + 1e-6;
  moments_ = damped.cast<float>();
  const Eigen::MatrixXd inverse = damped.llt().solve(Eigen::MatrixXd::Identity(cols, cols));
  upper_ = inverse.llt().matrixU().toDenseMatrix().cast<float>();
  worth_ = upper_.diagonal().array().square().inverse();
  compensates_ = true;
}

void NestedRounder::choose_scales(Chunk& chunk, int64_t first) const {
  const int64_t width = std::min(kGroup, cols_ - first), group = first / kGroup;
  std::array<float, kGroup> values{}, worth{};
  std::copy_n(worth_.data() + first, width, worth.data());
  for (int64_t r = 0; r < chunk.rows; ++r) {
    std::copy_n(chunk.target.row(r).data() + first, width, values.data());
    // `scales` came as the base.
    const float base = chunk.scales(r, group);
    uint8_t code = best_code(values.data(), worth.data(), base, rounding_);
    if (code == 0) {  // earlier columns made up for all of it: the int8 still needs a scale
      std::copy_n(chunk.weights.row(r).data() + first, width, values.data());
      code = best_code(values.data(), worth.data(), base, rounding_);
    }
    chunk.codes[static_cast<size_t>(r * chunk.groups + group)] = code;
    chunk.scales(r, group) = base * nested_scale(code);
  }
}

void NestedRounder::round_group(Chunk& chunk, int64_t first) const {
  const int64_t width = std::min(kGroup, cols_ - first), group = first / kGroup;
  const float ratio = static_cast<float>(rounding_.plane_ratio);
  for (int64_t r = 0; r < chunk.rows; ++r) {
    const float scale = chunk.scales(r, group);
    float* target = chunk.target.row(r).data();
    for (int64_t c = first; c < first + width; ++c) {
      if (scale == 0) {
        chunk.hi(r, c) = chunk.errors(r, c - first) = 0;
        continue;
      }
      const float wanted = nearest_nibble(target[c] / (scale * ratio));
      const float hi = chunk.reachable(chunk.weights(r, c), scale, ratio, wanted);
      chunk.hi(r, c) = hi;
      if (!compensates_) continue;
      const float error = (target[c] - scale * ratio * hi) / upper_(c, c);
      chunk.errors(r, c - first) = error;
      const float* passed_on = upper_.row(c).data();
      for (int64_t j = c + 1; j < first + width; ++j) target[j] -= error * passed_on[j];
    }
  }
  const int64_t rest = cols_ - first - width;
  if (!compensates_ || rest == 0) return;
  chunk.target.rightCols(rest).noalias() -=
      chunk.errors.leftCols(width) * upper_.block(first, first + width, width, rest);
}

// Coordinate descent on the error of the products, by hi.
void NestedRounder::sweep(Chunk& chunk) const {
  const float ratio = static_cast<float>(rounding_.plane_ratio);
  RowMajor residual(chunk.rows, cols_);
  for (int64_t r = 0; r < chunk.rows; ++r)
    for (int64_t c = 0; c < cols_; ++c)
      residual(r, c) = chunk.weights(r, c) - chunk.scales(r, c / kGroup) * ratio * chunk.hi(r, c);
  RowMajor slope = residual * moments_;
  for (int64_t r = 0; r < chunk.rows; ++r)
    for (int sweeps = 0; sweeps < rounding_.sweeps; ++sweeps) {
      bool changed = false;
      for (int64_t c = 0; c < cols_; ++c) {
        const float scale = chunk.scales(r, c / kGroup), step = scale * ratio;
        if (scale == 0) continue;
        const float now = chunk.hi(r, c);
        const float wanted = nearest_nibble(now + slope(r, c) / (moments_(c, c) * step));
        const float hi = chunk.reachable(chunk.weights(r, c), scale, ratio, wanted);
        if (hi == now) continue;
        chunk.hi(r, c) = hi;
        slope.row(r) -= (hi - now) * step * moments_.row(c);
        changed = true;
      }
      if (!changed) break;
    }
}

cpu::NaturalPlanes NestedRounder::round(ConstMatrix w, float base) const {
  if (w.cols != cols_)
    throw InvalidArgument(
        fmt::format("a rounder of {} columns can't round [{}, {}]", cols_, w.rows, w.cols));
  cpu::NaturalPlanes planes{w.rows, w.cols, {}, {}, {}};
  planes.hi.resize(static_cast<size_t>(w.rows * w.cols));
  planes.lo.resize(planes.hi.size());
  planes.scales.resize(static_cast<size_t>(w.rows * planes.groups()));
  const float ratio = static_cast<float>(rounding_.plane_ratio);
  Chunk chunk;
  chunk.groups = planes.groups();
  for (int64_t row = 0; row < w.rows; row += kChunkRows) {
    chunk.rows = std::min(kChunkRows, w.rows - row);
    chunk.weights.resize(chunk.rows, cols_);
    for (int64_t r = 0; r < chunk.rows; ++r)
      std::copy_n(w.row(row + r), cols_, chunk.weights.row(r).data());
    chunk.target = chunk.weights;
    chunk.hi.resize(chunk.rows, cols_);
    chunk.errors.resize(chunk.rows, kGroup);
    chunk.scales.setConstant(chunk.rows, chunk.groups, base);
    chunk.codes.assign(static_cast<size_t>(chunk.rows * chunk.groups), 0);
    for (int64_t first = 0; first < cols_; first += kGroup) {
      choose_scales(chunk, first);
      round_group(chunk, first);
    }
    if (compensates_) sweep(chunk);
    std::copy(chunk.codes.begin(), chunk.codes.end(), planes.scales.begin() + row * chunk.groups);
    for (int64_t r = 0; r < chunk.rows; ++r)
      for (int64_t c = 0; c < cols_; ++c) {
        const auto at = static_cast<size_t>((row + r) * cols_ + c);
        const float scale = chunk.scales(r, c / kGroup), hi = chunk.hi(r, c);
        planes.hi[at] = static_cast<int8_t>(hi);
        planes.lo[at] =
            scale == 0
                ? int8_t{0}
                : static_cast<int8_t>(nearest_nibble(chunk.weights(r, c) / scale - ratio * hi));
      }
  }
  return planes;
}

}  // namespace thermoe
