// The solver's inner loops over rows of values, for the CPU's best instruction set. Rows are padded
// to a multiple of kRowPad with kNever; every sum is exact on the grid, so all targets agree.
#pragma once

#include <cstdint>

namespace thermoe {

inline constexpr int kRowPad = 8;
constexpr int padded_row(int count) { return (count + kRowPad - 1) / kRowPad * kRowPad; }

// Index of the largest row[i] + penalty[i], the lowest at equal values. width: a multiple of
// kRowPad.
int row_best(const double* row, const double* penalty, int width);

// sums[i] += sum_t max(0, values[t, i] - threshold[t]). values [rows, width].
void add_excess(const double* values, const double* threshold, int rows, int width, double* sums);

// sums[i] += max(next, row[i]) - max(0, row[i] - least): the correction of opening i for a token
// that at the same time loses an expert (see OpenSet::swap_gains).
void add_swap(const double* row, double next, double least, int width, double* sums);

// How many i have row[i] + penalty[i] > threshold.
int count_above(const double* row, const double* penalty, double threshold, int width);

// Indices t with column[t] >= threshold[t], rising, into `found` (room for count rounded up to
// kRowPad); returns how many. count: a multiple of kRowPad.
int find_at_least(const double* column, const double* threshold, int count, int32_t* found);

// Entries with row[i] > threshold, rising, into index and value (room for width); returns how many.
int compact_above(const double* row, double threshold, int width, int32_t* index, double* value);

}  // namespace thermoe
