#include "experts/quantized_tasks.h"

#include <algorithm>

#include "experts/row_tasks.h"
#include "kernels/cpu/nested.h"
#include "kernels/cpu/nested_pack.h"

namespace thermoe {
namespace {

// Weights of one task: long enough that handing it out is nothing, short enough that threads end
// together.
constexpr int64_t kQuantizedPanelBytes = 256 * 1024;
constexpr int64_t kLeastQuantizedTasks = 16;  // with fewer tiles, experts are cut as well
constexpr int64_t kBlock = NestedView::kBlock;

// How many row blocks of a matrix a task takes, a multiple of `whole`. No bit depends on it.
int64_t panel_blocks(const NestedView& w, int64_t whole, size_t tiles) {
  const int64_t count = static_cast<int64_t>(tiles);
  const int64_t bytes = static_cast<int64_t>(w.bytes(Planes::kBoth));
  const int64_t panels = std::max((kLeastQuantizedTasks + count - 1) / count,
                                  (bytes + kQuantizedPanelBytes - 1) / kQuantizedPanelBytes);
  const int64_t each = (w.row_blocks() + panels - 1) / panels;
  return (each + whole - 1) / whole * whole;
}

// Quantised rows in a buffer that grows; aligned as the kernels want them.
cpu::MutableQuantizedRows quantized_rows(std::vector<std::byte>& buffer, int64_t rows,
                                         int64_t cols) {
  constexpr size_t kAlignment = 64;
  const size_t bytes = static_cast<size_t>(rows * cpu::quantized_row_bytes(cols)) + kAlignment;
  if (buffer.size() < bytes) buffer.resize(bytes);
  const size_t over = reinterpret_cast<uintptr_t>(buffer.data()) % kAlignment;
  return {buffer.data() + (kAlignment - over) % kAlignment, cols, rows};
}

struct QuantizedRunner {
  cpu::QuantizedRows input;
  const int32_t* tokens;
  cpu::MutableQuantizedRows inner;
  Matrix outputs;
  std::vector<std::vector<float>>& activated;

  // Row blocks [first, first + blocks) of gate_up: whole groups of the inner values, or the last.
  void activate(const QuantizedTile& tile, int64_t first, int64_t blocks, int worker) const {
    const int64_t unit = first * cpu::kUnitsPerBlock, units = blocks * cpu::kUnitsPerBlock;
    std::vector<float>& scratch = activated[static_cast<size_t>(worker)];
    if (scratch.size() < static_cast<size_t>(tile.count * units))
      scratch.resize(static_cast<size_t>(tile.count * units));
    cpu::QuantizedRows rows = input;
    rows.ids = tokens + tile.first;
    rows.count = tile.count;
    // The kernel writes unit u at y[u]: step back to the panel's first.
    cpu::nested_swiglu(rows, tile.expert->gate_up(), tile.planes, first, blocks,
                       scratch.data() - unit, units);
    const int64_t cols = std::min(units, tile.expert->inter_size() - unit);
    cpu::quantize_rows(ConstMatrix(scratch.data(), tile.count, cols, units), unit,
                       {inner.row(tile.first), inner.cols, tile.count});
  }

  void project(const QuantizedTile& tile, int64_t first, int64_t blocks, int /*worker*/) const {
    cpu::nested_multiply({inner.row(tile.first), inner.cols, tile.count}, tile.expert->down(),
                         tile.planes, first, blocks, outputs.row(tile.first), outputs.stride);
  }
};

}  // namespace

void run_quantized_tiles(std::span<const QuantizedTile> tiles, ConstMatrix x, const int32_t* tokens,
                         Matrix outputs, QuantizedWorkspace& workspace, ThreadPool& pool) {
  if (tiles.empty()) return;
  const QuantizedExpert& any = *tiles.front().expert;
  const auto input = quantized_rows(workspace.input, x.rows, x.cols);
  const auto inner = quantized_rows(workspace.inner, outputs.rows, any.inter_size());
  workspace.activated.resize(static_cast<size_t>(pool.size()));
  // Rounding a value takes about as long as 16 multiply-adds.
  for_rows(pool, x.rows, 16 * x.cols, [&](int64_t first, int64_t count, int) {
    cpu::quantize_rows(x.rows_from(first, count), 0, {input.row(first), x.cols, count});
  });
  const QuantizedRunner runner{
      {input.data, x.cols, x.rows}, tokens, inner, outputs, workspace.activated};
  // A group of inner values is the units of two row blocks.
  const int64_t up_blocks = any.gate_up().row_blocks(), down_blocks = any.down().row_blocks();
  const int64_t up_panel = panel_blocks(any.gate_up(), kBlock / cpu::kUnitsPerBlock, tiles.size());
  const int64_t down_panel = panel_blocks(any.down(), 1, tiles.size());
  if (up_panel >= up_blocks && down_panel >= down_blocks) {  // small experts: one region
    pool.run(static_cast<int>(tiles.size()), [&](int task, int worker) {
      const QuantizedTile& tile = tiles[static_cast<size_t>(task)];
      runner.activate(tile, 0, up_blocks, worker);
      runner.project(tile, 0, down_blocks, worker);
    });
    return;
  }
  // down needs all of a row's inner values: two regions.
  const auto panels = [&](int64_t blocks, int64_t panel, auto&& body) {
    const int64_t count = (blocks + panel - 1) / panel;
    pool.run(static_cast<int>(static_cast<int64_t>(tiles.size()) * count),
             [&](int task, int worker) {
               const int64_t first = task % count * panel;
               body(tiles[static_cast<size_t>(task / count)], first,
                    std::min(panel, blocks - first), worker);
             });
  };
  panels(up_blocks, up_panel, [&](auto&&... args) { runner.activate(args...); });
  panels(down_blocks, down_panel, [&](auto&&... args) { runner.project(args...); });
}

}  // namespace thermoe
