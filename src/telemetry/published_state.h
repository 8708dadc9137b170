// PublishedState: one writer hands HardwareStates to any number of readers without a lock.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>

#include "thermoe/hardware_state.h"

namespace thermoe {

// A ring of slots, each a seqlock, and the number of the newest one. The writer fills the slot
// after the newest, so a reader disturbs nobody and retries only where kSlots - 1 states were
// published while it copied one: a writer interrupted half-way keeps nobody waiting.
//
// The words are atomics and the order comes from acquire and release on them instead of fences,
// which ThreadSanitizer does not model (H. Boehm, "Can seqlocks get along with programming language
// memory models?", MSPC 2012, section 4); on x86-64 they are plain loads and stores.
class PublishedState {
 public:
  PublishedState() { write(0, HardwareState{}); }

  // One thread at a time.
  void publish(const HardwareState& state) noexcept {
    write(newest_.load(std::memory_order_relaxed) + 1, state);
  }

  // Any thread.
  HardwareState read() const noexcept {
    std::array<uint64_t, kWords> words;
    for (;;) {
      const uint64_t number = newest_.load(std::memory_order_acquire);
      const Slot& slot = slots_[number % kSlots];
      if (slot.version.load(std::memory_order_acquire) != complete(number)) continue;
      load(slot, words, std::make_index_sequence<kWords>{});
      if (slot.version.load(std::memory_order_relaxed) == complete(number)) break;
    }
    HardwareState state;
    std::memcpy(static_cast<void*>(&state), words.data(), sizeof state);
    return state;
  }

 private:
  static constexpr size_t kSlots = 4;
  static constexpr size_t kWords = sizeof(HardwareState) / sizeof(uint64_t);
  static_assert(sizeof(HardwareState) % sizeof(uint64_t) == 0);
  static_assert(std::atomic<uint64_t>::is_always_lock_free);

  struct alignas(64) Slot {  // 64: a cache line
    std::atomic<uint64_t> version{0};
    std::array<std::atomic<uint64_t>, kWords> words{};
  };

  // Without a loop: compilers don't unroll one of atomics, and it takes 40 ns instead of 25.
  template <size_t... kIndex>
  static void load(const Slot& slot, std::array<uint64_t, kWords>& words,
                   std::index_sequence<kIndex...> /*indices*/) noexcept {
    ((words[kIndex] = slot.words[kIndex].load(std::memory_order_acquire)), ...);
  }

  // A slot's version: even where it holds that state, odd while it is being written.
  static constexpr uint64_t complete(uint64_t number) { return 2 * number + 2; }

  void write(uint64_t number, const HardwareState& state) noexcept {
    std::array<uint64_t, kWords> words;
    std::memcpy(words.data(), &state, sizeof state);
    Slot& slot = slots_[number % kSlots];
    slot.version.store(complete(number) - 1, std::memory_order_relaxed);
    for (size_t i = 0; i < kWords; ++i) slot.words[i].store(words[i], std::memory_order_release);
    slot.version.store(complete(number), std::memory_order_release);
    newest_.store(number, std::memory_order_release);
  }

  std::array<Slot, kSlots> slots_;
  std::atomic<uint64_t> newest_{0};
};

}  // namespace thermoe
