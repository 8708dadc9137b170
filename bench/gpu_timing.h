// Times on a GPU: between two events, and of launches in a CUDA graph.
#pragma once

#include <cuda_runtime_api.h>

#include <algorithm>
#include <vector>

#include "kernels/cuda/cuda_resources.h"

namespace thermoe::bench {

class GpuTimer {
 public:
  GpuTimer() {
    cuda::check(cudaEventCreate(&begin_), "making an event");
    cuda::check(cudaEventCreate(&end_), "making an event");
  }
  ~GpuTimer() {
    cudaEventDestroy(begin_);
    cudaEventDestroy(end_);
  }
  GpuTimer(const GpuTimer&) = delete;
  GpuTimer& operator=(const GpuTimer&) = delete;

  // What `enqueue()` puts on the stream takes so long; returns once it is done.
  template <typename Enqueue>
  double us(cudaStream_t stream, const Enqueue& enqueue) {
    cuda::check(cudaEventRecord(begin_, stream), "timing");
    enqueue();
    cuda::check(cudaEventRecord(end_, stream), "timing");
    cuda::check(cudaEventSynchronize(end_), "waiting for the GPU");
    float ms = 0;
    cuda::check(cudaEventElapsedTime(&ms, begin_, end_), "timing");
    return 1e3 * static_cast<double>(ms);
  }

 private:
  cudaEvent_t begin_ = nullptr, end_ = nullptr;
};

// The times a launch, ascending, of `replays` replays of a graph of launch(0) .. launch(launches -
// 1), each a cudaError_t; some replays before warm up.
template <typename Launch>
std::vector<double> graph_times_us(cudaStream_t stream, int launches, int warm_ups, int replays,
                                   const Launch& launch) {
  cuda::Graph graph;
  graph.capture(stream, [&] {
    for (int i = 0; i < launches; ++i) cuda::check(launch(i), "launching");
  });
  GpuTimer timer;
  std::vector<double> times;
  for (int replay = 0; replay < warm_ups + replays; ++replay) {
    const double us = timer.us(stream, [&] { graph.launch(stream); });
    if (replay >= warm_ups) times.push_back(us / launches);
  }
  std::sort(times.begin(), times.end());
  return times;
}

}  // namespace thermoe::bench
