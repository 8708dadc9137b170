// The request's prices on the grid, and what a choice costs at them.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "routing/program.h"
#include "thermoe/routing_policy.h"

namespace thermoe {

// cost = sum_i (open[i] used_i + slope[i] load_i)
//      + max_g (base[g] + sum_{i on g} (device_open[i] used_i + device_slope[i] load_i))
struct Costs {
  int devices = 1;
  std::vector<double> open, slope, device_open, device_slope;  // [I]
  std::vector<double> base;                                    // [devices]
  std::vector<int32_t> device;                                 // [I]
  std::vector<int32_t> capacity;                               // [I], INT32_MAX: no limit
  bool limited = false;                                        // some capacity is set

  // `prices` null: zero, or for every instance `open_price`, times its variant's read_frac, and
  // `slope_price`.
  void read(const RoutingRequest& request, int instances, float open_price, float slope_price);
  bool zero() const;          // no price that a plan could change
  double least_base() const;  // the largest base: what any plan costs at least
  // True where the cost is a sum: one device, or nothing but bases.
  bool additive() const;
};

// Loads, uses and costs of a choice, kept up to date while tokens move.
class CostTally {
 public:
  void reset(const Costs& costs, int instances);
  void add(const Costs& costs, int32_t instance, int count);  // count tokens more (or fewer)

  int load(int32_t i) const { return load_[i]; }
  double cost() const;  // sum and the slowest device
  double device_cost(int g) const { return device_[g]; }
  int64_t excess_load() const { return excess_; }  // tokens beyond capacities, all instances
  int worst_excess(const Costs& costs) const;      // of the worst instance

 private:
  double sum_ = 0;
  int64_t excess_ = 0;
  std::vector<double> device_;  // [devices]
  std::vector<int32_t> load_;   // [I]
};

}  // namespace thermoe
