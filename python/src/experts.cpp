#include <mutex>

#include "arrays.h"

namespace thermoe::python {
namespace {

Array weights_of(nb::handle from, const char* name, std::initializer_list<int64_t> shape) {
  Array array(from, name, {Type::kF32}, 3);
  if (!array) throw nb::type_error((std::string(name) + ": expected an array, got None").c_str());
  array.expect_shape(name, shape);
  array.expect_cpu(name);
  array.expect_contiguous(name);
  return array;
}

// [tokens, hidden] with rows that lie side by side or farther apart.
int64_t row_stride(const Array& rows, const char* name, int64_t hidden) {
  if (rows.size(1) > 1 && rows.stride(1) != 1)
    throw nb::value_error(
        (std::string(name) + ": expected the values of a row side by side").c_str());
  if (rows.rows() <= 1) return 0;
  if (rows.stride(0) < hidden)
    throw nb::value_error(
        (std::string(name) + ": expected rows that do not overlap, in rising order").c_str());
  return rows.stride(0);
}

class QuantizedExperts {
 public:
  QuantizedExperts(nb::handle gate_in, nb::handle up_in, nb::handle down_in, int32_t threads) {
    const Array gate = weights_of(gate_in, "gate", {-1, -1, -1});
    experts_ = gate.size(0);
    hidden_ = gate.size(2);
    const Array up = weights_of(up_in, "up", {experts_, gate.size(1), hidden_});
    const Array down = weights_of(down_in, "down", {experts_, hidden_, gate.size(1)});
    if (experts_ > INT32_MAX) raise_invalid("gate: too many experts");
    auto options = sized<thermoe_experts_options>();
    options.gate = gate.data<float>();
    options.up = up.data<float>();
    options.down = down.data<float>();
    options.hidden_size = hidden_;
    options.inter_size = gate.size(1);
    options.experts = static_cast<int32_t>(experts_);
    options.threads = threads;
    thermoe_experts* handle = nullptr;
    thermoe_status status = THERMOE_OK;
    {
      const nb::gil_scoped_release others_run;
      status = thermoe_experts_create(&options, &handle);
    }
    check(status);
    handle_.reset(handle);
  }

  nb::object forward(nb::handle x_in, nb::handle ids_in, nb::handle weights_in, nb::handle int4_in,
                     nb::object out_in) {
    const Array x(x_in, "x", {Type::kF32}, 2), ids(ids_in, "ids", {Type::kI32}, 2),
        weights(weights_in, "weights", {Type::kF32}, 2), int4(int4_in, "int4", {Type::kU8}, 2);
    if (!x || !ids || !weights)
      throw nb::type_error("x, ids and weights: expected arrays, got None");
    const int64_t tokens = x.rows(), slots = ids.size(1);
    x.expect_shape("x", {-1, hidden_});
    for (const auto& [array, name] :
         {std::pair(&ids, "ids"), {&weights, "weights"}, {&int4, "int4"}}) {
      array->expect_shape(name, {tokens, slots});
      array->expect_contiguous(name);
      array->expect_cpu(name);
    }
    x.expect_cpu("x");
    if (out_in.is_none()) out_in = numpy_empty({tokens, hidden_}, "float32");
    const Array out(out_in, "out", {Type::kF32}, 2, /*writable=*/true);
    out.expect_shape("out", {tokens, hidden_});
    out.expect_cpu("out");
    auto batch = sized<thermoe_experts_batch>();
    batch.x = x.data<float>();
    batch.x_stride = row_stride(x, "x", hidden_);
    batch.ids = ids.data<int32_t>();
    batch.weights = weights.data<float>();
    batch.int4 = int4.data<uint8_t>();
    batch.out = out.data<float>();
    batch.out_stride = row_stride(out, "out", hidden_);
    batch.tokens = tokens;
    batch.slots = static_cast<int32_t>(std::min<int64_t>(slots, INT32_MAX));
    thermoe_status status = THERMOE_OK;
    {
      const nb::gil_scoped_release others_run;
      const std::lock_guard one_at_a_time(mutex_);
      status = thermoe_experts_forward(handle_.get(), &batch);
    }
    check(status);
    return out_in;
  }

  nb::tuple bytes() const {
    size_t int8 = 0, int4 = 0;
    check(thermoe_experts_bytes(handle_.get(), &int8, &int4));
    return nb::make_tuple(int8, int4);
  }
  nb::tuple errors() const {
    const nb::object int8 = numpy_empty({experts_}, "float32"),
                     int4 = numpy_empty({experts_}, "float32");
    const Array fine(int8, "int8", {Type::kF32}, 1, true),
        coarse(int4, "int4", {Type::kF32}, 1, true);
    check(thermoe_experts_errors(handle_.get(), fine.data<float>(), coarse.data<float>()));
    return nb::make_tuple(int8, int4);
  }
  int64_t experts() const { return experts_; }
  int64_t hidden_size() const { return hidden_; }

 private:
  int64_t experts_ = 0, hidden_ = 0;
  std::mutex mutex_;  // the GIL is released while they run
  Handle<thermoe_experts, thermoe_experts_close> handle_;
};

}  // namespace

void bind_experts(nb::module_& m) {
  const auto none = nb::none();
  nb::class_<QuantizedExperts>(m, "QuantizedExperts")
      .def(nb::init<nb::handle, nb::handle, nb::handle, int32_t>(), nb::arg("gate"), nb::arg("up"),
           nb::arg("down"), nb::kw_only(), nb::arg("threads") = 0)
      .def("forward", &QuantizedExperts::forward, nb::arg("x"), nb::arg("ids"), nb::arg("weights"),
           nb::kw_only(), nb::arg("int4") = none, nb::arg("out") = none)
      .def_prop_ro("bytes", &QuantizedExperts::bytes)
      .def_prop_ro("error_frac", &QuantizedExperts::errors)
      .def_prop_ro("experts", &QuantizedExperts::experts)
      .def_prop_ro("hidden_size", &QuantizedExperts::hidden_size);
}

}  // namespace thermoe::python
