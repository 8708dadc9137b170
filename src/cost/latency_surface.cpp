#include "cost/latency_surface.h"

#include <algorithm>
#include <cmath>

#include "cost/least_squares.h"

namespace thermoe::cost {
namespace {

// Pools adjacent violators: the nondecreasing sequence nearest in least squares.
std::vector<double> nondecreasing(const std::vector<double>& values) {
  struct Block {
    double sum;
    size_t count;
    double mean() const { return sum / static_cast<double>(count); }
  };
  std::vector<Block> blocks;
  for (double value : values) {
    blocks.push_back({value, 1});
    while (blocks.size() > 1 && blocks[blocks.size() - 2].mean() > blocks.back().mean()) {
      const Block last = blocks.back();
      blocks.pop_back();
      blocks.back().sum += last.sum;
      blocks.back().count += last.count;
    }
  }
  std::vector<double> out;
  for (const Block& block : blocks) out.insert(out.end(), block.count, block.mean());
  return out;
}

// Index i with knots[i] <= x <= knots[i + 1], clamped to the range.
size_t segment(const std::vector<double>& knots, double x) {
  const auto above = std::upper_bound(knots.begin(), knots.end(), x);
  const auto i = above - knots.begin();
  return static_cast<size_t>(
      std::clamp<std::ptrdiff_t>(i - 1, 0, static_cast<std::ptrdiff_t>(knots.size()) - 2));
}

double interpolate(const std::vector<double>& xs, const std::vector<double>& ys, double x) {
  const size_t i = segment(xs, x);
  const double weight = (x - xs[i]) / (xs[i + 1] - xs[i]);
  // The first form is exact at a knot of either end.
  return weight >= 1 ? ys[i + 1] : ys[i] + weight * (ys[i + 1] - ys[i]);
}

void sort_unique(std::vector<double>& knots) {
  std::sort(knots.begin(), knots.end());
  knots.erase(std::unique(knots.begin(), knots.end()), knots.end());
}

}  // namespace

LatencySurface::LatencySurface(const MeasuredShape& shape) {
  const MeasuredLoad& balanced = shape.loads.front();
  const std::vector<double> smooth = nondecreasing(balanced.latency_us);
  const double experts = shape.experts;
  few_distinct_ = {0.0};
  few_us_ = {0.0};
  for (size_t i = 0; i < smooth.size(); ++i) {
    const double distinct = balanced.distinct_experts[i];
    const double assignments = balanced.tokens[i] * shape.top_k;
    const bool first_full = distinct >= experts && full_us_.empty();
    if ((distinct < experts || first_full) && distinct > few_distinct_.back()) {
      few_distinct_.push_back(distinct);
      few_us_.push_back(smooth[i]);
    }
    if (distinct >= experts) {
      full_assignments_.push_back(assignments);
      full_us_.push_back(smooth[i]);
    }
    const bool measured = i + 1 < smooth.size() || !balanced.last_extrapolated;
    if (measured && std::abs(smooth[i] - balanced.latency_us[i]) <= 1e-9 * smooth[i])
      exact_.emplace_back(distinct, assignments);
  }
  std::vector<FitPoint> line;
  for (size_t i = 1; i < few_distinct_.size(); ++i)
    line.push_back({{1.0, few_distinct_[i], 0.0}, few_us_[i]});
  const auto fit = fit_nonnegative(line);
  overhead_us_ = fit[0];
  open_us_ = fit[1];
  few_us_[0] = std::min(overhead_us_, few_us_[1]);
  if (const size_t n = full_us_.size(); n > 1)
    last_slope_us_ =
        (full_us_[n - 1] - full_us_[n - 2]) / (full_assignments_[n - 1] - full_assignments_[n - 2]);
  tabulate(experts);

  double squares = 0;
  size_t points = 0;
  for (size_t l = 1; l < shape.loads.size(); ++l) {
    const MeasuredLoad& load = shape.loads[l];
    for (size_t i = 0; i < load.tokens.size(); ++i, ++points) {
      const double predicted =
          at(load.distinct_experts[i], load.tokens[i] * shape.top_k).latency_us;
      squares += std::pow(predicted / load.latency_us[i] - 1, 2);
    }
  }
  skewed_error_frac_ = points == 0 ? 0.0 : std::sqrt(squares / static_cast<double>(points));
}

double LatencySurface::few_tokens_us(double distinct) const {
  return interpolate(few_distinct_, few_us_, distinct);
}

double LatencySurface::full_us(double assignments) const {
  if (assignments <= full_assignments_.front()) return full_us_.front();
  if (assignments >= full_assignments_.back())
    return full_us_.back() + last_slope_us_ * (assignments - full_assignments_.back());
  return interpolate(full_assignments_, full_us_, assignments);
}

void LatencySurface::tabulate(double experts) {
  constexpr int kParts = 32;  // of the range of distinct experts, beside the measured ones
  distinct_knots_ = few_distinct_;
  for (int i = 1; i < kParts; ++i) distinct_knots_.push_back(experts * i / kParts);
  sort_unique(distinct_knots_);
  assignment_knots_ = few_distinct_;
  for (double a : full_assignments_) assignment_knots_.push_back(a);
  sort_unique(assignment_knots_);
  const size_t columns = assignment_knots_.size();
  table_.resize(distinct_knots_.size() * columns);
  for (size_t d = distinct_knots_.size(); d-- > 0;) {
    const double distinct = distinct_knots_[d];
    for (size_t a = 0; a < columns; ++a) {
      const double share = distinct / experts;
      const double load = distinct > 0 ? assignment_knots_[a] / share : 0.0;
      const double value = few_tokens_us(distinct) + share * (full_us(load) - full_us_.front());
      // The share's form may dip as experts open under heavy load; never above more experts' time.
      const bool last = d + 1 == distinct_knots_.size();
      table_[d * columns + a] = last ? value : std::min(value, node(d + 1, a));
    }
  }
}

double LatencySurface::along_assignments(size_t d, double assignments) const {
  const size_t last = assignment_knots_.size() - 1;
  if (assignments >= assignment_knots_[last])
    return node(d, last) + last_slope_us_ * (assignments - assignment_knots_[last]);
  const size_t a = segment(assignment_knots_, assignments);
  const double weight =
      (assignments - assignment_knots_[a]) / (assignment_knots_[a + 1] - assignment_knots_[a]);
  return node(d, a) + weight * (node(d, a + 1) - node(d, a));
}

bool LatencySurface::is_measured(double distinct, double assignments) const {
  return std::any_of(exact_.begin(), exact_.end(), [&](const auto& point) {
    return point.first == distinct && point.second == assignments;
  });
}

LatencySurface::Reading LatencySurface::at(double distinct, double assignments) const {
  Reading reading;
  const double load = std::max(assignments, distinct);
  const size_t d = segment(distinct_knots_, distinct);
  const double weight =
      (distinct - distinct_knots_[d]) / (distinct_knots_[d + 1] - distinct_knots_[d]);
  const double low = along_assignments(d, load);
  const double high = along_assignments(d + 1, load);
  reading.latency_us = weight >= 1 ? high : low + weight * (high - low);
  reading.measured = is_measured(distinct, assignments);
  const double experts = distinct_knots_.back();
  reading.extrapolated = load * experts > full_assignments_.back() * std::max(distinct, 1e-9);
  return reading;
}

}  // namespace thermoe::cost
