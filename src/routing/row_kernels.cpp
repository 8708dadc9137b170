#include "routing/row_kernels.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "routing/row_kernels.cpp"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace thermoe::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using Doubles = hn::CappedTag<double, kRowPad>;

int row_best(const double* row, const double* penalty, int width) {
  const Doubles d;
  const int lanes = static_cast<int>(hn::Lanes(d));
  auto best = hn::Add(hn::LoadU(d, row), hn::LoadU(d, penalty));
  for (int i = lanes; i < width; i += lanes)
    best = hn::Max(best, hn::Add(hn::LoadU(d, row + i), hn::LoadU(d, penalty + i)));
  best = hn::MaxOfLanes(d, best);
  for (int i = 0; i < width; i += lanes) {
    const auto equal = hn::Eq(hn::Add(hn::LoadU(d, row + i), hn::LoadU(d, penalty + i)), best);
    const intptr_t lane = hn::FindFirstTrue(d, equal);
    if (lane >= 0) return i + static_cast<int>(lane);
  }
  return 0;  // not reached: one lane holds the maximum
}

void add_excess(const double* values, const double* threshold, int rows, int width, double* sums) {
  const Doubles d;
  const int lanes = static_cast<int>(hn::Lanes(d));
  const auto zero = hn::Zero(d);
  int i = 0;
  // Four vectors of sums stay in registers while the tokens pass by.
  for (; i + 4 * lanes <= width; i += 4 * lanes) {
    auto sum0 = hn::LoadU(d, sums + i), sum1 = hn::LoadU(d, sums + i + lanes);
    auto sum2 = hn::LoadU(d, sums + i + 2 * lanes), sum3 = hn::LoadU(d, sums + i + 3 * lanes);
    const double* from = values + i;
    for (int t = 0; t < rows; ++t, from += width) {
      const auto at = hn::Set(d, threshold[t]);
      sum0 = hn::Add(sum0, hn::Max(zero, hn::Sub(hn::LoadU(d, from), at)));
      sum1 = hn::Add(sum1, hn::Max(zero, hn::Sub(hn::LoadU(d, from + lanes), at)));
      sum2 = hn::Add(sum2, hn::Max(zero, hn::Sub(hn::LoadU(d, from + 2 * lanes), at)));
      sum3 = hn::Add(sum3, hn::Max(zero, hn::Sub(hn::LoadU(d, from + 3 * lanes), at)));
    }
    hn::StoreU(sum0, d, sums + i);
    hn::StoreU(sum1, d, sums + i + lanes);
    hn::StoreU(sum2, d, sums + i + 2 * lanes);
    hn::StoreU(sum3, d, sums + i + 3 * lanes);
  }
  for (; i < width; i += lanes) {
    auto sum = hn::LoadU(d, sums + i);
    const double* from = values + i;
    for (int t = 0; t < rows; ++t, from += width)
      sum = hn::Add(sum, hn::Max(zero, hn::Sub(hn::LoadU(d, from), hn::Set(d, threshold[t]))));
    hn::StoreU(sum, d, sums + i);
  }
}

void add_swap(const double* row, double next, double least, int width, double* sums) {
  const Doubles d;
  const int lanes = static_cast<int>(hn::Lanes(d));
  const auto zero = hn::Zero(d), from = hn::Set(d, next), at = hn::Set(d, least);
  for (int i = 0; i < width; i += lanes) {
    const auto value = hn::LoadU(d, row + i);
    const auto change = hn::Sub(hn::Max(from, value), hn::Max(zero, hn::Sub(value, at)));
    hn::StoreU(hn::Add(hn::LoadU(d, sums + i), change), d, sums + i);
  }
}

int count_above(const double* row, const double* penalty, double threshold, int width) {
  const Doubles d;
  const int lanes = static_cast<int>(hn::Lanes(d));
  const auto at = hn::Set(d, threshold), one = hn::Set(d, 1.0);
  auto count = hn::Zero(d);
  for (int i = 0; i < width; i += lanes) {
    const auto value = hn::Add(hn::LoadU(d, row + i), hn::LoadU(d, penalty + i));
    count = hn::Add(count, hn::IfThenElseZero(hn::Gt(value, at), one));
  }
  return static_cast<int>(hn::GetLane(hn::SumOfLanes(d, count)));
}

int find_at_least(const double* column, const double* threshold, int count, int32_t* found) {
  const Doubles d;
  const int lanes = static_cast<int>(hn::Lanes(d));
  int next = 0;
  for (int t = 0; t < count; t += lanes) {
    const auto hit = hn::Ge(hn::LoadU(d, column + t), hn::LoadU(d, threshold + t));
    if (hn::AllFalse(d, hit)) continue;
    for (int lane = t; lane < t + lanes; ++lane) {
      found[next] = lane;
      next += column[lane] >= threshold[lane];
    }
  }
  return next;
}

int compact_above(const double* row, double threshold, int width, int32_t* index, double* value) {
  const Doubles d;
  const int lanes = static_cast<int>(hn::Lanes(d));
  const auto at = hn::Set(d, threshold);
  int next = 0;
  for (int i = 0; i < width; i += lanes) {
    if (hn::AllFalse(d, hn::Gt(hn::LoadU(d, row + i), at))) continue;
    for (int lane = i; lane < i + lanes; ++lane) {
      index[next] = lane;
      value[next] = row[lane];
      next += row[lane] > threshold;
    }
  }
  return next;
}

}  // namespace thermoe::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace thermoe {
HWY_EXPORT(row_best);
HWY_EXPORT(add_excess);
HWY_EXPORT(add_swap);
HWY_EXPORT(count_above);
HWY_EXPORT(find_at_least);
HWY_EXPORT(compact_above);

int row_best(const double* row, const double* penalty, int width) {
  return HWY_DYNAMIC_DISPATCH(row_best)(row, penalty, width);
}
void add_excess(const double* values, const double* threshold, int rows, int width, double* sums) {
  HWY_DYNAMIC_DISPATCH(add_excess)(values, threshold, rows, width, sums);
}
void add_swap(const double* row, double next, double least, int width, double* sums) {
  HWY_DYNAMIC_DISPATCH(add_swap)(row, next, least, width, sums);
}
int count_above(const double* row, const double* penalty, double threshold, int width) {
  return HWY_DYNAMIC_DISPATCH(count_above)(row, penalty, threshold, width);
}
int find_at_least(const double* column, const double* threshold, int count, int32_t* found) {
  return HWY_DYNAMIC_DISPATCH(find_at_least)(column, threshold, count, found);
}
int compact_above(const double* row, double threshold, int width, int32_t* index, double* value) {
  return HWY_DYNAMIC_DISPATCH(compact_above)(row, threshold, width, index, value);
}
}  // namespace thermoe
#endif
