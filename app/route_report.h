// What `thermoe route` says of its plans: a table for people, JSON for programs, arrays for NumPy.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "route_input.h"
#include "thermoe/routing_plan.h"

namespace thermoe::app {

// One batch's plan and how long each measured solve of it took.
struct RoutedBatch {
  RoutingPlan plan;
  std::vector<double> solve_us;
};

// How a quantity is spread over batches. Percentiles by nearest rank.
struct Spread {
  double mean = 0, median = 0, p90 = 0, p99 = 0, largest = 0;
  static Spread of(std::vector<double> values);  // at least one
};

// Batch by batch where there are few, else how each quantity is spread over them.
std::string to_table(const std::vector<RoutedBatch>& routed);

// "batches": a report, the median solve time and (with `plans`) the plan of each; "summary": the
// spread of each quantity over batches.
nlohmann::ordered_json to_json(const std::vector<RoutedBatch>& routed, bool plans);

// Writes PREFIX.ids.npy and PREFIX.instances.npy (int32, unused slots -1) and PREFIX.weights.npy
// (float32), each [N, T, k], or [T, k] where the scores were [T, E]. Throws IoError.
void write_arrays(const std::string& prefix, const std::vector<RoutedBatch>& routed, bool stacked);

}  // namespace thermoe::app
