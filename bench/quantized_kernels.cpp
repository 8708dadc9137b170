// One expert of Qwen3-30B-A3B's shape in int4, int8, bf16 and f32: time, and how close to what the
// machine can do.
//
// Experts of hidden size 2048 and intermediate size 768 take turns over a working set of several
// times the L3 cache, so that weights come from memory. Every thread runs whole experts of its own,
// as in a layer with many, at the same time as the others. A round's time of a method is the median
// of its experts' times on their threads, divided by the threads; so are the machine's own rates,
// of short pieces. All methods and rates take turns within a round: "best" is each one's fastest
// round, what a quiet machine would do, "median" the middle one.
#include <cblas.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstring>
#include <functional>
#include <iostream>
#include <nlohmann/json.hpp>
#include <random>

#include "kernels/cpu/multiply.h"
#include "machine_rates.h"
#include "onednn_experts.h"
#include "thermoe/quantized_expert.h"
#include "thermoe/simple_expert.h"
#include "thermoe/thread_pool.h"

namespace {

using nlohmann::json;
using thermoe::DType;
using thermoe::Planes;
using thermoe::ThreadPool;
using Clock = std::chrono::steady_clock;
namespace cpu = thermoe::cpu;

constexpr int64_t kHidden = 2048, kInter = 768;
constexpr int64_t kProducts = 3 * kHidden * kInter;  // of one row

struct Options {
  int rounds = 15, megabytes = 256;
  std::vector<int> rows = {1, 16}, threads = {1, 2};
};

// Memory of one method's weights: `bytes` for each of as many experts as make up the working set.
class WorkingSet {
 public:
  WorkingSet(size_t expert_bytes, const Options& options, uint32_t pattern, uint32_t mask)
      : each_((expert_bytes + 63) / 64 * 64),
        experts_(static_cast<int>((static_cast<size_t>(options.megabytes) << 20) / each_) + 1),
        words_(each_ / 4 * static_cast<size_t>(experts_) + 16) {
    std::mt19937 generator(1);
    for (uint32_t& word : words_) word = (static_cast<uint32_t>(generator()) & mask) | pattern;
  }
  int experts() const { return experts_; }
  std::byte* expert(int e) {
    const auto at = reinterpret_cast<uintptr_t>(words_.data());
    return reinterpret_cast<std::byte*>(words_.data()) + (64 - at % 64) % 64 +
           static_cast<size_t>(e) * each_;
  }
  size_t bytes() const { return each_ * static_cast<size_t>(experts_); }

 private:
  size_t each_;
  int experts_;
  std::vector<uint32_t> words_;
};

std::vector<float> random_floats(int64_t count) {
  std::mt19937 generator(2);
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = normal(generator);
  return values;
}

// The inputs and buffers of one thread.
struct Worker {
  Worker(int64_t rows, size_t scratch_bytes)
      : x(random_floats(rows * kHidden)),
        y(x.size()),
        inner(static_cast<size_t>(3 * rows * kInter)),
        scratch(scratch_bytes + 64) {}
  std::byte* aligned() {
    const auto at = reinterpret_cast<uintptr_t>(scratch.data());
    return scratch.data() + (64 - at % 64) % 64;
  }
  std::vector<float> x, y, inner;
  std::vector<std::byte> scratch;
};

struct Method {
  std::string name;
  size_t bytes = 0;       // of an expert's weights
  double multiplies = 0;  // integer multiply instructions of 32 bytes per expert
  int experts = 0;
  std::function<void(int expert, int worker)> run;
  std::vector<double> seconds;  // per expert, of each round
};

// The weights of all methods, shared by the cases.
struct Weights {
  explicit Weights(const Options& options)
      : nested(kPlane * 2 * 3 + kScales * 3, options, 0, 0xFFFFFFFFu),
        bf16(2 * kProducts, options, 0x3C003C00u, 0x807F807Fu),  // about 0.01
        f32(4 * kProducts, options, 0x3C000000u, 0x807FFFFFu) {
    for (int e = 0; e < nested.experts(); ++e) fill_scales(nested.expert(e));
  }
  // gate_up's planes and scales, then down's.
  thermoe::QuantizedExpert quantized(int e) {
    const auto* at = reinterpret_cast<const uint8_t*>(nested.expert(e));
    const thermoe::NestedView gate_up{
        at, at + 2 * kPlane, at + 6 * kPlane, 2 * kInter, kHidden, 0.001f, 16};
    const thermoe::NestedView down{at + 4 * kPlane,
                                   at + 5 * kPlane,
                                   at + 6 * kPlane + 2 * kScales,
                                   kHidden,
                                   kInter,
                                   0.001f,
                                   16};
    return {gate_up, down};
  }
  thermoe::SimpleExpert stored(int e) {
    const std::byte* at = bf16.expert(e);
    const size_t matrix = 2 * kInter * kHidden;
    return {{at, DType::kBf16, kInter, kHidden},
            {at + matrix, DType::kBf16, kInter, kHidden},
            {at + 2 * matrix, DType::kBf16, kHidden, kInter}};
  }

  static constexpr size_t kPlane = kInter * kHidden / 2, kScales = kInter * kHidden / 32;
  WorkingSet nested, bf16, f32;

 private:
  // All about 1: the arithmetic must not meet infinities.
  static void fill_scales(std::byte* expert) {
    for (size_t i = 0; i < 3 * kScales; ++i)
      expert[6 * kPlane + i] = static_cast<std::byte>(0x28 + i % 16);
  }
};

// silu(gate x) * up x by OpenBLAS, then down.
void run_blas(const float* weights, Worker& own, int64_t rows) {
  const float *gate = weights, *up = gate + kInter * kHidden, *down = up + kInter * kHidden;
  float *gated = own.inner.data(), *upped = gated + rows * kInter, *inner = upped + rows * kInter;
  const auto multiply = [&](const float* w, const float* x, int64_t outputs, int64_t cols,
                            float* y) {
    if (rows == 1)
      cblas_sgemv(CblasRowMajor, CblasNoTrans, static_cast<int>(outputs), static_cast<int>(cols),
                  1.0f, w, static_cast<int>(cols), x, 1, 0.0f, y, 1);
    else
      cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, static_cast<int>(rows),
                  static_cast<int>(outputs), static_cast<int>(cols), 1.0f, x,
                  static_cast<int>(cols), w, static_cast<int>(cols), 0.0f, y,
                  static_cast<int>(outputs));
  };
  multiply(gate, own.x.data(), kInter, kHidden, gated);
  multiply(up, own.x.data(), kInter, kHidden, upped);
  cpu::pack_swiglu(DType::kF32, thermoe::ConstMatrix(gated, rows, kInter),
                   thermoe::ConstMatrix(upped, rows, kInter), thermoe::Matrix(inner, rows, kInter));
  multiply(down, inner, kHidden, kInter, own.y.data());
}

// One number of rows and of threads.
class Case {
 public:
  Case(int64_t rows, int threads, Weights& weights)
      : rows_(rows), weights_(weights), pool_(threads) {
    const size_t scratch = std::max(weights.quantized(0).scratch_bytes(rows),
                                    weights.stored(0).scratch_floats(rows) * sizeof(float));
    for (int worker = 0; worker < pool_.size(); ++worker) workers_.emplace_back(rows, scratch);
    // Multiplications per 64 products: nested.cpp's ways for bytes and for words.
    add_nested("int4", Planes::kHi, 3);
    add_nested("int8", Planes::kBoth, rows < 6 ? 6 : 4);
    methods_.push_back({"bf16",
                        2 * kProducts,
                        0,
                        weights.bf16.experts(),
                        [&](int e, int worker) {
                          Worker& own = workers_[static_cast<size_t>(worker)];
                          weights_.stored(e).run(input(own), output(own),
                                                 reinterpret_cast<float*>(own.aligned()));
                        },
                        {}});
    methods_.push_back({"f32_openblas",
                        4 * kProducts,
                        0,
                        weights.f32.experts(),
                        [&](int e, int worker) {
                          run_blas(reinterpret_cast<const float*>(weights_.f32.expert(e)),
                                   workers_[static_cast<size_t>(worker)], rows_);
                        },
                        {}});
    add_onednn("f32_onednn", false, weights.f32.experts());
    add_onednn("bf16_onednn", true, weights.bf16.experts());
  }

  void round() {
    if (thermoe::has_machine_rates()) {
      constexpr size_t kPiece = 1 << 20;
      const std::byte* memory = weights_.f32.expert(0);
      read_.push_back(time(static_cast<int>(weights_.f32.bytes() / kPiece),
                           [&](int piece, int) {
                             thermoe::read_memory(memory + static_cast<size_t>(piece) * kPiece,
                                                  kPiece);
                           }) /
                      kPiece);
      fma_.push_back(time(40, [](int, int) { thermoe::run_fmas(); }) / thermoe::kFmaFlops);
      multiplies_.push_back(time(40, [](int, int) { thermoe::run_byte_multiplies(); }) /
                            thermoe::kByteMultiplies);
    }
    for (Method& method : methods_) method.seconds.push_back(time(method.experts, method.run));
  }

  json report() {
    json methods = json::array();
    for (Method& method : methods_) methods.push_back(report_of(method));
    return {{"rows", rows_},
            {"threads", pool_.size()},
            {"read_bytes_per_s", 1 / best(read_)},
            {"read_bytes_per_s_median", 1 / median(read_)},
            {"fma_flops_per_s", 1 / best(fma_)},
            {"byte_multiplies_per_s", 1 / best(multiplies_)},
            {"methods", methods}};
  }

 private:
  thermoe::ConstMatrix input(const Worker& own) const { return {own.x.data(), rows_, kHidden}; }
  thermoe::Matrix output(Worker& own) const { return {own.y.data(), rows_, kHidden}; }

  void add_nested(const char* name, Planes planes, double per_64) {
    methods_.push_back({name,
                        weights_.quantized(0).weight_bytes(planes),
                        per_64 * static_cast<double>(kProducts * rows_) / 64,
                        weights_.nested.experts(),
                        [this, planes](int e, int worker) {
                          Worker& own = workers_[static_cast<size_t>(worker)];
                          weights_.quantized(e).run(input(own), planes, output(own), own.aligned());
                        },
                        {}});
  }

  void add_onednn(const char* name, bool bf16, int experts) {
    std::shared_ptr<thermoe::OneDnnExperts> made =
        thermoe::make_onednn_experts({experts, pool_.size(), rows_, kHidden, kInter, bf16});
    if (made == nullptr) return;
    methods_.push_back({name,
                        (bf16 ? 2 : 4) * size_t{kProducts},
                        0,
                        experts,
                        [made](int e, int worker) { made->run(e, worker); },
                        {}});
  }

  // Seconds per task: the median of their times on their threads, over the threads.
  template <typename Body>
  double time(int tasks, Body&& body) {
    std::vector<double> seconds(static_cast<size_t>(tasks));
    pool_.run(tasks, [&](int task, int worker) {
      const auto start = Clock::now();
      body(task, worker);
      seconds[static_cast<size_t>(task)] =
          std::chrono::duration<double>(Clock::now() - start).count();
    });
    return median(std::move(seconds)) / pool_.size();
  }

  // Zero where nothing was measured.
  static double best(const std::vector<double>& values) {
    return values.empty() ? 0 : *std::min_element(values.begin(), values.end());
  }
  static double median(std::vector<double> values) {
    std::sort(values.begin(), values.end());
    return values.empty() ? 0 : values[values.size() / 2];
  }

  json report_of(const Method& method) const {
    const double us = 1e6 * best(method.seconds);
    const double bytes = static_cast<double>(method.bytes);
    const double products = static_cast<double>(kProducts * rows_);
    const double read_us = 1e6 * bytes * best(read_);
    const double fma_us = 1e6 * 2 * products * best(fma_);
    const double multiply_us = 1e6 * method.multiplies * best(multiplies_);
    json ratios = json::object();
    for (const Method& other : methods_)
      if (other.bytes > method.bytes)
        ratios[other.name] = {{"times_faster", best(other.seconds) / best(method.seconds)},
                              {"bytes_ratio", static_cast<double>(other.bytes) / bytes}};
    return {{"name", method.name},
            {"weight_bytes", method.bytes},
            {"us", us},
            {"us_median", 1e6 * median(method.seconds)},
            {"weight_bytes_per_s", bytes / us * 1e6},
            {"products_per_s", products / us * 1e6},
            {"read_frac", read_us / us},
            {"fma_frac", fma_us / us},  // products per second, of those that f32 FMAs could do
            {"multiply_frac", multiply_us / us},
            {"floor_frac", std::max(read_us, fma_us) / us},
            {"against", ratios}};
  }

  int64_t rows_;
  Weights& weights_;
  ThreadPool pool_;
  std::vector<Worker> workers_;
  std::vector<Method> methods_;
  std::vector<double> read_, fma_, multiplies_;  // seconds per byte, operation, instruction
};

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app("An expert in int4, int8, bf16 and f32 beside the machine's rates");
  app.add_option("--rounds", options.rounds, "rounds of everything")->check(CLI::PositiveNumber);
  app.add_option("--megabytes", options.megabytes, "working set of each method")
      ->check(CLI::PositiveNumber);
  app.add_option("--rows", options.rows, "tokens per expert")->check(CLI::PositiveNumber);
  app.add_option("--threads", options.threads, "threads")->check(CLI::PositiveNumber);
  CLI11_PARSE(app, argc, argv);
  try {
    cpu::use_single_threaded_blas();
    Weights weights(options);
    json results = json::array();
    for (const int threads : options.threads)
      for (const int rows : options.rows) {
        Case one(rows, threads, weights);
        for (int round = 0; round <= options.rounds; ++round) one.round();
        results.push_back(one.report());
      }
    std::cout << json{{"hidden", kHidden},
                      {"inter", kInter},
                      {"rounds", options.rounds},
                      {"megabytes", options.megabytes},
                      {"results", results}}
                     .dump(1)
              << "\n";
  } catch (const std::exception& error) {
    std::cerr << "quantized_kernels: " << error.what() << "\n";
    return 2;
  }
  return 0;
}
