// Row-wise work of a batch on the thread pool, and the batch's partition into groups.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>

#include "thermoe/moe_layer.h"
#include "thermoe/thread_pool.h"

namespace thermoe {

// Work below this many multiply-adds (about 4 us of one core) isn't worth a second thread.
constexpr int64_t kTaskProducts = 256 * 1024;

// Calls body(first, count, worker) for ranges of rows that cover [0, rows), on the calling thread
// alone where there is little to do. products_per_row: multiply-adds, or about as long as those
// take.
template <typename Body>
void for_rows(ThreadPool& pool, int64_t rows, int64_t products_per_row, Body&& body) {
  const int64_t grain = rows * products_per_row <= kTaskProducts
                            ? std::max<int64_t>(rows, 1)
                            : std::clamp<int64_t>(rows / (2 * pool.size()), 4, 32);
  pool.run(static_cast<int>((rows + grain - 1) / grain), [&](int task, int worker) {
    body(task * grain, std::min(grain, rows - task * grain), worker);
  });
}

// Throws InvalidArgument unless `groups` partition `rows` rows in order, none of them empty.
void check_partition(std::span<const RowGroup> groups, int64_t rows);

}  // namespace thermoe
