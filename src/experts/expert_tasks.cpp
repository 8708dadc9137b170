#include "experts/expert_tasks.h"

#include <algorithm>
#include <cstddef>
#include <memory>

#include "kernels/cpu/multiply.h"

namespace thermoe {
namespace {

constexpr int64_t kTileRows = 128;            // more rows of one expert are shared between threads
constexpr int64_t kPanelBytes = 1024 * 1024;  // of weights per task: larger experts are cut

constexpr int64_t kLeastTasks = 16;  // with fewer tiles, experts are cut as well

// Outputs per task so that there are kLeastTasks at least and none streams more than kPanelBytes.
// The thread count has no part in it: sgemm's bits depend on where a product is cut.
int64_t panel_outputs(int64_t outputs, int64_t bytes, size_t tiles) {
  const int64_t count = static_cast<int64_t>(tiles);
  const int64_t panels =
      std::max((kLeastTasks + count - 1) / count, (bytes + kPanelBytes - 1) / kPanelBytes);
  const int64_t each = (outputs + panels - 1) / panels;
  // Whole blocks of packed columns, two at least.
  return std::max<int64_t>(2, (each + cpu::kPackedBlock - 1) / cpu::kPackedBlock) *
         cpu::kPackedBlock;
}

Planes planes_of(Precision precision) {
  return precision == Precision::kInt4 ? Planes::kHi : Planes::kBoth;
}

struct StoredRunner {
  std::span<const ExpertWeights> experts;
  const ExpertBuffers& buffers;

  // Columns [first, first + count) of silu(gate x) * (up x) of a tile.
  void activate(const ExpertTile& tile, int64_t first, int64_t count, float* scratch) const {
    const SimpleExpert& expert = stored(tile);
    const cpu::PackedRows rows{buffers.input.data, buffers.input.stride, tile.count,
                               buffers.tokens + tile.first};
    float* gated = scratch;
    float* upped = gated + tile.count * count;
    float* rest = upped + tile.count * count;
    // The kernels write column j of the weight at y[j]: step back to the panel's first.
    cpu::multiply(rows, expert.gate(), first, count, gated - first, count, false, rest);
    cpu::multiply(rows, expert.up(), first, count, upped - first, count, false, rest);
    cpu::pack_swiglu(expert.dtype(), ConstMatrix(gated, tile.count, count),
                     ConstMatrix(upped, tile.count, count),
                     Matrix(buffers.inner.row(tile.first) + first, tile.count,
                            cpu::padded_cols(count), buffers.inner.stride));
  }

  void project(const ExpertTile& tile, int64_t first, int64_t count, float* scratch) const {
    const SimpleExpert& expert = stored(tile);
    cpu::multiply({buffers.inner.row(tile.first), buffers.inner.stride, tile.count}, expert.down(),
                  first, count, buffers.outputs.row(tile.first), buffers.outputs.stride, false,
                  scratch);
  }

  const SimpleExpert& stored(const ExpertTile& tile) const {
    return *experts[static_cast<size_t>(tile.target.expert)].stored;
  }
};

size_t worker_floats(const SimpleExpert& expert, std::span<const ExpertTile> tiles) {
  int64_t rows = 0;
  for (const ExpertTile& tile : tiles) rows = std::max(rows, tile.count);
  return static_cast<size_t>(2 * rows * expert.inter_size()) +
         std::max(cpu::multiply_scratch_floats(rows, expert.hidden_size(), true),
                  cpu::multiply_scratch_floats(rows, expert.inter_size(), false));
}

bool is_stored(const ExpertTile& tile) { return tile.target.precision == Precision::kStored; }

void run_stored(const StoredRunner& runner, std::span<const ExpertTile> tiles, ThreadPool& pool) {
  if (tiles.empty()) return;
  const ExpertBuffers& buffers = runner.buffers;
  const SimpleExpert& any = runner.stored(tiles.front());
  const int64_t inter = any.inter_size(), hidden = any.hidden_size();
  const int64_t matrix_bytes = static_cast<int64_t>(any.gate().bytes());
  for (auto& scratch : buffers.worker_scratch) {
    const size_t floats = worker_floats(any, tiles);
    if (scratch.size() < floats) scratch.resize(floats);
  }
  const auto scratch_of = [&](int worker) {
    return buffers.worker_scratch[static_cast<size_t>(worker)].data();
  };
  const int64_t inner_panel = panel_outputs(inter, 2 * matrix_bytes, tiles.size());
  const int64_t outer_panel = panel_outputs(hidden, matrix_bytes, tiles.size());
  if (inner_panel >= inter && outer_panel >= hidden) {  // small experts, many tiles: one region
    pool.run(static_cast<int>(tiles.size()), [&](int task, int worker) {
      const ExpertTile& tile = tiles[static_cast<size_t>(task)];
      runner.activate(tile, 0, inter, scratch_of(worker));
      runner.project(tile, 0, hidden, scratch_of(worker));
    });
    return;
  }
  // down needs all of a row's intermediate values: two regions.
  const auto panels = [&](int64_t outputs, int64_t panel, auto&& body) {
    const int64_t count = (outputs + panel - 1) / panel;
    pool.run(static_cast<int>(static_cast<int64_t>(tiles.size()) * count),
             [&](int task, int worker) {
               const int64_t first = task % count * panel;
               body(tiles[static_cast<size_t>(task / count)], first,
                    std::min(panel, outputs - first), scratch_of(worker));
             });
  };
  panels(inter, inner_panel, [&](auto&&... args) { runner.activate(args...); });
  panels(hidden, outer_panel, [&](auto&&... args) { runner.project(args...); });
}

}  // namespace

void make_tiles(const RoutingPlan& plan, std::span<const ExpertTarget> targets,
                std::vector<ExpertTile>& tiles) {
  tiles.clear();
  for (size_t i = 0; i < targets.size(); ++i) {
    const int64_t load = plan.load(static_cast<int>(i));
    const int64_t parts = (load + kTileRows - 1) / kTileRows;
    for (int64_t part = 0; part < parts; ++part) {
      const int64_t begin = load * part / parts, end = load * (part + 1) / parts;
      tiles.push_back({targets[i], plan.offsets[i] + begin, end - begin});
    }
  }
  std::stable_partition(tiles.begin(), tiles.end(), is_stored);
}

void run_expert(const ExpertWeights& expert, Precision precision, ConstMatrix x, Matrix out,
                std::vector<float>& scratch) {
  if (precision != Precision::kStored) {
    constexpr size_t kAlignment = 64;
    const size_t bytes = expert.quantized->scratch_bytes(x.rows);
    const size_t floats = (bytes + kAlignment) / sizeof(float) + 1;
    if (scratch.size() < floats) scratch.resize(floats);
    void* at = scratch.data();
    size_t room = scratch.size() * sizeof(float);
    return expert.quantized->run(x, planes_of(precision), out,
                                 static_cast<std::byte*>(std::align(kAlignment, bytes, at, room)));
  }
  const size_t floats = expert.stored->scratch_floats(x.rows);
  if (scratch.size() < floats) scratch.resize(floats);
  expert.stored->run(x, out, scratch.data());
}

void run_tiles(std::span<const ExpertWeights> experts, std::span<const ExpertTile> tiles,
               const ExpertBuffers& buffers, ThreadPool& pool) {
  const StoredRunner runner{experts, buffers};
  const auto stored_end = std::find_if_not(tiles.begin(), tiles.end(), is_stored);
  const auto stored = static_cast<size_t>(stored_end - tiles.begin());
  run_stored(runner, tiles.first(stored), pool);
  if (stored == tiles.size()) return;  // then there may be no buffers for quantised ones
  std::vector<QuantizedTile> quantized;
  quantized.reserve(tiles.size() - stored);
  for (const ExpertTile& tile : tiles.subspan(stored))
    quantized.push_back({&*experts[static_cast<size_t>(tile.target.expert)].quantized,
                         planes_of(tile.target.precision), tile.first, tile.count});
  run_quantized_tiles(quantized, buffers.rows, buffers.tokens, buffers.outputs, *buffers.quantized,
                      pool);
}

}  // namespace thermoe
