// Tokens per second of the CPU runtime on a checkpoint, and FLOP/s beside what the machine can do.
//
// Decode: `batch` sequences advance one token a pass, from an empty cache to `context` positions.
// Chunked evaluation: the same tokens, `chunk` positions of every sequence a pass, each position a
// group of its own. Both compute the logits of every row. Beside them the machine's rate for a
// 1024^3 sgemm and its copy bandwidth, on the same threads.
//
// The whole run is repeated. "best" takes each pass's fastest repetition, which is what a quiet
// machine would do; "median" is the median run.
#include <cblas.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstring>
#include <iostream>
#include <nlohmann/json.hpp>
#include <numeric>
#include <random>

#include "kernels/cpu/multiply.h"
#include "thermoe/transformer.h"

namespace {

using thermoe::ModelConfig;
using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

struct Options {
  std::string model;
  int batch = 16, context = 512, chunk = 32, threads = 0, repeats = 5;
};

// FLOPs of one token at `position`: two per weight that it uses, and attention over the cache.
double flops_per_token(const ModelConfig& c, int position) {
  const double hidden = static_cast<double>(c.hidden_size);
  const double q_size = static_cast<double>(c.heads * c.head_dim);
  const double kv_size = static_cast<double>(c.kv_heads * c.head_dim);
  double weights = hidden * static_cast<double>(c.vocab_size);
  for (int layer = 0; layer < c.layers; ++layer) {
    weights += hidden * (2 * q_size + 2 * kv_size);
    if (c.sparse[static_cast<size_t>(layer)])
      weights += hidden * (c.experts + 3.0 * c.top_k * static_cast<double>(c.expert_inter_size));
    else
      weights += hidden * 3.0 * static_cast<double>(c.inter_size);
  }
  return 2 * weights + 4 * q_size * (position + 1) * c.layers;
}

// FLOP/s of all threads, each multiplying its own 1024 x 1024 f32 matrices.
double matrix_flops_per_s(thermoe::ThreadPool& pool) {
  constexpr int n = 1024;
  thermoe::cpu::use_single_threaded_blas();
  std::vector<std::vector<float>> matrices(static_cast<size_t>(3 * pool.size()),
                                           std::vector<float>(size_t{n} * n, 0.5f));
  double best = 1e30;
  for (int repeat = 0; repeat < 20; ++repeat) {
    const auto start = Clock::now();
    pool.run(pool.size(), [&](int task, int) {
      auto* m = &matrices[static_cast<size_t>(3 * task)];
      cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, n, n, n, 1.0f, m[0].data(), n,
                  m[1].data(), n, 0.0f, m[2].data(), n);
    });
    best = std::min(best, seconds_since(start));
  }
  return 2.0 * n * n * n * pool.size() / best;
}

// Bytes read and written per second by all threads, each copying 64 MiB.
double copy_bytes_per_s(thermoe::ThreadPool& pool) {
  const size_t bytes = size_t{64} << 20;
  std::vector<std::vector<char>> from, to;
  for (int i = 0; i < pool.size(); ++i) {
    from.emplace_back(bytes, 'x');
    to.emplace_back(bytes, 'y');
  }
  double best = 1e30;
  for (int repeat = 0; repeat < 10; ++repeat) {
    const auto start = Clock::now();
    pool.run(pool.size(), [&](int task, int) {
      const auto i = static_cast<size_t>(task);
      std::memcpy(to[i].data(), from[i].data(), bytes);
    });
    best = std::min(best, seconds_since(start));
  }
  return 2.0 * static_cast<double>(bytes) * pool.size() / best;
}

// One run over the context, `step` positions a pass; the seconds of each pass.
class Run {
 public:
  Run(thermoe::Transformer& model, const Options& options, int step)
      : model_(model),
        options_(options),
        step_(step),
        cache_(model.config(), options.batch, options.context),
        logits_(static_cast<size_t>(step * options.batch * model.config().vocab_size)) {}

  std::vector<double> time() {
    std::mt19937 generator(7);
    std::uniform_int_distribution<int32_t> any(
        0, static_cast<int32_t>(model_.config().vocab_size - 1));
    std::vector<double> seconds;
    for (int first = 0; first < options_.context; first += step_) {
      tokens_.clear();
      sequences_.clear();
      positions_.clear();
      groups_.clear();
      wanted_.clear();
      for (int p = first; p < std::min(first + step_, options_.context); ++p) {
        groups_.push_back({static_cast<int64_t>(tokens_.size()), options_.batch});
        for (int s = 0; s < options_.batch; ++s) {
          wanted_.push_back(static_cast<int32_t>(tokens_.size()));
          tokens_.push_back(any(generator));
          sequences_.push_back(s);
          positions_.push_back(p);
        }
      }
      const auto start = Clock::now();
      model_.forward({tokens_, sequences_, positions_, groups_},
                     {.policy = &policy_, .prices = {}, .observer = nullptr}, cache_, wanted_,
                     thermoe::Matrix(logits_.data(), static_cast<int64_t>(tokens_.size()),
                                     model_.config().vocab_size));
      seconds.push_back(seconds_since(start));
    }
    return seconds;
  }

 private:
  thermoe::Transformer& model_;
  const Options& options_;
  int step_;
  thermoe::KvCache cache_;
  thermoe::TopKPolicy policy_;
  std::vector<float> logits_;
  std::vector<int32_t> tokens_, sequences_, positions_, wanted_;
  std::vector<thermoe::RowGroup> groups_;
};

nlohmann::json measure(thermoe::Transformer& model, const Options& options, int step,
                       double matrix_rate) {
  Run run(model, options, step);
  run.time();  // warm-up: page faults, buffers
  std::vector<double> best, totals;
  for (int repeat = 0; repeat < options.repeats; ++repeat) {
    const std::vector<double> seconds = run.time();
    if (best.empty()) best = seconds;
    for (size_t i = 0; i < best.size(); ++i) best[i] = std::min(best[i], seconds[i]);
    totals.push_back(std::accumulate(seconds.begin(), seconds.end(), 0.0));
  }
  std::sort(totals.begin(), totals.end());
  const double quiet = std::accumulate(best.begin(), best.end(), 0.0);
  const double median = totals[totals.size() / 2];
  double flops = 0;
  for (int p = 0; p < options.context; ++p)
    flops += options.batch * flops_per_token(model.config(), p);
  const double tokens = static_cast<double>(options.batch) * options.context;
  return {{"tokens_per_s_best", tokens / quiet},
          {"tokens_per_s_median", tokens / median},
          {"tokens_per_s_slowest", tokens / totals.back()},
          {"flops_per_s_best", flops / quiet},
          {"matrix_rate_frac", flops / quiet / matrix_rate}};
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app("Tokens per second of the CPU runtime");
  app.add_option("--model", options.model, "checkpoint directory")->required();
  app.add_option("--batch", options.batch, "sequences")->check(CLI::PositiveNumber);
  app.add_option("--context", options.context, "positions")->check(CLI::PositiveNumber);
  app.add_option("--chunk", options.chunk, "positions a pass of the chunked evaluation")
      ->check(CLI::PositiveNumber);
  app.add_option("--threads", options.threads, "0: one per hardware thread");
  app.add_option("--repeats", options.repeats, "runs after the warm-up")
      ->check(CLI::PositiveNumber);
  CLI11_PARSE(app, argc, argv);
  try {
    thermoe::ThreadPool pool(options.threads);
    const thermoe::Checkpoint checkpoint(options.model);
    thermoe::Transformer model(checkpoint, pool);
    const double matrix_rate = matrix_flops_per_s(pool);
    nlohmann::json report = {{"model", options.model},
                             {"batch", options.batch},
                             {"context", options.context},
                             {"chunk", options.chunk},
                             {"threads", pool.size()},
                             {"repeats", options.repeats},
                             {"matrix_flops_per_s", matrix_rate},
                             {"copy_bytes_per_s", copy_bytes_per_s(pool)}};
    report["decode"] = measure(model, options, 1, matrix_rate);
    report["chunked"] = measure(model, options, options.chunk, matrix_rate);
    std::cout << report.dump(2) << "\n";
  } catch (const std::exception& error) {
    std::cerr << "cpu_throughput: " << error.what() << "\n";
    return 2;
  }
  return 0;
}
