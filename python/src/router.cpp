#include <mutex>
#include <optional>
#include <string>

#include "plan.h"

namespace thermoe::python {
namespace {

constexpr int64_t kMostTogether = 256;  // tokens of THERMOE_MODE_BATCH

int32_t gate_of(const std::string& name) {
  if (name == "none") return THERMOE_GATE_NONE;
  if (name == "softmax") return THERMOE_GATE_SOFTMAX;
  if (name == "sigmoid") return THERMOE_GATE_SIGMOID;
  throw nb::value_error(
      ("gate is '" + name + "': it must be 'none' (of probabilities), 'softmax' or 'sigmoid'")
          .c_str());
}

// What one call asks for, beside the scores.
struct Wishes {
  const Prices* prices = nullptr;
  nb::object out;
  std::string gate;
  int32_t layer = 0;
  std::optional<double> max_loss_frac, cost_budget;
  std::optional<uintptr_t> stream;
  nb::object workspace, bias;
};

class Router {
 public:
  Router(int32_t experts, int32_t k, int32_t min_k, const Layout* layout,
         const std::optional<std::string>& policy, bool renormalize)
      : experts_(experts),
        k_(k),
        devices_(layout != nullptr ? layout->devices : 1),
        laid_out_(layout != nullptr),
        renormalize_(renormalize),
        policy_(policy.value_or("adaptive")) {
    auto options = sized<thermoe_router_options>();
    options.experts = experts;
    options.k = k;
    options.min_k = min_k;
    options.keep_probabilities = renormalize ? 0 : 1;
    options.layout = layout != nullptr ? layout->get() : nullptr;
    options.policy = policy_.c_str();
    thermoe_router* handle = nullptr;
    check(thermoe_router_create(&options, &handle));
    handle_.reset(handle);
  }

  int32_t experts() const { return experts_; }
  int32_t k() const { return k_; }
  int32_t instances() const { return thermoe_router_instances(handle_.get()); }

  // The plan's object: what `out` is, or a new one.
  nb::object plan(nb::handle given, const Wishes& wishes) {
    Array scores(given, "scores", {Type::kF32, Type::kBf16}, 2);
    if (!scores) throw nb::type_error("scores: expected an array, got None");
    scores.expect_shape("scores", {-1, experts_});
    if (scores.size(1) > 1 && scores.stride(1) != 1)
      throw nb::value_error(("scores: expected the values of a row side by side, they are " +
                             std::to_string(scores.stride(1)) + " apart")
                                .c_str());
    if (scores.on_cuda() || wishes.stream) return plan_on_stream(scores, wishes);
    scores.expect_cpu("scores");
    return plan_on_cpu(scores, wishes);
  }

  size_t workspace_bytes(int32_t tokens) const {
    thermoe_device_batch batch = device_batch(tokens);
    static const float any = 0;  // not read: the size depends on shapes alone
    batch.scores = &any;
    size_t bytes = 0;
    check(thermoe_route_workspace_bytes(&batch, &bytes));
    return bytes;
  }

 private:
  nb::object plan_on_cpu(const Array& scores, const Wishes& wishes) {
    auto batch = sized<thermoe_batch>();
    batch.scores = scores.data<void>();
    batch.tokens = scores.rows();
    batch.row_stride = row_stride(scores);
    batch.score_type = scores.type() == Type::kBf16 ? THERMOE_BF16 : THERMOE_F32;
    batch.gate = gate_of(wishes.gate);
    batch.layer = wishes.layer;
    set_goal(wishes, batch);
    if (wishes.prices != nullptr) set_prices(*wishes.prices, batch);
    check_tokens(scores.rows());
    nb::object out = wishes.out;
    if (out.is_none())
      out = nb::cast(new Plan(scores.rows(), k_, instances()), nb::rv_policy::take_ownership);
    Plan& plan = nb::cast<Plan&>(out);
    auto record = sized<thermoe_plan>();
    record.slots = plan.expect(scores.rows(), k_, instances());
    plan.expect_cpu();
    record.ids = plan.ids.data<int32_t>();
    record.instances = plan.instances.data<int32_t>();
    record.weights = plan.weights.data<float>();
    record.changed = plan.changed.data<uint8_t>();
    record.offsets = plan.offsets.data<int32_t>();
    record.packed = plan.packed.data<int32_t>();
    auto report = sized<thermoe_report>();
    thermoe_status status = THERMOE_OK;
    {
      const nb::gil_scoped_release others_run;
      const std::lock_guard one_at_a_time(mutex_);
      status = thermoe_router_plan(handle_.get(), &batch, &record, &report);
    }
    check(status);
    plan.report = report;
    return out;
  }

  nb::object plan_on_stream(const Array& scores, const Wishes& wishes) {
    if (thermoe_has_cuda() == 0) {
      auto batch = sized<thermoe_device_batch>();
      check(thermoe_route_on_stream(&batch, nullptr));  // says so
    }
    scores.expect_cuda("scores", scores.device_id());
    if (!wishes.stream)
      throw nb::value_error(
          "scores are on a GPU: say on which stream to plan "
          "(stream=torch.cuda.current_stream().cuda_stream)");
    if (wishes.out.is_none())
      throw nb::value_error(
          "planning on a stream allocates nothing: give out=Plan(...) of arrays there");
    thermoe_device_batch batch = device_batch(scores.rows());
    batch.scores = scores.data<void>();
    batch.row_stride = row_stride(scores);
    batch.score_type = scores.type() == Type::kBf16 ? THERMOE_BF16 : THERMOE_F32;
    batch.gate = gate_of(wishes.gate);
    Plan& plan = nb::cast<Plan&>(wishes.out);
    set_device_arrays(scores, wishes, plan, batch);
    thermoe_status status = THERMOE_OK;
    {
      const nb::gil_scoped_release others_run;
      status = thermoe_route_on_stream(&batch, reinterpret_cast<void*>(*wishes.stream));
    }
    check(status);
    return wishes.out;
  }

  void set_device_arrays(const Array& scores, const Wishes& wishes, const Plan& plan,
                         thermoe_device_batch& batch) const {
    const int device = scores.device_id();
    if (plan.expect(scores.rows(), k_, experts_) != k_)
      throw nb::value_error("out: plans on a GPU have k slots a token");
    plan.expect_cuda(device);
    batch.ids = plan.ids.data<int32_t>();
    batch.plan_instances = plan.instances.data<int32_t>();
    batch.weights = plan.weights.data<float>();
    batch.changed = plan.changed.data<uint8_t>();
    batch.offsets = plan.offsets.data<int32_t>();
    batch.packed = plan.packed.data<int32_t>();
    batch.report = plan.device_report.data<thermoe_device_report>();
    const Array workspace(wishes.workspace, "workspace", {Type::kU8}, 1, /*writable=*/true);
    workspace.expect_cuda("workspace", device);
    workspace.expect_contiguous("workspace");
    batch.workspace = workspace.data<void>();
    batch.workspace_bytes = workspace ? static_cast<size_t>(workspace.rows()) : 0;
    const Array bias(wishes.bias, "bias", {Type::kF32}, 1);
    bias.expect_cuda("bias", device);
    bias.expect_shape("bias", {experts_});
    bias.expect_contiguous("bias");
    batch.bias = bias.data<float>();
    if (wishes.prices == nullptr) return;
    wishes.prices->expect(experts_, 1);
    wishes.prices->open.expect_cuda("open", device);
    wishes.prices->slope.expect_cuda("slope", device);
    batch.open = wishes.prices->open.data<float>();
    batch.slope = wishes.prices->slope.data<float>();
  }

  // What follows from the router and the number of tokens.
  thermoe_device_batch device_batch(int64_t tokens) const {
    if (laid_out_) raise_invalid("a router with a layout plans on the CPU alone, from Python");
    auto batch = sized<thermoe_device_batch>();
    batch.experts = experts_;
    batch.k = k_;
    batch.tokens = static_cast<int32_t>(std::min<int64_t>(tokens, INT32_MAX));
    batch.keep_probabilities = renormalize_ ? 0 : 1;
    if (policy_ == "adaptive")
      batch.mode = tokens <= kMostTogether ? THERMOE_MODE_BATCH : THERMOE_MODE_PER_TOKEN;
    else if (policy_ == "topk")
      batch.mode = THERMOE_MODE_TOP_K;
    else
      raise_invalid("policy '" + policy_ +
                    "' plans on the CPU alone: on a stream give adaptive or topk");
    return batch;
  }

  int64_t row_stride(const Array& scores) const {
    if (scores.rows() <= 1) return 0;
    const int64_t stride = scores.stride(0);
    if (stride == 0 && experts_ > 0)
      throw nb::value_error(
          "scores: all rows are one (expanded): give an array of its own for each");
    return stride;
  }

  // Before arrays of that size are made.
  void check_tokens(int64_t tokens) const {
    if (tokens < 1 || tokens > (1 << 20))
      raise_invalid("batch: tokens is " + std::to_string(tokens) + ": it must be 1 to 1048576");
  }

  void set_goal(const Wishes& wishes, thermoe_batch& batch) const {
    if (wishes.max_loss_frac && wishes.cost_budget)
      throw nb::value_error("give max_loss_frac or cost_budget, not both");
    if (wishes.max_loss_frac) {
      batch.goal = THERMOE_GOAL_LEAST_COST;
      batch.goal_limit = 1.0 - *wishes.max_loss_frac;
    } else if (wishes.cost_budget) {
      batch.goal = THERMOE_GOAL_BEST_QUALITY;
      batch.goal_limit = *wishes.cost_budget;
    }
  }

  void set_prices(const Prices& prices, thermoe_batch& batch) const {
    prices.expect(instances(), devices_);
    for (const Array* array : {&prices.open, &prices.slope, &prices.device_open,
                               &prices.device_slope, &prices.device_base})
      array->expect_cpu("prices");
    batch.open = prices.open.data<float>();
    batch.slope = prices.slope.data<float>();
    batch.device_open = prices.device_open.data<float>();
    batch.device_slope = prices.device_slope.data<float>();
    batch.device_base = prices.device_base.data<float>();
  }

  int32_t experts_, k_, devices_;
  bool laid_out_, renormalize_;
  std::string policy_;
  std::mutex mutex_;  // the GIL is released while a plan is made
  Handle<thermoe_router, thermoe_router_close> handle_;
};

nb::object plan(Router& router, nb::handle scores, const Prices* prices, nb::object out,
                std::string gate, int32_t layer, std::optional<double> max_loss_frac,
                std::optional<double> cost_budget, std::optional<uintptr_t> stream,
                nb::object workspace, nb::object bias) {
  if (!out.is_none() && !nb::isinstance<Plan>(out))
    throw nb::type_error("out: expected a thermoe.Plan");
  return router.plan(scores, {prices, std::move(out), std::move(gate), layer, max_loss_frac,
                              cost_budget, stream, std::move(workspace), std::move(bias)});
}

}  // namespace

void bind_router(nb::module_& m) {
  const auto none = nb::none();
  nb::class_<Router>(m, "Router")
      .def(nb::init<int32_t, int32_t, int32_t, const Layout*, const std::optional<std::string>&,
                    bool>(),
           nb::arg("experts"), nb::arg("k"), nb::kw_only(), nb::arg("min_k") = 0,
           nb::arg("layout") = none, nb::arg("policy") = none, nb::arg("renormalize") = true)
      .def("plan", plan, nb::arg("scores").none(), nb::arg("prices") = none, nb::kw_only(),
           nb::arg("out") = none, nb::arg("gate") = "none", nb::arg("layer") = 0,
           nb::arg("max_loss_frac") = none, nb::arg("cost_budget") = none, nb::arg("stream") = none,
           nb::arg("workspace") = none, nb::arg("bias") = none)
      .def("workspace_bytes", &Router::workspace_bytes, nb::arg("tokens"))
      .def_prop_ro("experts", &Router::experts)
      .def_prop_ro("k", &Router::k)
      .def_prop_ro("instances", &Router::instances);
}

}  // namespace thermoe::python
