// A fork-join pool for the CPU runtime: a parallel region costs microseconds, as a decode step has
// dozens of them.
#pragma once

#include <memory>
#include <type_traits>

namespace thermoe {

// Thread-safety: one region at a time; run() is called by one thread (the owner), never from inside
// a region. Tasks of a region run on the pool's threads and the caller's.
class ThreadPool {
 public:
  // threads: how many run a region, the caller included; 0 means one per hardware thread. Where the
  // system grants fewer, the pool has those (size() tells). Throws InvalidArgument where negative.
  explicit ThreadPool(int threads = 0);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const noexcept;

  // Calls body(task, worker) for every task in [0, tasks); worker in [0, size()) is the thread's
  // number, for scratch of its own. No two tasks run at once under one worker number. Tasks are
  // handed out dynamically, in order. Returns when all are done, without waiting for threads that
  // had no part in it. Rethrows the first exception that a task threw; tasks after that one may or
  // may not have run.
  template <typename Body>
  void run(int tasks, Body&& body) {
    using Plain = std::remove_reference_t<Body>;
    run_erased(
        tasks,
        [](void* context, int task, int worker) { (*static_cast<Plain*>(context))(task, worker); },
        const_cast<void*>(static_cast<const void*>(&body)));
  }

 private:
  using Call = void (*)(void* context, int task, int worker);
  void run_erased(int tasks, Call call, void* context);

  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace thermoe
