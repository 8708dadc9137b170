// The kernels of nested planes on every instruction set at hand: exact integers, float64, and bits
// that depend on nothing but the row.
#include "kernels/cpu/nested.h"

#include <gtest/gtest.h>
#include <hwy/targets.h>

#include <cmath>
#include <functional>

#include "kernels/cpu/nested_pack.h"
#include "kernels/nested_planes.h"
#include "kernels/reference.h"

namespace thermoe::cpu {
namespace {

using test::random_floats;
using test::random_planes;

constexpr Planes kBothWays[] = {Planes::kHi, Planes::kBoth};

// Runs `body` once per instruction set that this machine and this build have.
void for_each_target(const std::function<void()>& body) {
  for (int64_t left = hwy::SupportedTargets(); left != 0; left &= left - 1) {
    const int64_t target = left & -left;
    hwy::GetChosenTarget().Update(target);
    SCOPED_TRACE(hwy::TargetName(target));
    body();
    if (::testing::Test::HasFatalFailure()) break;
  }
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
}

// Quantised rows, and what they stand for.
struct Rows {
  Rows(const std::vector<float>& x, int64_t rows, int64_t cols_in)
      : cols(cols_in),
        count(rows),
        bytes(static_cast<size_t>(rows * quantized_row_bytes(cols_in)) + 64) {
    quantize_rows(ConstMatrix(x.data(), rows, cols), 0, {data(), cols, count, nullptr});
  }
  std::byte* data() {
    const auto at = reinterpret_cast<uintptr_t>(bytes.data());
    return bytes.data() + (64 - at % 64) % 64;
  }
  QuantizedRows view() { return {data(), cols, count, nullptr}; }
  // Where a column's first copy stands: the order that quantized_rows.h describes.
  static int64_t place(int64_t col) {
    const int64_t k = col % 32 / 16, t = col % 8 / 2, byte = col % 2 * 2 + col % 16 / 8;
    return col / 32 * kGroupBytes + 16 * t + 8 * k + byte;
  }
  int integer(int64_t r, int64_t col) {
    return static_cast<int>(static_cast<int8_t>(view().row(r)[place(col)]));
  }
  float scale(int64_t r, int64_t group) {
    return reinterpret_cast<const float*>(view().row(r) + view().scales_at())[group];
  }
  float sum(int64_t r, int64_t group) {
    return reinterpret_cast<const float*>(view().row(r) + view().sums_at())[group];
  }
  double at(int64_t r, int64_t col) {
    return static_cast<double>(integer(r, col)) * static_cast<double>(scale(r, col / 32));
  }

  int64_t cols, count;
  std::vector<std::byte> bytes;
};

TEST(QuantizedRows, RoundToNearestEvenInThePermutedOrder) {
  for_each_target([] {
    for (const int64_t cols : {1, 5, 31, 32, 33, 64, 100}) {
      const std::vector<float> x = random_floats(3 * cols, 7, 2.5f);
      Rows rows(x, 3, cols);
      for (int64_t r = 0; r < 3; ++r)
        for (int64_t group = 0; group * 32 < cols; ++group) {
          float most = 0;
          int total = 0;
          for (int64_t c = group * 32; c < std::min(cols, group * 32 + 32); ++c)
            most = std::max(most, std::fabs(x[static_cast<size_t>(r * cols + c)]));
          ASSERT_EQ(rows.scale(r, group), most / 127.0f);
          for (int64_t c = group * 32; c < group * 32 + 32; ++c) {
            const float value = c < cols ? x[static_cast<size_t>(r * cols + c)] : 0.0f;
            const int want = static_cast<int>(std::nearbyint(value * (127.0f / most)));
            ASSERT_EQ(rows.integer(r, c), want) << r << ", " << c;
            ASSERT_EQ(static_cast<int8_t>(rows.view().row(r)[Rows::place(c) + 4]), want);
            total += want;
          }
          ASSERT_EQ(rows.sum(r, group), most / 127.0f * static_cast<float>(total));
        }
    }
  });
}

TEST(QuantizedRows, RoundHalvesToEven) {
  for_each_target([] {
    std::vector<float> x(32);
    x[0] = 127.0f;  // steps of one
    for (int i = 1; i < 32; ++i) x[static_cast<size_t>(i)] = static_cast<float>(i - 16) + 0.5f;
    Rows rows(x, 1, 32);
    for (int64_t c = 1; c < 32; ++c) {
      const auto below = static_cast<int>(c - 16);
      EXPECT_EQ(rows.integer(0, c), below % 2 == 0 ? below : below + 1);
    }
  });
}

TEST(QuantizedRows, TurnWhatIsNotFiniteIntoNanAndDustIntoZeros) {
  for_each_target([] {
    for (const float odd : {NAN, INFINITY, -INFINITY, 1e-31f, 1e-45f, 0.0f}) {
      std::vector<float> x(96, 0.0f);
      for (size_t i = 0; i < 32; ++i) x[i] = x[64 + i] = 1.0f;
      x[40] = odd;
      Rows rows(x, 1, 96);
      for (int64_t c = 32; c < 64; ++c) EXPECT_EQ(rows.integer(0, c), 0);
      EXPECT_EQ(std::isnan(rows.scale(0, 1)), !std::isfinite(odd)) << odd;
      EXPECT_TRUE(!std::isfinite(odd) || rows.scale(0, 1) == 0.0f) << odd;
      EXPECT_EQ(rows.scale(0, 0), 1.0f / 127.0f);
      EXPECT_EQ(rows.scale(0, 2), 1.0f / 127.0f);
    }
  });
}

// Writes column by column: what the groups' order and the tasks' split can't change.
TEST(QuantizedRows, FillGroupsFromAnyOn) {
  const std::vector<float> x = random_floats(2 * 96, 3);
  Rows whole(x, 2, 96);
  Rows parts(std::vector<float>(2 * 96), 2, 96);
  for (const int64_t first : {64, 0, 32})
    quantize_rows(ConstMatrix(x.data() + first, 2, 32, 96), first, {parts.data(), 96, 2, nullptr});
  for (int64_t r = 0; r < 2; ++r)
    for (int64_t c = 0; c < 96; ++c) {
      ASSERT_EQ(parts.integer(r, c), whole.integer(r, c));
      ASSERT_EQ(parts.scale(r, c / 32), whole.scale(r, c / 32));
      ASSERT_EQ(parts.sum(r, c / 32), whole.sum(r, c / 32));
    }
}

int64_t weight_of(const NaturalPlanes& w, int64_t at, Planes planes, int32_t ratio) {
  const auto i = static_cast<size_t>(at);
  return ratio * w.hi[i] + (planes == Planes::kBoth ? w.lo[i] : 0);
}

// With all scales one, every sum is an integer below 2^24 and must come out exactly.
TEST(NestedMultiply, IsExactInIntegers) {
  std::mt19937 generator(11);
  std::uniform_int_distribution<int> any(-127, 127);
  for_each_target([&] {
    uint32_t seed = 1;
    for (const auto& [outputs, cols] :
         {std::pair<int64_t, int64_t>{1, 1}, {7, 31}, {32, 32}, {33, 65}, {40, 130}, {65, 200}})
      for (const int64_t count : {1, 2, 3, 4, 5, 6, 7, 16, 33})
        for (const int32_t ratio : {1, 7, 8, 16}) {
          NaturalPlanes w = random_planes(outputs, cols, ++seed);
          for (uint8_t& scale : w.scales) scale = test::kUnitScale;
          const PackedPlanes packed = pack_nested(w);
          std::vector<float> x;
          for (int64_t i = 0; i < count * cols; ++i)
            x.push_back(i % cols % 32 == 0 ? 127.0f : static_cast<float>(any(generator)));
          Rows rows(x, count, cols);
          for (const Planes planes : kBothWays) {
            std::vector<float> y(static_cast<size_t>(count * outputs), NAN);
            const NestedView view = packed.view(1, ratio);
            nested_multiply(rows.view(), view, planes, 0, view.row_blocks(), y.data(), outputs);
            for (int64_t r = 0; r < count; ++r)
              for (int64_t o = 0; o < outputs; ++o) {
                int64_t want = 0;
                for (int64_t c = 0; c < cols; ++c)
                  want += weight_of(w, o * cols + c, planes, ratio) *
                          static_cast<int64_t>(x[static_cast<size_t>(r * cols + c)]);
                ASSERT_EQ(static_cast<double>(y[static_cast<size_t>(r * outputs + o)]),
                          static_cast<double>(want))
                    << name_of(planes) << " [" << outputs << ", " << cols << "] ratio " << ratio
                    << " row " << r << " of " << count << " output " << o;
              }
          }
        }
  });
}

// The largest magnitudes that the format allows: no sum may saturate on its way.
TEST(NestedMultiply, DoesNotSaturate) {
  for_each_target([] {
    for (const int extreme : {-8, 7})
      for (const float sign : {-127.0f, 127.0f})
        for (const int64_t count : {1, 8}) {
          NaturalPlanes w = random_planes(32, 64, 1);
          w.hi.assign(w.hi.size(), static_cast<int8_t>(extreme));
          w.lo = w.hi;
          for (uint8_t& scale : w.scales) scale = test::kUnitScale;
          const PackedPlanes packed = pack_nested(w);
          Rows rows(std::vector<float>(static_cast<size_t>(count * 64), sign), count, 64);
          std::vector<float> y(static_cast<size_t>(count * 32));
          for (const Planes planes : kBothWays) {
            nested_multiply(rows.view(), packed.view(1, 16), planes, 0, 1, y.data(), 32);
            const float weight =
                static_cast<float>(extreme) * (planes == Planes::kBoth ? 17.0f : 16.0f);
            for (const float got : y) ASSERT_EQ(got, 64 * sign * weight);
          }
        }
  });
}

TEST(NestedMultiply, ReadsEveryScaleAsNestedScaleDoes) {
  NaturalPlanes w{256, 1, std::vector<int8_t>(256, 1), std::vector<int8_t>(256, 0), {}};
  for (int code = 0; code < 256; ++code) w.scales.push_back(static_cast<uint8_t>(code));
  const PackedPlanes packed = pack_nested(w);
  for_each_target([&] {
    Rows rows({127.0f}, 1, 1);
    std::vector<float> y(256);
    nested_multiply(rows.view(), packed.view(1, 1), Planes::kHi, 0, 8, y.data(), 256);
    for (int code = 0; code < 256; ++code)
      EXPECT_EQ(y[static_cast<size_t>(code)], 127.0f * nested_scale(static_cast<uint8_t>(code)))
          << code;
  });
}

struct Random {
  Random(int64_t outputs, int64_t cols, int64_t count, int32_t ratio, uint32_t seed)
      : natural(random_planes(outputs, cols, seed)),
        packed(pack_nested(natural)),
        x(random_floats(count * cols, seed + 1)),
        rows(x, count, cols),
        view(packed.view(0.01f, ratio)) {}
  // x . row o of w, and the bound of nested.h on its error.
  std::pair<double, double> dot(int64_t r, int64_t o, Planes planes) {
    double sum = 0, size = 0;
    for (int64_t c = 0; c < natural.cols; ++c) {
      const double scale = static_cast<double>(view.base) *
                           static_cast<double>(nested_scale(
                               natural.scales[static_cast<size_t>(o * natural.groups() + c / 32)]));
      const double value = rows.at(r, c) * scale;
      const int64_t weight = weight_of(natural, o * natural.cols + c, planes, view.plane_ratio);
      sum += value * static_cast<double>(weight);
      size += std::fabs(value) * static_cast<double>(std::abs(weight) + 8 * view.plane_ratio + 8);
    }
    return {sum, (static_cast<double>(natural.groups()) + 8) * std::ldexp(1.0, -23) * size};
  }

  NaturalPlanes natural;
  PackedPlanes packed;
  std::vector<float> x;
  Rows rows;
  NestedView view;
};

TEST(NestedMultiply, AgreesWithFloat64) {
  for_each_target([] {
    uint32_t seed = 20;
    for (const auto& [outputs, cols] :
         {std::pair<int64_t, int64_t>{3, 40}, {32, 96}, {70, 257}, {32, 1024}})
      for (const int64_t count : {1, 2, 5, 16, 33})
        for (const int32_t ratio : {8, 16})
          for (const Planes planes : kBothWays) {
            Random c(outputs, cols, count, ratio, seed += 2);
            std::vector<float> y(static_cast<size_t>(count * outputs), NAN);
            nested_multiply(c.rows.view(), c.view, planes, 0, c.view.row_blocks(), y.data(),
                            outputs);
            for (int64_t r = 0; r < count; ++r)
              for (int64_t o = 0; o < outputs; ++o) {
                const auto [want, bound] = c.dot(r, o, planes);
                ASSERT_NEAR(y[static_cast<size_t>(r * outputs + o)], want, bound)
                    << name_of(planes) << " [" << outputs << ", " << cols << "] " << r << ", " << o;
              }
          }
  });
}

// A row's bits depend on neither its batch, nor its place in it, nor the split of row blocks.
TEST(NestedMultiply, RowsDoNotDependOnTheBatch) {
  for_each_target([] {
    for (const Planes planes : kBothWays) {
      Random c(100, 170, 37, 16, 5);
      std::vector<float> together(37 * 100), alone(together);
      nested_multiply(c.rows.view(), c.view, planes, 0, 4, together.data(), 100);
      std::vector<int32_t> ids;
      for (int32_t r = 0; r < 37; ++r) ids.push_back(r);
      for (const int64_t group : {1, 2, 3, 4, 6, 7, 16}) {
        std::fill(alone.begin(), alone.end(), NAN);
        for (int64_t r = 0; r < 37; r += group) {
          QuantizedRows part = c.rows.view();
          part.count = std::min(group, 37 - r);
          part.ids = ids.data() + r;
          for (int64_t block = 0; block < 4; ++block)
            nested_multiply(part, c.view, planes, block, 1, alone.data() + r * 100, 100);
        }
        ASSERT_EQ(together, alone) << name_of(planes) << " in groups of " << group;
      }
    }
  });
}

TEST(NestedMultiply, TouchesOnlyItsBlocks) {
  for_each_target([] {
    Random c(90, 64, 3, 8, 6);
    std::vector<float> y(3 * 100, 2.0f);
    nested_multiply(c.rows.view(), c.view, Planes::kBoth, 1, 1, y.data(), 100);
    for (size_t i = 0; i < y.size(); ++i) {
      const bool inside = i % 100 >= 32 && i % 100 < 64;
      EXPECT_EQ(y[i] == 2.0f, !inside) << i;
    }
    nested_multiply(c.rows.view(), c.view, Planes::kHi, 2, 1, y.data(), 100);
    for (size_t i = 90; i < 100; ++i) EXPECT_EQ(y[i], 2.0f);
  });
}

TEST(NestedMultiply, CarriesNan) {
  for_each_target([] {
    for (const Planes planes : kBothWays)
      for (const int64_t count : {2, 9}) {
        std::vector<float> x = random_floats(count * 64, 2);
        x[70] = INFINITY;
        Rows rows(x, count, 64);
        const PackedPlanes packed = pack_nested(random_planes(32, 64, 3));
        std::vector<float> y(static_cast<size_t>(count * 32));
        nested_multiply(rows.view(), packed.view(1, 16), planes, 0, 1, y.data(), 32);
        for (size_t i = 0; i < y.size(); ++i) EXPECT_EQ(std::isnan(y[i]), i / 32 == 1) << i;
      }
  });
}

TEST(NestedSwiglu, AgreesWithFloat64) {
  for_each_target([] {
    for (const int64_t units : {5, 16, 40})
      for (const int64_t count : {1, 5, 17})
        for (const Planes planes : kBothWays) {
          const int64_t cols = 96;
          Random gate(units, cols, count, 16, 50), up(units, cols, count, 16, 60);
          up.rows = Rows(gate.x, count, cols);
          const PackedPlanes packed = pack_nested(join_gate_up(gate.natural, up.natural));
          const NestedView view = packed.view(0.01f, 16);
          const int64_t stride = view.row_blocks() * kUnitsPerBlock + 3;
          std::vector<float> y(static_cast<size_t>(count * stride), NAN);
          nested_swiglu(gate.rows.view(), view, planes, 0, view.row_blocks(), y.data(), stride);
          for (int64_t r = 0; r < count; ++r)
            for (int64_t u = 0; u < stride; ++u) {
              const float got = y[static_cast<size_t>(r * stride + u)];
              if (u >= stride - 3) {
                ASSERT_TRUE(std::isnan(got));
              } else if (u >= units) {
                ASSERT_EQ(got, 0.0f);  // a unit that pads the block
              } else {
                const auto [g, g_bound] = gate.dot(r, u, planes);
                const auto [v, v_bound] = up.dot(r, u, planes);
                const double want = test::silu(g) * v;
                ASSERT_NEAR(got, want,
                            2e-6 * std::fabs(want) + 1.1 * g_bound * std::fabs(v) +
                                v_bound * std::fabs(test::silu(g)) + 1e-9)
                    << name_of(planes) << " unit " << u;
              }
            }
        }
  });
}

}  // namespace
}  // namespace thermoe::cpu
