// y = x W^T for any number of rows: picks between the two ways of multiplying by stored weights.
//
// Few rows run through linear() (weights widened in registers). From kGemmRows rows on, panels of
// the weights are widened to f32 in scratch that stays in the L2 cache and handed to OpenBLAS's
// sgemm, one call per panel. Measured on one core of a shared Zen 3 EPYC (bf16, best of 60,
// GFLOP/s, linear / widen + sgemm; a 1024^3 sgemm runs at 88):
//     N x K        M = 4        16        32        64       512
//     256 x 256    69 / 22   52 / 51   71 / 65   68 / 76   46 / 88
//     512 x 512    66 / 23   73 / 51   72 / 65   71 / 75   49 / 84
//     4096 x 256   53 / 22   69 / 50   69 / 63   63 / 72   45 / 80
#pragma once

#include "kernels/cpu/rows.h"

namespace thermoe::cpu {

constexpr int64_t kGemmRows = 48;  // the crossover of the table above

// Floats of scratch that multiply() needs for up to `rows` rows of a weight with `cols` columns;
// `gathered`: the rows come with ids.
size_t multiply_scratch_floats(int64_t rows, int64_t cols, bool gathered);

// As linear(): by linear() itself below kGemmRows rows, else by widen_and_gemm().
void multiply(const PackedRows& x, const WeightView& w, int64_t first, int64_t count, float* y,
              int64_t y_stride, bool accumulate, float* scratch);

// As linear(), through sgemm. The first call sets OpenBLAS's thread count to one for the process
// (version 0.3.21 has no per-thread setting): the callers' own threads split the work.
void widen_and_gemm(const PackedRows& x, const WeightView& w, int64_t first, int64_t count,
                    float* y, int64_t y_stride, bool accumulate, float* scratch);

// OpenBLAS to one thread per call, once; for programs that call it beside multiply().
void use_single_threaded_blas();

}  // namespace thermoe::cpu
