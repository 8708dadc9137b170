// What the experts of one layer do: loads, output norms, and the likeness of their outputs.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "thermoe/expert_calibration.h"
#include "thermoe/moe_layer.h"
#include "thermoe/thread_pool.h"

namespace thermoe {

// Buffers of ExpertStatistics; layers that are measured one after the other may share one.
struct StatisticsWorkspace {
  std::vector<float> inputs;  // [rows, hidden]
  std::vector<float>
      outputs;               // [rows, E, padded hidden]: every expert on every row, as unit vectors
  std::vector<float> grams;  // [rows, E, E]
  std::vector<double> norms;  // [rows, E], or one per pair
  std::vector<std::vector<float>> worker_scratch;
};

// Sums over the passes of one layer. Sums run in the order of the rows, so the thread count has no
// part in them.
class ExpertStatistics {
 public:
  explicit ExpertStatistics(int experts);

  // Counts loads and norms of a pass's pairs, and runs every expert on the rows listed in
  // `sampled`. Moves 4 * hidden bytes a pair; a sampled row costs E experts and E^2 * hidden
  // multiply-adds.
  void add(const LayerPass& pass, std::span<const int32_t> sampled, ThreadPool& pool,
           StatisticsWorkspace& workspace);

  LayerCalibration result() const;

 private:
  void add_pairs(const LayerPass& pass, ThreadPool& pool, StatisticsWorkspace& workspace);
  // Every expert on `rows` (at most block_rows()).
  void add_rows(const LayerPass& pass, std::span<const int32_t> rows, ThreadPool& pool,
                StatisticsWorkspace& workspace);
  // The Gram matrices of `count` rows' outputs in the workspace, whose stride is `padded`.
  void add_cosines(int64_t count, int64_t padded, ThreadPool& pool, StatisticsWorkspace& workspace);
  int64_t block_rows(int64_t hidden) const;

  size_t experts_;
  std::vector<int64_t> loads_;                   // [E]
  std::vector<double> norms_, squares_;          // [E] of the outputs where chosen
  std::vector<double> all_norms_, all_squares_;  // [E] on the sampled rows
  std::vector<double> cosines_;                  // [E, E]
  int64_t rows_ = 0;                             // sampled so far
};

}  // namespace thermoe
