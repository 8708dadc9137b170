// Dense products of packed rows with stored weights, on the thread pool.
#pragma once

#include <span>
#include <vector>

#include "kernels/cpu/rows.h"
#include "thermoe/thread_pool.h"
#include "thermoe/views.h"

namespace thermoe {

struct DenseProduct {
  const WeightView* weight;  // [N, K]
  Matrix out;                // [rows, N], overwritten or added to
  bool accumulate;
};

// out = rows W^T of every product, all in one region; their weights have the same columns and the
// dtype that the rows are packed for. worker_scratch: one per thread of the pool, grown as needed.
// A result's bits don't depend on the number of threads.
void multiply(const cpu::PackedRows& rows, std::span<const DenseProduct> products,
              std::span<std::vector<float>> worker_scratch, ThreadPool& pool);

}  // namespace thermoe
