#include "thermoe/thread_pool.h"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#include "thermoe/error.h"

namespace thermoe {
namespace {

// How long an idle thread spins before it sleeps: regions of one decode step follow each other
// within this, and waking a sleeper costs more.
constexpr auto kSpin = std::chrono::microseconds(50);

}  // namespace

struct ThreadPool::State {
  std::vector<std::thread> threads;
  std::mutex mutex;
  std::condition_variable wake;
  std::atomic<uint64_t> generation{0};  // counts regions; a change starts one
  std::atomic<int> next_task{0};
  std::atomic<int> running{0};  // pool threads still inside the region
  std::atomic<bool> stop{false};
  int tasks = 0;
  Call call = nullptr;
  void* context = nullptr;
  std::exception_ptr failure;

  void work(int worker) {
    for (int task; (task = next_task.fetch_add(1, std::memory_order_relaxed)) < tasks;) {
      try {
        call(context, task, worker);
      } catch (...) {  // kept for the caller, who rethrows it
        std::lock_guard lock(mutex);
        if (!failure) failure = std::current_exception();
      }
    }
  }

  uint64_t wait_for_change(uint64_t seen) {
    const auto spin_end = std::chrono::steady_clock::now() + kSpin;
    while (std::chrono::steady_clock::now() < spin_end) {
      const uint64_t now = generation.load(std::memory_order_acquire);
      if (now != seen) return now;
    }
    std::unique_lock lock(mutex);
    wake.wait(lock, [&] { return generation.load(std::memory_order_acquire) != seen; });
    return generation.load(std::memory_order_acquire);
  }

  void thread_main(int worker) {
    uint64_t seen = 0;
    for (;;) {
      seen = wait_for_change(seen);
      if (stop.load(std::memory_order_acquire)) return;
      work(worker);
      running.fetch_sub(1, std::memory_order_acq_rel);
    }
  }
};

ThreadPool::ThreadPool(int threads) : state_(std::make_unique<State>()) {
  if (threads < 0) throw InvalidArgument("threads must be 0 (one per core) or more");
  if (threads == 0) threads = static_cast<int>(std::thread::hardware_concurrency());
  for (int worker = 1; worker < threads; ++worker)
    state_->threads.emplace_back([state = state_.get(), worker] { state->thread_main(worker); });
}

ThreadPool::~ThreadPool() {
  {
    std::lock_guard lock(state_->mutex);
    state_->stop.store(true, std::memory_order_release);
    state_->generation.fetch_add(1, std::memory_order_acq_rel);
  }
  state_->wake.notify_all();
  for (auto& thread : state_->threads) thread.join();
}

int ThreadPool::size() const noexcept { return static_cast<int>(state_->threads.size()) + 1; }

void ThreadPool::run_erased(int tasks, Call call, void* context) {
  if (tasks <= 1 || state_->threads.empty()) {
    for (int task = 0; task < tasks; ++task) call(context, task, 0);
    return;
  }
  State& s = *state_;
  s.tasks = tasks;
  s.call = call;
  s.context = context;
  s.failure = nullptr;
  s.next_task.store(0, std::memory_order_relaxed);
  s.running.store(static_cast<int>(s.threads.size()), std::memory_order_relaxed);
  {
    std::lock_guard lock(s.mutex);
    s.generation.fetch_add(1, std::memory_order_acq_rel);
  }
  s.wake.notify_all();
  s.work(0);
  while (s.running.load(std::memory_order_acquire) != 0) std::this_thread::yield();
  if (s.failure) std::rethrow_exception(s.failure);
}

}  // namespace thermoe
