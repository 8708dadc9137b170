#include "experts/expert_quantizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "kernels/cpu/elementwise.h"
#include "thermoe/error.h"

namespace thermoe {
namespace {

using RowMajor = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

constexpr int64_t kHeldOut = 8;       // of so many rows one
constexpr int64_t kCommonRows = 512;  // of all rows, for every expert

RowMajor widened(const WeightView& w, const char* name) {
  RowMajor wide(w.rows, w.cols);
  for (int64_t r = 0; r < w.rows; ++r) cpu::widen_row(w, r, wide.row(r).data());
  if (!wide.allFinite())
    throw InvalidArgument(fmt::format("{} holds values that are not finite", name));
  return wide;
}

ConstMatrix view_of(const RowMajor& m) { return ConstMatrix(m.data(), m.rows(), m.cols()); }

// [rows, hidden]; without rows `x` may be empty.
RowMajor gathered(ConstMatrix x, const std::vector<int32_t>& rows, int64_t hidden) {
  RowMajor some(static_cast<int64_t>(rows.size()), hidden);
  for (size_t r = 0; r < rows.size(); ++r)
    std::copy_n(x.row(rows[r]), hidden, some.row(static_cast<int64_t>(r)).data());
  return some;
}

// sum of worth x x^T; empty where there are no rows.
NestedRounder::Moments moments_of(const RowMajor& x, const std::vector<float>& worth) {
  if (x.rows() == 0) return {};
  RowMajor scaled = x;
  for (int64_t r = 0; r < x.rows(); ++r) scaled.row(r) *= std::sqrt(worth[static_cast<size_t>(r)]);
  NestedRounder::Moments moments = NestedRounder::Moments::Zero(x.cols(), x.cols());
  moments.selfadjointView<Eigen::Lower>().rankUpdate(scaled.transpose());
  moments.triangularView<Eigen::StrictlyUpper>() = moments.transpose();
  return moments;
}

struct WideExpert {
  RowMajor gate, up, down;

  RowMajor inner(const RowMajor& x) const {
    const RowMajor gated = x * gate.transpose();
    return (gated.array() / (1 + (-gated.array()).exp()) * (x * up.transpose()).array()).matrix();
  }
};

float largest(const RowMajor& m) { return m.cwiseAbs().maxCoeff(); }

// Worth-weighted squared error of `planes`' outputs, relative to the outputs'.
float error_of(const QuantizedExpert& expert, Planes planes, const RowMajor& x,
               const RowMajor& exact, const std::vector<float>& worth) {
  RowMajor out(x.rows(), x.cols());
  std::vector<std::byte> scratch(expert.scratch_bytes(x.rows()) + 64);
  const size_t off = reinterpret_cast<uintptr_t>(scratch.data()) % 64;
  expert.run(view_of(x), planes, Matrix(out.data(), out.rows(), out.cols()),
             scratch.data() + (64 - off) % 64);
  double error = 0, whole = 0;
  for (int64_t r = 0; r < x.rows(); ++r) {
    const double weight = static_cast<double>(worth[static_cast<size_t>(r)]);
    error += weight * static_cast<double>((out.row(r) - exact.row(r)).squaredNorm());
    whole += weight * static_cast<double>(exact.row(r).squaredNorm());
  }
  return whole > 0 ? static_cast<float>(error / whole) : 0.0f;
}

// What the norm before an expert makes of anything, roughly: values of unit variance.
RowMajor random_inputs(int64_t hidden) {
  constexpr int64_t kRows = 64;
  std::mt19937 generator(1);
  std::normal_distribution<float> normal;
  return RowMajor::NullaryExpr(kRows, hidden, [&] { return normal(generator); });
}

bool held_out(int64_t row) { return row % kHeldOut == kHeldOut - 1; }

}  // namespace

std::vector<ExpertInputs> calibration_inputs(const LayerPass& pass) {
  const RoutingPlan& plan = pass.plan;
  std::vector<ExpertInputs> inputs(static_cast<size_t>(plan.experts));
  double total = 0;
  for (int e = 0; e < plan.experts; ++e) {
    ExpertInputs& to = inputs[static_cast<size_t>(e)];
    to.x = pass.x;
    for (int p = plan.offsets[static_cast<size_t>(e)]; p < plan.offsets[static_cast<size_t>(e) + 1];
         ++p) {
      const size_t pair = static_cast<size_t>(plan.packed[static_cast<size_t>(p)]);
      const int32_t row = static_cast<int32_t>(pair) / plan.k;
      const float worth = plan.weights[pair] * plan.weights[pair];
      WeightedRows& side = held_out(row) ? to.held_out : to.fit;
      side.rows.push_back(row);
      side.worth.push_back(worth);
      total += static_cast<double>(worth);
    }
  }
  const int64_t rows = pass.x.rows, common = std::min(kCommonRows, rows);
  const float worth = static_cast<float>(total / plan.experts / static_cast<double>(common));
  for (int64_t i = 0; i < common; ++i) {
    const int64_t row = std::min(i * rows / common + i % kHeldOut, rows - 1);
    for (ExpertInputs& to : inputs) {
      WeightedRows& side = held_out(row) ? to.held_out : to.fit;
      side.rows.push_back(static_cast<int32_t>(row));
      side.worth.push_back(worth);
    }
  }
  return inputs;
}

QuantizedWeights quantize_expert(const SimpleExpert& expert, const ExpertInputs& inputs,
                                 const NestedRounding& rounding) {
  const WideExpert wide{widened(expert.gate(), "gate"), widened(expert.up(), "up"),
                        widened(expert.down(), "down")};
  QuantizedWeights out;
  out.plane_ratio = rounding.plane_ratio;
  const RowMajor x = gathered(inputs.x, inputs.fit.rows, expert.hidden_size());
  {
    const NestedRounder rounder(expert.hidden_size(), moments_of(x, inputs.fit.worth), rounding);
    out.gate_up_base = nested_base(std::max(largest(wide.gate), largest(wide.up)), rounding);
    out.gate_up =
        cpu::pack_nested(cpu::join_gate_up(rounder.round(view_of(wide.gate), out.gate_up_base),
                                           rounder.round(view_of(wide.up), out.gate_up_base)));
  }
  const RowMajor inner = wide.inner(x);
  const NestedRounder rounder(expert.inter_size(), moments_of(inner, inputs.fit.worth), rounding);
  out.down_base = nested_base(largest(wide.down), rounding);
  out.down = cpu::pack_nested(rounder.round(view_of(wide.down), out.down_base));
  const bool random = inputs.held_out.rows.empty();
  const RowMajor unseen = random ? random_inputs(expert.hidden_size())
                                 : gathered(inputs.x, inputs.held_out.rows, expert.hidden_size());
  const std::vector<float> worth =
      random ? std::vector<float>(static_cast<size_t>(unseen.rows()), 1.0f) : inputs.held_out.worth;
  const RowMajor exact = wide.inner(unseen) * wide.down.transpose();
  const QuantizedExpert quantized = out.expert();
  out.int8_error_frac = error_of(quantized, Planes::kBoth, unseen, exact, worth);
  out.int4_error_frac = error_of(quantized, Planes::kHi, unseen, exact, worth);
  return out;
}

}  // namespace thermoe
