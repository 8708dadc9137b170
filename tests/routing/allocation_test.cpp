// Planning allocates nothing in the steady state: counted by replacing the global operator new.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <new>
#include <vector>

#include "brute_force.h"
#include "thermoe/adaptive_router.h"

namespace {

std::atomic<int64_t> allocations{0};

void* counted(size_t size) {
  ++allocations;
  if (void* memory = std::malloc(size == 0 ? 1 : size)) return memory;
  throw std::bad_alloc();
}

}  // namespace

void* operator new(size_t size) { return counted(size); }
void* operator new[](size_t size) { return counted(size); }
// Library code asks for temporary buffers in this way.
void* operator new(size_t size, const std::nothrow_t&) noexcept {
  ++allocations;
  return std::malloc(size == 0 ? 1 : size);
}
void* operator new[](size_t size, const std::nothrow_t&) noexcept {
  ++allocations;
  return std::malloc(size == 0 ? 1 : size);
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, size_t) noexcept { std::free(memory); }

namespace thermoe {
namespace {

// Batches of one shape and different content: after a round through the first half nothing is
// allocated for the second.
int64_t allocations_in_steady_state(RoutingRequest request, int tokens, int experts,
                                    bool warm_start = false) {
  std::vector<ScoreBatch> batches;
  for (uint32_t seed = 0; seed < 60; ++seed)
    batches.push_back(random_scores(tokens, experts, seed));
  AdaptiveRouter router({.warm_start = warm_start});
  RoutingPlan plan;
  const auto route = [&](size_t from, size_t to) {
    for (size_t n = from; n < to; ++n) {
      request.scores = batches[n].view();
      router.route(request, plan);
    }
  };
  route(0, 40);
  const int64_t before = allocations;
  route(40, 60);
  return allocations - before;
}

TEST(Allocation, CountsWhatIsAllocated) {
  const int64_t before = allocations;
  std::vector<int> memory(100);
  EXPECT_EQ(allocations, before + 1) << memory.size();
}

TEST(Allocation, NoneAtGivenPrices) {
  const ExpertPrices prices = ExpertPrices::uniform(64, 0.05f, 0.002f);
  RoutingRequest request;
  request.k = 8;
  request.prices = &prices;
  EXPECT_EQ(allocations_in_steady_state(request, 16, 64), 0);
  request.min_k = 4;
  EXPECT_EQ(allocations_in_steady_state(request, 16, 64), 0);
}

TEST(Allocation, NoneForBudgets) {
  const ExpertPrices prices = ExpertPrices::uniform(32, 0.05f);
  RoutingRequest request;
  request.k = 4;
  request.prices = &prices;
  request.goal = RoutingGoal{RoutingGoal::Kind::kLeastCost, 0.95};
  EXPECT_EQ(allocations_in_steady_state(request, 8, 32), 0);
  request.goal = RoutingGoal{RoutingGoal::Kind::kBestQuality, 0.7};
  EXPECT_EQ(allocations_in_steady_state(request, 8, 32), 0);
  EXPECT_EQ(allocations_in_steady_state(request, 8, 32, /*warm_start=*/true), 0);
}

TEST(Allocation, NoneWithVariantsDevicesAndCapacities) {
  std::mt19937 random(3);
  const CaseKinds kinds{.variants = true, .devices = true, .capacities = false};
  ExpertLayout layout = random_layout(kinds, 24, 8, 4, random);
  layout.capacity.assign(layout.instances.size(), 3);
  const ExpertPrices prices = random_prices(layout, true, random);
  RoutingRequest request;
  request.k = 4;
  request.prices = &prices;
  request.layout = &layout;
  EXPECT_EQ(allocations_in_steady_state(request, 8, 24), 0);
  EXPECT_EQ(allocations_in_steady_state(request, 8, 24, /*warm_start=*/true), 0);
}

}  // namespace
}  // namespace thermoe
