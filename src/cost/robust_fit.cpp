#include "cost/robust_fit.h"

#include <algorithm>
#include <cmath>
#include <unsupported/Eigen/NonLinearOptimization>
#include <unsupported/Eigen/NumericalDiff>

namespace thermoe::cost {
namespace {

constexpr int kMostEvaluations = 4000;

// What Eigen's solver asks of a problem.
struct Problem {
  using Scalar = double;
  using InputType = Eigen::VectorXd;
  using ValueType = Eigen::VectorXd;
  using JacobianType = Eigen::MatrixXd;
  // NOLINTNEXTLINE(readability-identifier-naming): Eigen's names
  enum { InputsAtCompileTime = Eigen::Dynamic, ValuesAtCompileTime = Eigen::Dynamic };

  int inputs() const { return static_cast<int>(start.size()); }
  int values() const { return static_cast<int>(count) + inputs(); }

  std::vector<double> parameters(const Eigen::VectorXd& x) const {
    const double most = std::log(settings.most_factor);
    std::vector<double> out(start.size());
    for (size_t i = 0; i < out.size(); ++i)
      out[i] = start[i] * std::exp(std::clamp(x(static_cast<Eigen::Index>(i)), -most, most));
    return out;
  }

  int operator()(const Eigen::VectorXd& x, Eigen::VectorXd& out) const {
    Eigen::VectorXd raw(count);
    residuals(parameters(x), raw);
    for (Eigen::Index i = 0; i < count; ++i) {
      const double r = raw(i) / settings.scale;
      // Its square is the soft L1 loss 2 (sqrt(1 + r^2) - 1).
      out(i) = std::copysign(std::sqrt(2 * (std::sqrt(1 + r * r) - 1)), r);
    }
    for (Eigen::Index i = 0; i < x.size(); ++i) out(count + i) = settings.prior_weight * x(i);
    return 0;
  }

  const std::vector<double>& start;
  Eigen::Index count;
  const std::function<void(const std::vector<double>&, Eigen::VectorXd&)>& residuals;
  RobustFitSettings settings;
};

}  // namespace

std::vector<double> fit_robust(
    const std::vector<double>& start, Eigen::Index count,
    const std::function<void(const std::vector<double>&, Eigen::VectorXd&)>& residuals,
    const RobustFitSettings& settings) {
  const Problem problem{start, count, residuals, settings};
  Eigen::NumericalDiff<Problem> differences(problem, 1e-10);
  Eigen::LevenbergMarquardt<Eigen::NumericalDiff<Problem>> solver(differences);
  solver.parameters.maxfev = kMostEvaluations;
  solver.parameters.xtol = solver.parameters.ftol = 1e-7;
  Eigen::VectorXd x = Eigen::VectorXd::Zero(static_cast<Eigen::Index>(start.size()));
  solver.minimize(x);
  return problem.parameters(x);
}

}  // namespace thermoe::cost
