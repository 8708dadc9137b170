// Ctrl-C as a flag.
#pragma once

#include <csignal>

namespace thermoe::app {

// From construction to destruction SIGINT only raises the flag. One at a time.
class Interrupt {
 public:
  Interrupt() : before_(std::signal(SIGINT, [](int) { flag = 1; })) {}
  ~Interrupt() {
    std::signal(SIGINT, before_);
    flag = 0;
  }
  Interrupt(const Interrupt&) = delete;
  Interrupt& operator=(const Interrupt&) = delete;

  static bool raised() { return flag != 0; }

 private:
  inline static volatile std::sig_atomic_t flag = 0;
  void (*before_)(int);
};

}  // namespace thermoe::app
