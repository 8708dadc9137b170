// Ctrl-C as a flag.
#pragma once

#include <csignal>

namespace thermoe::app {

// From construction to destruction SIGINT only raises the flag. One at a time.
class Interrupt {
 public:
  Interrupt() : before_(std::signal(SIGINT, [](int) { raised_ = 1; })) {}
  ~Interrupt() {
    std::signal(SIGINT, before_);
    raised_ = 0;
  }
  Interrupt(const Interrupt&) = delete;
  Interrupt& operator=(const Interrupt&) = delete;

  static bool raised() { return raised_ != 0; }

 private:
  inline static volatile std::sig_atomic_t raised_ = 0;
  void (*before_)(int);
};

}  // namespace thermoe::app
