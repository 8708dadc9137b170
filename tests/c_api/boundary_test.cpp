// Statuses, words and versioned structs.
#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <thread>

#include "as_c.h"
#include "thermoe/c_api.h"
#include "thermoe/error.h"
#include "thermoe/routing_policies.h"
#include "thermoe/version.h"

namespace thermoe {
namespace {

thermoe_router_options small_router() {
  thermoe_router_options options{};
  options.struct_size = sizeof(options);
  options.experts = 4;
  options.k = 2;
  return options;
}

// Bytes after the struct that the library knows, as a newer caller has them.
struct NewerOptions {
  thermoe_router_options known = small_router();
  uint64_t unknown = 0;
};

TEST(CApi, TellsItsVersionAndItsStatuses) {
  EXPECT_STREQ(thermoe_version(), kVersion);
  EXPECT_STREQ(thermoe_status_name(THERMOE_OK), "ok");
  for (thermoe_status status = THERMOE_OK; status <= THERMOE_INTERNAL_ERROR; ++status)
    EXPECT_STRNE(thermoe_status_name(status), "unknown status") << status;
  EXPECT_STREQ(thermoe_status_name(99), "unknown status");
  EXPECT_STREQ(thermoe_status_name(-1), "unknown status");
}

TEST(CApi, CSeesTheSameStructs) {
  EXPECT_EQ(c_size_of_batch(), sizeof(thermoe_batch));
  EXPECT_EQ(c_size_of_device_batch(), sizeof(thermoe_device_batch));
  int32_t ids[4] = {};
  thermoe_report report;
  ASSERT_EQ(route_in_c(ids, &report), THERMOE_OK) << thermoe_last_error();
  EXPECT_EQ(ids[0], 0);
  EXPECT_EQ(ids[1], 1);
  EXPECT_EQ(ids[2], 2);
  EXPECT_EQ(ids[3], 1);
  EXPECT_EQ(report.distinct_experts, 3);
  EXPECT_EQ(report.used_pairs, 4);
}

TEST(CApi, ErrorsKeepTheirWordsAndKind) {
  std::string words;
  try {
    make_routing_policy("nonsense");
  } catch (const InvalidArgument& error) {
    words = error.what();
  }
  ASSERT_FALSE(words.empty());
  thermoe_router_options options = small_router();
  options.policy = "nonsense";
  thermoe_router* router = reinterpret_cast<thermoe_router*>(&options);
  EXPECT_EQ(thermoe_router_create(&options, &router), THERMOE_INVALID_ARGUMENT);
  EXPECT_EQ(router, nullptr);
  EXPECT_EQ(thermoe_last_error(), words);
  // A call that succeeds leaves them.
  options.policy = nullptr;
  ASSERT_EQ(thermoe_router_create(&options, &router), THERMOE_OK);
  thermoe_router_close(router);
  EXPECT_EQ(thermoe_last_error(), words);

  thermoe_monitor_options missing{};
  missing.struct_size = sizeof(missing);
  missing.source = "replay:no/such/trace.csv";
  thermoe_monitor* monitor = nullptr;
  EXPECT_EQ(thermoe_monitor_open(&missing, &monitor), THERMOE_IO_ERROR);
  EXPECT_EQ(std::string(thermoe_last_error()).rfind("no/such/trace.csv", 0), 0u);
}

TEST(CApi, EachThreadHasItsOwnWords) {
  EXPECT_EQ(thermoe_router_create(nullptr, nullptr), THERMOE_INVALID_ARGUMENT);
  const std::string mine = thermoe_last_error();
  EXPECT_NE(mine, "");
  std::string before, after;
  std::thread([&] {
    before = thermoe_last_error();
    thermoe_monitor_start(nullptr);
    after = thermoe_last_error();
  }).join();
  EXPECT_EQ(before, "");
  EXPECT_EQ(after, "monitor is a null pointer");
  EXPECT_EQ(thermoe_last_error(), mine);
}

TEST(CApi, AnOlderCallersStructTakesDefaults) {
  thermoe_router_options options = small_router();
  // Up to and with k; what lies behind is not the struct's.
  options.struct_size = offsetof(thermoe_router_options, min_k);
  options.min_k = -7;
  options.layout = reinterpret_cast<const thermoe_layout*>(1);
  options.policy = reinterpret_cast<const char*>(1);
  thermoe_router* router = nullptr;
  ASSERT_EQ(thermoe_router_create(&options, &router), THERMOE_OK) << thermoe_last_error();
  const float scores[4] = {0.1f, 0.2f, 0.3f, 0.4f};
  thermoe_batch batch{};
  batch.struct_size = sizeof(batch);
  batch.scores = scores;
  batch.tokens = 1;
  thermoe_plan plan{};
  plan.struct_size = sizeof(plan);
  // An older caller's report: the library writes no byte beyond it.
  thermoe_report report;
  std::memset(&report, 0x5A, sizeof(report));
  report.struct_size = offsetof(thermoe_report, utility);
  ASSERT_EQ(thermoe_router_plan(router, &batch, &plan, &report), THERMOE_OK)
      << thermoe_last_error();
  EXPECT_EQ(report.struct_size, offsetof(thermoe_report, utility));
  EXPECT_EQ(report.distinct_experts, 2);
  unsigned char byte = 0;
  std::memcpy(&byte, &report.utility, 1);
  EXPECT_EQ(byte, 0x5A);
  thermoe_router_close(router);
}

TEST(CApi, ANewerCallersUnknownFieldsMustBeZero) {
  NewerOptions newer;
  newer.known.struct_size = sizeof(newer);
  thermoe_router* router = nullptr;
  ASSERT_EQ(thermoe_router_create(&newer.known, &router), THERMOE_OK) << thermoe_last_error();
  thermoe_router_close(router);
  newer.unknown = 1;
  EXPECT_EQ(thermoe_router_create(&newer.known, &router), THERMOE_INVALID_ARGUMENT);
  EXPECT_NE(std::string(thermoe_last_error()).find("a field is set that thermoe"),
            std::string::npos);
}

TEST(CApi, AbsurdStructSizesAreRefused) {
  for (const size_t size : {size_t{0}, size_t{8}, size_t{15}, sizeof(thermoe_router_options) + 1,
                            size_t{4097}, SIZE_MAX}) {
    thermoe_router_options options = small_router();
    options.struct_size = size;
    thermoe_router* router = nullptr;
    EXPECT_EQ(thermoe_router_create(&options, &router), THERMOE_INVALID_ARGUMENT) << size;
    EXPECT_EQ(router, nullptr);
    EXPECT_NE(std::string(thermoe_last_error()).find("struct_size is"), std::string::npos);
  }
}

TEST(CApi, NullPointersGiveAStatus) {
  EXPECT_EQ(thermoe_monitor_open(nullptr, nullptr), THERMOE_INVALID_ARGUMENT);
  EXPECT_EQ(thermoe_monitor_poll(nullptr, nullptr), THERMOE_INVALID_ARGUMENT);
  EXPECT_EQ(thermoe_monitor_state(nullptr, nullptr), THERMOE_INVALID_ARGUMENT);
  EXPECT_EQ(thermoe_monitor_stop(nullptr), THERMOE_INVALID_ARGUMENT);
  EXPECT_EQ(thermoe_monitor_advance_twin(nullptr, nullptr, 1), THERMOE_INVALID_ARGUMENT);
  EXPECT_EQ(thermoe_monitor_set_twin(nullptr, nullptr), THERMOE_INVALID_ARGUMENT);
  EXPECT_EQ(thermoe_monitor_source(nullptr), nullptr);
  EXPECT_EQ(thermoe_hardware_state_missing(nullptr), THERMOE_INVALID_ARGUMENT);
  EXPECT_EQ(thermoe_cost_model_open(nullptr, nullptr), THERMOE_INVALID_ARGUMENT);
  EXPECT_EQ(thermoe_cost_model_layer(nullptr, 1, 1, 1, nullptr, nullptr), THERMOE_INVALID_ARGUMENT);
  EXPECT_EQ(thermoe_cost_model_surrogate(nullptr, 1, nullptr, nullptr), THERMOE_INVALID_ARGUMENT);
  EXPECT_EQ(thermoe_layout_create(nullptr, nullptr), THERMOE_INVALID_ARGUMENT);
  EXPECT_EQ(thermoe_layout_instances(nullptr), 0);
  EXPECT_EQ(thermoe_governor_create(nullptr, nullptr, nullptr), THERMOE_INVALID_ARGUMENT);
  EXPECT_EQ(thermoe_governor_set_limits(nullptr, nullptr), THERMOE_INVALID_ARGUMENT);
  EXPECT_EQ(thermoe_governor_update(nullptr, nullptr, 1, 1, nullptr), THERMOE_INVALID_ARGUMENT);
  EXPECT_EQ(thermoe_governor_prices(nullptr, nullptr, nullptr, 1, nullptr, nullptr),
            THERMOE_INVALID_ARGUMENT);
  EXPECT_EQ(thermoe_router_plan(nullptr, nullptr, nullptr, nullptr), THERMOE_INVALID_ARGUMENT);
  EXPECT_EQ(thermoe_router_k(nullptr), 0);
  EXPECT_EQ(thermoe_experts_create(nullptr, nullptr), THERMOE_INVALID_ARGUMENT);
  EXPECT_EQ(thermoe_experts_forward(nullptr, nullptr), THERMOE_INVALID_ARGUMENT);
  EXPECT_EQ(thermoe_experts_bytes(nullptr, nullptr, nullptr), THERMOE_INVALID_ARGUMENT);
  EXPECT_EQ(thermoe_experts_errors(nullptr, nullptr, nullptr), THERMOE_INVALID_ARGUMENT);
  thermoe_monitor_close(nullptr);
  thermoe_cost_model_close(nullptr);
  thermoe_layout_close(nullptr);
  thermoe_governor_close(nullptr);
  thermoe_router_close(nullptr);
  thermoe_experts_close(nullptr);
}

TEST(CApi, RoutingOnAStreamSaysWhereThereIsNoCuda) {
  thermoe_device_batch batch{};
  batch.struct_size = sizeof(batch);
  size_t bytes = 0;
  const thermoe_status expected =
      thermoe_has_cuda() != 0 ? THERMOE_INVALID_ARGUMENT : THERMOE_NO_CUDA;
  EXPECT_EQ(thermoe_route_on_stream(&batch, nullptr), expected);
  EXPECT_NE(std::string(thermoe_last_error()), "");
  EXPECT_EQ(thermoe_route_workspace_bytes(&batch, &bytes), expected);
}

}  // namespace
}  // namespace thermoe
