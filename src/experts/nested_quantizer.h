// Rounds a weight to nested planes so that both the int8 and its int4 prefix serve its products.
//
// Scales   Of each group of 32, the code that makes the least squared error of int4 plus
//          `int8_weight` times int8's, each column weighted by what its inputs are worth. A scale
//          may be negative: the largest magnitude then meets -8 instead of 7.
// hi       Rounded column by column with the error of each passed on to the columns not yet
//          rounded (Frantar et al. 2022, "GPTQ"), by the second moments of the inputs; then swept
//          again, each value to where it serves the product best given all others. Only values of
//          which lo can make the int8 whole are considered.
// lo       What is left of the weight itself: int8 is its nearest value, whatever hi is.
//
// Without moments every input is worth the same and nothing is passed on.
#pragma once

#include <Eigen/Core>
#include <cstdint>

#include "kernels/cpu/nested_pack.h"
#include "thermoe/views.h"

namespace thermoe {

struct NestedRounding {
  int32_t plane_ratio = 12;  // 8 lets hi be any of two, 16 only the nearest; docs/quantisation.md
  float int8_weight = 8;
  float damping = 0.5f;  // of the mean second moment, added to each: inputs vary beyond those seen
  int sweeps = 3;
};

// base of NestedView: the largest scale that a weight with such values may need is the largest
// code.
float nested_base(float largest_magnitude, const NestedRounding& rounding);

// Immutable: round() may be called from several threads at once.
class NestedRounder {
 public:
  using Moments = Eigen::MatrixXf;

  // moments [cols, cols]: sum of x x^T over inputs, each times its worth; empty, or all zero: none.
  // O(cols^3). Throws InvalidArgument on moments that are not finite or of another shape.
  NestedRounder(int64_t cols, const Moments& moments, const NestedRounding& rounding = {});

  // w [rows, cols] finite. O(rows * cols^2) with moments.
  cpu::NaturalPlanes round(ConstMatrix w, float base) const;

 private:
  struct Chunk;  // some rows at work
  void choose_scales(Chunk& chunk, int64_t first) const;
  void round_group(Chunk& chunk, int64_t first) const;
  void sweep(Chunk& chunk) const;

  int64_t cols_;
  NestedRounding rounding_;
  bool compensates_ = false;
  // Row-major views of symmetric and triangular matrices: rows are contiguous.
  using RowMajor = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  RowMajor moments_;       // damped
  RowMajor upper_;         // U of inverse(moments_) = U^T U
  Eigen::VectorXf worth_;  // [cols] of a column's own error, once later columns make up for it
};

}  // namespace thermoe
