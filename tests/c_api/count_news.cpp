#include "count_news.h"

#include <atomic>
#include <cstddef>
#include <cstdlib>
#include <new>

namespace thermoe::test {
namespace {

std::atomic<int64_t> news{0};

void* counted(size_t bytes, size_t alignment) {
  news.fetch_add(1, std::memory_order_relaxed);
  const size_t whole = (bytes + alignment - 1) / alignment * alignment;
  void* memory = std::aligned_alloc(alignment, whole > 0 ? whole : alignment);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

}  // namespace

int64_t news_so_far() { return news.load(std::memory_order_relaxed); }

}  // namespace thermoe::test

void* operator new(size_t bytes) {
  return thermoe::test::counted(bytes, alignof(std::max_align_t));
}
void* operator new(size_t bytes, std::align_val_t alignment) {
  return thermoe::test::counted(bytes, static_cast<size_t>(alignment));
}
// What sanitizers have of their own has to be replaced as well: theirs does not call the one above.
void* operator new(size_t bytes, const std::nothrow_t&) noexcept {
  try {
    return ::operator new(bytes);
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}
void operator delete(void* memory, const std::nothrow_t&) noexcept { std::free(memory); }
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, size_t, std::align_val_t) noexcept { std::free(memory); }
