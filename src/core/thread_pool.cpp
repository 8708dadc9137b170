#include "thermoe/thread_pool.h"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "thermoe/error.h"

namespace thermoe {
namespace {

// How long an idle thread spins before it sleeps: regions of one decode step follow each other
// within this, and waking a sleeper costs more.
constexpr auto kSpin = std::chrono::microseconds(50);

// A region's number and how many of its tasks nobody has taken yet, in one word: a task is taken by
// one compare-and-swap that fails once the region is over.
using Ticket = uint64_t;
constexpr Ticket ticket_of(uint32_t region, uint32_t left) { return Ticket{region} << 32 | left; }
constexpr uint32_t region_of(Ticket ticket) { return static_cast<uint32_t>(ticket >> 32); }
constexpr uint32_t left_of(Ticket ticket) { return static_cast<uint32_t>(ticket); }

}  // namespace

// A region ends when its tasks are done, not when every thread has been there: a thread that the
// system woke late, or not at all, holds nobody up. Such a latecomer may read the region's fields
// while the owner writes the next one's; they are atomic for that, and what it read is used only
// after its swap succeeded. That proves it current: the swap takes a task that was left, so the
// region was not over, and the owner writes the fields only when it is.
struct ThreadPool::State {
  std::vector<std::thread> threads;
  std::mutex mutex;
  std::condition_variable wake;
  std::atomic<Ticket> ticket{0};
  std::atomic<int> unfinished{0};  // tasks of the region not yet done
  std::atomic<int> tasks{0};
  std::atomic<Call> call{nullptr};
  std::atomic<void*> context{nullptr};
  std::exception_ptr failure;  // guarded by mutex until the region is over
  bool stop = false;           // guarded by mutex

  // Takes tasks until none is left; returns the last ticket seen.
  Ticket work(int worker) {
    Ticket seen = ticket.load(std::memory_order_acquire);
    while (left_of(seen) != 0) {
      const int task = tasks.load(std::memory_order_relaxed) - static_cast<int>(left_of(seen));
      const Call body = call.load(std::memory_order_relaxed);
      void* const argument = context.load(std::memory_order_relaxed);
      if (!ticket.compare_exchange_weak(seen, seen - 1, std::memory_order_acq_rel,
                                        std::memory_order_acquire))
        continue;
      try {
        body(argument, task, worker);
      } catch (...) {  // kept for the caller, who rethrows it
        const std::lock_guard lock(mutex);
        if (!failure) failure = std::current_exception();
      }
      unfinished.fetch_sub(1, std::memory_order_acq_rel);
      seen = ticket.load(std::memory_order_acquire);
    }
    return seen;
  }

  // Returns when a region other than `region` has begun (true) or the pool is to end (false).
  bool wait_for_other(uint32_t region) {
    const auto begun = [&] { return region_of(ticket.load(std::memory_order_acquire)) != region; };
    const auto spin_end = std::chrono::steady_clock::now() + kSpin;
    do {
      if (begun()) return true;
    } while (std::chrono::steady_clock::now() < spin_end);
    std::unique_lock lock(mutex);
    wake.wait(lock, [&] { return stop || begun(); });
    return !stop;
  }

  void thread_main(int worker) {
    uint32_t region = 0;
    while (wait_for_other(region)) region = region_of(work(worker));
  }

  ~State() {
    {
      const std::lock_guard lock(mutex);
      stop = true;
    }
    wake.notify_all();
    for (auto& thread : threads) thread.join();
  }
};

ThreadPool::ThreadPool(int threads) : state_(std::make_unique<State>()) {
  if (threads < 0) throw InvalidArgument("threads must be 0 (one per hardware thread) or more");
  if (threads == 0) threads = static_cast<int>(std::thread::hardware_concurrency());
  try {
    for (int worker = 1; worker < threads; ++worker)
      state_->threads.emplace_back([state = state_.get(), worker] { state->thread_main(worker); });
  } catch (const std::system_error&) {
    // The system grants no more threads (a container's limit): those it granted do the work.
  }
}

ThreadPool::~ThreadPool() = default;

int ThreadPool::size() const noexcept { return static_cast<int>(state_->threads.size()) + 1; }

void ThreadPool::run_erased(int tasks, Call call, void* context) {
  if (tasks <= 1 || state_->threads.empty()) {
    for (int task = 0; task < tasks; ++task) call(context, task, 0);
    return;
  }
  State& s = *state_;
  s.failure = nullptr;
  s.unfinished.store(tasks, std::memory_order_relaxed);
  s.tasks.store(tasks, std::memory_order_relaxed);
  s.call.store(call, std::memory_order_relaxed);
  s.context.store(context, std::memory_order_relaxed);
  {
    // Under the mutex, so that no thread goes to sleep between its last look and this.
    const std::lock_guard lock(s.mutex);
    const uint32_t region = region_of(s.ticket.load(std::memory_order_relaxed)) + 1;
    s.ticket.store(ticket_of(region, static_cast<uint32_t>(tasks)), std::memory_order_release);
  }
  s.wake.notify_all();
  s.work(0);
  while (s.unfinished.load(std::memory_order_acquire) != 0) std::this_thread::yield();
  if (s.failure) std::rethrow_exception(std::exchange(s.failure, nullptr));
}

}  // namespace thermoe
