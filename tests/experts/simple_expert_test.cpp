#include "thermoe/simple_expert.h"

#include <gtest/gtest.h>

#include "kernels/reference.h"
#include "thermoe/error.h"

namespace thermoe {
namespace {

using test::random_floats;
using test::random_weight;

TEST(SimpleExpert, AgreesWithFloat64) {
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBf16})
    for (const auto& [hidden, inter] : {std::pair{33, 13}, {64, 32}, {130, 70}})
      for (const int64_t rows : {1, 2, 5, 50}) {
        const auto gate = random_weight(dtype, inter, hidden, 1, 0.2f);
        const auto up = random_weight(dtype, inter, hidden, 2, 0.2f);
        const auto down = random_weight(dtype, hidden, inter, 3, 0.2f);
        const SimpleExpert expert(gate.view(), up.view(), down.view());
        EXPECT_EQ(expert.weight_bytes(),
                  size_bytes(dtype) * static_cast<size_t>(3 * hidden * inter));
        const auto x = random_floats(rows * hidden, 4);
        std::vector<float> out(x.size()), scratch(expert.scratch_floats(rows));
        expert.run(ConstMatrix(x.data(), rows, hidden), Matrix(out.data(), rows, hidden),
                   scratch.data());
        for (int64_t r = 0; r < rows; ++r) {
          const auto want = test::expert(x.data() + r * hidden, gate, up, down);
          for (size_t c = 0; c < want.size(); ++c)
            ASSERT_NEAR(out[static_cast<size_t>(r * hidden) + c], want[c], 2e-5)
                << name_of(dtype) << " hidden " << hidden << " rows " << rows;
        }
      }
}

TEST(SimpleExpert, RefusesWeightsThatDoNotFit) {
  const auto gate = random_weight(DType::kF32, 4, 6, 1), down = random_weight(DType::kF32, 6, 4, 2);
  const auto halves = random_weight(DType::kBf16, 4, 6, 3);
  EXPECT_NO_THROW(SimpleExpert(gate.view(), gate.view(), down.view()));
  EXPECT_THROW(SimpleExpert(gate.view(), gate.view(), gate.view()), InvalidArgument);
  EXPECT_THROW(SimpleExpert(gate.view(), down.view(), down.view()), InvalidArgument);
  EXPECT_THROW(SimpleExpert(gate.view(), halves.view(), down.view()), InvalidArgument);
  EXPECT_THROW(SimpleExpert(WeightView{}, gate.view(), down.view()), InvalidArgument);
}

TEST(SimpleExpert, RefusesRowsThatDoNotFit) {
  const auto gate = random_weight(DType::kF32, 4, 6, 1), down = random_weight(DType::kF32, 6, 4, 2);
  const SimpleExpert expert(gate.view(), gate.view(), down.view());
  std::vector<float> x(14), out(14), scratch(expert.scratch_floats(2));
  EXPECT_THROW(expert.run(ConstMatrix(x.data(), 2, 7), Matrix(out.data(), 2, 6), scratch.data()),
               InvalidArgument);
  EXPECT_THROW(expert.run(ConstMatrix(x.data(), 2, 6), Matrix(out.data(), 1, 6), scratch.data()),
               InvalidArgument);
}

}  // namespace
}  // namespace thermoe
