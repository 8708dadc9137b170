// Google Benchmark of the CPU kernels: bytes of weights and FLOPs per second.
// Arguments of the products: outputs N, columns K, rows M.
#include <benchmark/benchmark.h>

#include <random>
#include <vector>

#include "kernels/cpu/attention.h"
#include "kernels/cpu/linear.h"
#include "kernels/cpu/multiply.h"

namespace {

using thermoe::DType;
namespace cpu = thermoe::cpu;

std::vector<float> random_floats(int64_t count) {
  std::mt19937 generator(1);
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = normal(generator);
  return values;
}

// bf16 weights and packed rows of one product.
struct Case {
  explicit Case(const benchmark::State& state)
      : outputs(state.range(0)), cols(state.range(1)), rows(state.range(2)) {
    for (const float value : random_floats(outputs * cols)) {
      uint32_t bits;
      static_assert(sizeof(bits) == sizeof(value));
      __builtin_memcpy(&bits, &value, sizeof(bits));
      stored.push_back(static_cast<uint16_t>(bits >> 16));
    }
    const std::vector<float> x = random_floats(rows * cols);
    packed.resize(static_cast<size_t>(rows * cpu::padded_cols(cols)));
    cpu::pack_rows(DType::kBf16, thermoe::ConstMatrix(x.data(), rows, cols),
                   thermoe::Matrix(packed.data(), rows, cpu::padded_cols(cols)));
    y.resize(static_cast<size_t>(rows * outputs));
  }
  thermoe::WeightView weight() const { return {stored.data(), DType::kBf16, outputs, cols}; }
  cpu::PackedRows input() const { return {packed.data(), cpu::padded_cols(cols), rows}; }
  void count(benchmark::State& state) const {
    const double products = static_cast<double>(outputs * cols * state.iterations());
    state.counters["flops"] =
        benchmark::Counter(2 * products * static_cast<double>(rows), benchmark::Counter::kIsRate);
    state.counters["weight_bytes"] = benchmark::Counter(2 * products, benchmark::Counter::kIsRate);
  }

  int64_t outputs, cols, rows;
  std::vector<uint16_t> stored;
  std::vector<float> packed, y;
};

// Weights widened in registers.
void BM_Linear(benchmark::State& state) {
  Case c(state);
  for (auto _ : state) {
    cpu::linear(c.input(), c.weight(), 0, c.outputs, c.y.data(), c.outputs);
    benchmark::DoNotOptimize(c.y.data());
  }
  c.count(state);
}

// Panels widened to f32, then OpenBLAS, whatever the number of rows.
void BM_WidenAndGemm(benchmark::State& state) {
  Case c(state);
  const int64_t most = std::max(c.rows, cpu::kGemmRows);
  std::vector<float> scratch(cpu::multiply_scratch_floats(most, c.cols, false));
  for (auto _ : state) {
    cpu::widen_and_gemm(c.input(), c.weight(), 0, c.outputs, c.y.data(), c.outputs, false,
                        scratch.data());
    benchmark::DoNotOptimize(c.y.data());
  }
  c.count(state);
}

void shapes(benchmark::internal::Benchmark* benchmark) {
  for (const auto& [outputs, cols] :
       {std::pair{64, 256}, {256, 64}, {256, 256}, {512, 512}, {4096, 256}, {768, 2048}})
    for (const int rows : {1, 2, 3, 4, 8, 16, 32, 48, 64, 128, 512})
      benchmark->Args({outputs, cols, rows});
}
BENCHMARK(BM_Linear)->Apply(shapes);
BENCHMARK(BM_WidenAndGemm)->Apply(shapes);

// Arguments: query rows, heads per KV head, position of the last row. head_dim 64.
void BM_Attention(benchmark::State& state) {
  const int64_t rows = state.range(0), group = state.range(1), last = state.range(2), dim = 64;
  const std::vector<float> keys = random_floats(cpu::key_floats(last + 1, dim));
  const std::vector<float> values = random_floats(cpu::value_floats(last + 1, dim));
  const std::vector<float> queries = random_floats(rows * group * dim);
  std::vector<float> out(queries.size());
  std::vector<int32_t> ids, positions;
  double scores = 0;
  for (int64_t r = 0; r < rows; ++r) {
    ids.push_back(static_cast<int32_t>(r));
    positions.push_back(static_cast<int32_t>(last + 1 - rows + r));
    scores += static_cast<double>(positions.back() + 1) * static_cast<double>(group);
  }
  cpu::AttentionCall call;
  call.rows = ids;
  call.positions = positions.data();
  call.queries = queries.data();
  call.out = out.data();
  call.row_stride = group * dim;
  call.group = static_cast<int>(group);
  call.head_dim = dim;
  call.scale = 0.125f;
  call.keys = keys.data();
  call.values = values.data();
  std::vector<float> scratch(cpu::attention_scratch_floats(rows, static_cast<int>(group), dim));
  for (auto _ : state) {
    cpu::attend(call, scratch.data());
    benchmark::DoNotOptimize(out.data());
  }
  const double calls = static_cast<double>(state.iterations());
  state.counters["flops"] =
      benchmark::Counter(4 * dim * scores * calls, benchmark::Counter::kIsRate);
  state.counters["cache_bytes"] = benchmark::Counter(
      8.0 * dim * static_cast<double>(last + 1) * calls, benchmark::Counter::kIsRate);
}
BENCHMARK(BM_Attention)->ArgsProduct({{1, 16}, {1, 2, 4}, {63, 255, 511}});

}  // namespace

BENCHMARK_MAIN();
