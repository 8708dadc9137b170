// The expert on nested planes against float64 on the dequantised weights.
#include "thermoe/quantized_expert.h"

#include <gtest/gtest.h>

#include "experts/quantized_experts.h"
#include "thermoe/error.h"

namespace thermoe {
namespace {

using Expert = test::RandomExpert;

// Rounding the inputs to 127 steps costs about a hundredth of the output's size.
TEST(QuantizedExpert, AgreesWithFloat64WithinTheRoundingOfItsInputs) {
  uint32_t seed = 1;
  for (const auto& [hidden, inter] :
       {std::pair<int64_t, int64_t>{64, 32}, {96, 48}, {40, 20}, {33, 65}, {256, 64}})
    for (const int32_t ratio : {8, 16})
      for (const Planes planes : {Planes::kHi, Planes::kBoth}) {
        const Expert e(hidden, inter, seed += 3, ratio);
        const int64_t rows = 5;
        const std::vector<float> x = test::random_floats(rows * hidden, seed);
        std::vector<float> y(x.size(), NAN);
        const QuantizedExpert expert = e.expert();
        test::Scratch scratch(expert.scratch_bytes(rows));
        expert.run(ConstMatrix(x.data(), rows, hidden), planes, Matrix(y.data(), rows, hidden),
                   scratch.data());
        const test::StoredWeight gate = e.stored(cpu::pack_nested(e.gate), planes),
                                 up = e.stored(cpu::pack_nested(e.up), planes),
                                 down = e.stored(e.down, planes);
        double error = 0, size = 0;
        for (int64_t r = 0; r < rows; ++r) {
          const std::vector<double> want = test::expert(x.data() + r * hidden, gate, up, down);
          for (int64_t o = 0; o < hidden; ++o) {
            const double got = y[static_cast<size_t>(r * hidden + o)];
            const double exact = want[static_cast<size_t>(o)];
            error += (got - exact) * (got - exact);
            size += exact * exact;
          }
        }
        EXPECT_LT(std::sqrt(error / size), 0.03)
            << hidden << " " << inter << " " << ratio << " " << name_of(planes);
      }
}

TEST(QuantizedExpert, RefusesViewsThatDoNotFit) {
  const Expert e(64, 32, 1, 16);
  const NestedView gate_up = e.gate_up.view(1, 16), down = e.down.view(1, 16);
  EXPECT_NO_THROW(QuantizedExpert(gate_up, down));
  NestedView bad = gate_up;
  bad.rows = 32;
  EXPECT_THROW(QuantizedExpert(bad, down), InvalidArgument);
  bad = gate_up;
  bad.cols = 32;
  EXPECT_THROW(QuantizedExpert(bad, down), InvalidArgument);
  bad = down;
  bad.lo = nullptr;
  EXPECT_THROW(QuantizedExpert(gate_up, bad), InvalidArgument);
  for (const int32_t ratio : {0, -1, 17})
    EXPECT_THROW(QuantizedExpert(e.gate_up.view(1, ratio), down), InvalidArgument);
  for (const float base : {0.0f, -1.0f, INFINITY, NAN})
    EXPECT_THROW(QuantizedExpert(gate_up, e.down.view(base, 16)), InvalidArgument);
  const QuantizedExpert expert(gate_up, down);
  std::vector<float> x(64), y(64);
  EXPECT_THROW(
      expert.run(ConstMatrix(x.data(), 1, 63), Planes::kHi, Matrix(y.data(), 1, 64), nullptr),
      InvalidArgument);
  EXPECT_THROW(
      expert.run(ConstMatrix(x.data(), 1, 64), Planes::kHi, Matrix(y.data(), 1, 63), nullptr),
      InvalidArgument);
}

}  // namespace
}  // namespace thermoe
