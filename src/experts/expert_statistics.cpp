#include "experts/expert_statistics.h"

#include <algorithm>
#include <cmath>

#include "experts/expert_tasks.h"
#include "experts/moe_workspace.h"
#include "experts/row_tasks.h"
#include "kernels/cpu/multiply.h"

namespace thermoe {
namespace {

double norm_of(std::span<const float> row) {
  // Four sums in a fixed order: one would wait for each addition in turn.
  double sums[4] = {};
  size_t i = 0;
  for (; i + 4 <= row.size(); i += 4)
    for (size_t lane = 0; lane < 4; ++lane)
      sums[lane] += static_cast<double>(row[i + lane]) * row[i + lane];
  for (; i < row.size(); ++i) sums[0] += static_cast<double>(row[i]) * row[i];
  return std::sqrt(sums[0] + sums[1] + sums[2] + sums[3]);
}

}  // namespace

ExpertStatistics::ExpertStatistics(int experts)
    : experts_(static_cast<size_t>(experts)),
      loads_(experts_),
      norms_(experts_),
      squares_(experts_),
      all_norms_(experts_),
      all_squares_(experts_),
      cosines_(experts_ * experts_) {}

// As many rows as keep the outputs at about 32 MB, and the Gram matrices with them.
int64_t ExpertStatistics::block_rows(int64_t hidden) const {
  constexpr int64_t kFloats = 8 * 1024 * 1024;
  const int64_t experts = static_cast<int64_t>(experts_);
  return std::clamp<int64_t>(kFloats / (experts * std::max(hidden, experts)), 1, 64);
}

void ExpertStatistics::add(const LayerPass& pass, std::span<const int32_t> sampled,
                           ThreadPool& pool, StatisticsWorkspace& workspace) {
  workspace.worker_scratch.resize(static_cast<size_t>(pool.size()));
  add_pairs(pass, pool, workspace);
  const size_t block = static_cast<size_t>(block_rows(pass.x.cols));
  for (size_t first = 0; first < sampled.size(); first += block)
    add_rows(pass, sampled.subspan(first, std::min(block, sampled.size() - first)), pool,
             workspace);
}

void ExpertStatistics::add_pairs(const LayerPass& pass, ThreadPool& pool,
                                 StatisticsWorkspace& workspace) {
  const int64_t pairs = pass.outputs.rows;
  std::vector<double>& norms = workspace.norms;
  norms.resize(static_cast<size_t>(pairs));
  for_rows(pool, pairs, pass.x.cols, [&](int64_t first, int64_t count, int) {
    for (int64_t p = first; p < first + count; ++p)
      norms[static_cast<size_t>(p)] = norm_of(pass.outputs.row_span(p));
  });
  for (size_t p = 0; p < norms.size(); ++p) {
    const size_t e = static_cast<size_t>(pass.plan.ids[static_cast<size_t>(pass.plan.packed[p])]);
    ++loads_[e];
    norms_[e] += norms[p];
    squares_[e] += norms[p] * norms[p];
  }
}

void ExpertStatistics::add_rows(const LayerPass& pass, std::span<const int32_t> rows,
                                ThreadPool& pool, StatisticsWorkspace& workspace) {
  const int64_t hidden = pass.x.cols, padded = cpu::padded_cols(hidden);
  const int64_t count = static_cast<int64_t>(rows.size());
  const int64_t experts = static_cast<int64_t>(experts_);
  float* inputs = at_least(workspace.inputs, static_cast<size_t>(count * hidden));
  for (int64_t r = 0; r < count; ++r)
    std::copy_n(pass.x.row(rows[static_cast<size_t>(r)]), hidden, inputs + r * hidden);
  // A row's outputs are a stored matrix of their own; its columns beyond `hidden` stay zero.
  workspace.outputs.assign(static_cast<size_t>(count * experts * padded), 0.0f);
  workspace.norms.resize(static_cast<size_t>(count * experts));
  pool.run(static_cast<int>(experts), [&](int e, int worker) {
    float* own = workspace.outputs.data() + e * padded;
    const ExpertWeights& expert = pass.layer.expert(e);
    run_expert(expert, expert.finest(), ConstMatrix(inputs, count, hidden),
               Matrix(own, count, hidden, experts * padded),
               workspace.worker_scratch[static_cast<size_t>(worker)]);
    for (int64_t r = 0; r < count; ++r) {
      const std::span<float> output(own + r * experts * padded, static_cast<size_t>(hidden));
      const double norm = norm_of(output);
      workspace.norms[static_cast<size_t>(r * experts + e)] = norm;
      if (norm > 0)
        for (float& value : output) value = static_cast<float>(value / norm);
    }
  });
  add_cosines(count, padded, pool, workspace);
  rows_ += count;
}

// f32 rows are packed as they stand, so a matrix times itself needs no copy.
void ExpertStatistics::add_cosines(int64_t count, int64_t padded, ThreadPool& pool,
                                   StatisticsWorkspace& workspace) {
  const int64_t experts = static_cast<int64_t>(experts_), square = experts * experts;
  float* grams = at_least(workspace.grams, static_cast<size_t>(count * square));
  const size_t floats = cpu::multiply_scratch_floats(experts, padded, false);
  pool.run(static_cast<int>(count), [&](int r, int worker) {
    const float* matrix = workspace.outputs.data() + r * experts * padded;
    cpu::multiply({matrix, padded, experts}, {matrix, DType::kF32, experts, padded}, 0, experts,
                  grams + r * square, experts, false,
                  at_least(workspace.worker_scratch[static_cast<size_t>(worker)], floats));
  });
  pool.run(static_cast<int>(experts), [&](int task, int) {
    const size_t e = static_cast<size_t>(task);
    for (int64_t r = 0; r < count; ++r) {
      const float* row = grams + r * square + task * experts;
      for (size_t other = 0; other < experts_; ++other)
        cosines_[e * experts_ + other] += row[other];
      const double norm = workspace.norms[static_cast<size_t>(r) * experts_ + e];
      all_norms_[e] += norm;
      all_squares_[e] += norm * norm;
    }
  });
}

LayerCalibration ExpertStatistics::result() const {
  LayerCalibration layer;
  double pairs = 0;
  for (const int64_t load : loads_) pairs += static_cast<double>(load);
  const double rows = static_cast<double>(rows_);
  for (size_t e = 0; e < experts_; ++e) {
    const double load = static_cast<double>(loads_[e]);
    const bool chosen = loads_[e] > 0;
    layer.load_frac.push_back(static_cast<float>(load / pairs));
    layer.output_norm.push_back(
        static_cast<float>(chosen ? norms_[e] / load : all_norms_[e] / rows));
    layer.output_square.push_back(
        static_cast<float>(chosen ? squares_[e] / load : all_squares_[e] / rows));
    for (size_t other = 0; other < experts_; ++other) {
      const double both = cosines_[e * experts_ + other] + cosines_[other * experts_ + e];
      layer.similarity.push_back(
          e == other ? 1.0f : static_cast<float>(std::clamp(both / (2 * rows), -1.0, 1.0)));
    }
  }
  return layer;
}

}  // namespace thermoe
