#include "model/dense_products.h"

#include <algorithm>

#include "kernels/cpu/multiply.h"

namespace thermoe {
namespace {

// Weights of one task of a product: few rows stream them (16 rows take about 4 us of a core), many
// rows want a panel that fills the L2 cache once widened, as sgemm packs the rows anew per panel.
constexpr int64_t kFewRowsTask = 16 * 1024;
constexpr int64_t kManyRowsTask = 64 * 1024;
constexpr int64_t kGemmTileRows = 256;

}  // namespace

// Cut by outputs, and by rows where those go to sgemm. The thread count has no part in it: sgemm's
// bits depend on where a product is cut.
void multiply(const cpu::PackedRows& rows, std::span<const DenseProduct> products,
              std::span<std::vector<float>> worker_scratch, ThreadPool& pool) {
  const bool few = rows.count < cpu::kGemmRows;
  const int64_t cols = products.front().weight->cols;
  const int64_t wanted = (few ? kFewRowsTask : kManyRowsTask) / cols;
  const int64_t panel = std::max<int64_t>(32, wanted / 32 * 32);
  const int64_t parts = few ? 1 : (rows.count + kGemmTileRows - 1) / kGemmTileRows;
  const auto panels = [&](const DenseProduct& product) {
    return (product.weight->rows + panel - 1) / panel;
  };
  int64_t tasks = 0;
  for (const DenseProduct& product : products) tasks += panels(product);
  const size_t floats = cpu::multiply_scratch_floats(few ? rows.count : kGemmTileRows, cols, false);
  pool.run(static_cast<int>(tasks * parts), [&](int task, int worker) {
    int64_t which = task / parts;
    const DenseProduct* product = products.data();
    for (; which >= panels(*product); ++product) which -= panels(*product);
    const int64_t part = task % parts, begin = rows.count * part / parts;
    const int64_t count = rows.count * (part + 1) / parts - begin;
    const int64_t first = which * panel;
    std::vector<float>& scratch = worker_scratch[static_cast<size_t>(worker)];
    if (scratch.size() < floats) scratch.resize(floats);
    cpu::multiply(rows.slice(begin, count), *product->weight, first,
                  std::min(panel, product->weight->rows - first), product->out.row(begin),
                  product->out.stride, product->accumulate, scratch.data());
  });
}

}  // namespace thermoe
