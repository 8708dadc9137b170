#include "cpu_work.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <chrono>
#include <numeric>
#include <random>

#include "cost/moe_load.h"
#include "kernels/cpu/rows.h"
#include "thermoe/error.h"

namespace thermoe::app {
namespace {

using Clock = std::chrono::steady_clock;

constexpr float kWeightDeviation = 0.02f;  // initializer_range of the published configurations

double microseconds_since(Clock::time_point start) {
  return std::chrono::duration<double, std::micro>(Clock::now() - start).count();
}

std::vector<float> random_floats(int64_t count, float deviation) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal(0.0f, deviation);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = normal(random);
  return values;
}

std::vector<uint16_t> random_weights(int64_t count) {
  std::vector<uint16_t> stored;
  stored.reserve(static_cast<size_t>(count));
  for (const float value : random_floats(count, kWeightDeviation))
    stored.push_back(static_cast<uint16_t>(std::bit_cast<uint32_t>(value) >> 16));
  return stored;
}

// Hands out the same plan whatever the scores.
class FixedPlan : public RoutingPolicy {
 public:
  const char* name() const override { return "fixed"; }
  void route(const RoutingRequest&, RoutingPlan& plan) override { plan = plan_; }
  void set(RoutingPlan plan) { plan_ = std::move(plan); }

 private:
  RoutingPlan plan_;
};

// Notes when the plan is made and the experts' work begins.
class StartClock : public PlanObserver {
 public:
  void on_plan(int, const RoutingPlan&) override { start_ = Clock::now(); }
  double us() const { return microseconds_since(start_); }

 private:
  Clock::time_point start_;
};

class ExpertsWork : public CpuWork {
 public:
  explicit ExpertsWork(const cost::KernelShape& shape)
      : shape_(shape),
        weights_(random_weights((3 * shape.inter_size + 1) * shape.hidden_size * shape.experts)),
        layer_(gate(), experts(), {.top_k = shape.top_k}) {}

  void prepare(int64_t tokens, double load_exponent) override {
    policy_.set(plan_with_counts(
        cost::representative_counts(tokens, shape_.experts, shape_.top_k, load_exponent), tokens,
        shape_.top_k));
    x_ = random_floats(tokens * shape_.hidden_size, 1.0f);
    out_.resize(x_.size());
  }

  double run_us(ThreadPool& pool) override {
    const int64_t hidden = shape_.hidden_size, tokens = static_cast<int64_t>(x_.size()) / hidden;
    const RowGroup all{0, tokens};
    StartClock clock;
    layer_.forward(ConstMatrix(x_.data(), tokens, hidden), {&all, 1}, policy_, nullptr,
                   Matrix(out_.data(), tokens, hidden), pool, &clock);
    return clock.us();
  }

 private:
  // The experts' matrices stand behind the gate's.
  WeightView gate() const {
    return {weights_.data(), DType::kBf16, shape_.experts, shape_.hidden_size};
  }
  std::vector<SimpleExpert> experts() const {
    const int64_t hidden = shape_.hidden_size, inter = shape_.inter_size;
    const uint16_t* next = weights_.data() + shape_.experts * hidden;
    std::vector<SimpleExpert> experts;
    for (int e = 0; e < shape_.experts; ++e, next += 3 * inter * hidden)
      experts.emplace_back(WeightView{next, DType::kBf16, inter, hidden},
                           WeightView{next + inter * hidden, DType::kBf16, inter, hidden},
                           WeightView{next + 2 * inter * hidden, DType::kBf16, hidden, inter});
    return experts;
  }

  cost::KernelShape shape_;
  std::vector<uint16_t> weights_;
  MoeLayer layer_;
  FixedPlan policy_;
  std::vector<float> x_, out_;
};

class ProductWork : public CpuWork {
 public:
  explicit ProductWork(const cost::KernelShape& shape)
      : shape_(shape), weights_(random_weights(shape.inter_size * shape.hidden_size)) {}

  void prepare(int64_t tokens, double) override {
    const int64_t cols = shape_.hidden_size, padded = cpu::padded_cols(cols);
    const std::vector<float> x = random_floats(tokens * cols, 1.0f);
    packed_.assign(static_cast<size_t>(tokens * padded), 0.0f);
    cpu::pack_rows(DType::kBf16, ConstMatrix(x.data(), tokens, cols),
                   Matrix(packed_.data(), tokens, padded));
    out_.resize(static_cast<size_t>(tokens * shape_.inter_size));
  }

  double run_us(ThreadPool& pool) override {
    const int64_t padded = cpu::padded_cols(shape_.hidden_size);
    const int64_t tokens = static_cast<int64_t>(packed_.size()) / padded;
    const WeightView weight{weights_.data(), DType::kBf16, shape_.inter_size, shape_.hidden_size};
    const DenseProduct product{&weight, Matrix(out_.data(), tokens, shape_.inter_size), false};
    scratch_.resize(static_cast<size_t>(pool.size()));
    const auto start = Clock::now();
    multiply({packed_.data(), padded, tokens}, {&product, 1}, scratch_, pool);
    return microseconds_since(start);
  }

 private:
  cost::KernelShape shape_;
  std::vector<uint16_t> weights_;
  std::vector<float> packed_, out_;
  std::vector<std::vector<float>> scratch_;
};

}  // namespace

RoutingPlan plan_with_counts(const std::vector<int64_t>& counts, int64_t tokens, int top_k) {
  const int64_t most = counts.empty() ? 0 : *std::max_element(counts.begin(), counts.end());
  const int64_t sum = std::accumulate(counts.begin(), counts.end(), int64_t{0});
  if (most > tokens || sum != tokens * top_k)
    throw InvalidArgument(
        fmt::format("no plan of {} tokens, top {}, gives an expert {} and all of them {}", tokens,
                    top_k, most, sum));
  RoutingPlan plan;
  plan.tokens = static_cast<int>(tokens);
  plan.experts = static_cast<int>(counts.size());
  plan.k = top_k;
  plan.ids.resize(static_cast<size_t>(sum));
  // An expert's tokens follow each other around the batch, so that none has it twice.
  int64_t pair = 0;
  for (size_t e = 0; e < counts.size(); ++e)
    for (int64_t i = 0; i < counts[e]; ++i, ++pair)
      plan.ids[static_cast<size_t>(pair % tokens * top_k + pair / tokens)] =
          static_cast<int32_t>(e);
  plan.instances = plan.ids;
  plan.weights.assign(plan.ids.size(), 1.0f / static_cast<float>(top_k));
  plan.changed.assign(static_cast<size_t>(tokens), 0);
  pack(plan, plan.experts);
  return plan;
}

std::unique_ptr<CpuWork> make_cpu_work(const cost::KernelShape& shape) {
  if (shape.op == cost::Operation::kExperts) return std::make_unique<ExpertsWork>(shape);
  return std::make_unique<ProductWork>(shape);
}

}  // namespace thermoe::app
