#include "onednn_experts.h"

#include <omp.h>

#include <oneapi/dnnl/dnnl.hpp>
#include <optional>
#include <vector>

#include "kernels/cpu/rows.h"

namespace thermoe {
namespace {

using dnnl::memory;

// y [rows, outputs] f32 = x W^T, with x and W in `type`.
struct Product {
  Product(const dnnl::engine& engine, int64_t rows, int64_t outputs, int64_t cols,
          memory::data_type type)
      : descriptor(
            dnnl::inner_product_forward::desc(
                dnnl::prop_kind::forward_inference,
                memory::desc({rows, cols}, type, memory::format_tag::ab),
                memory::desc({outputs, cols}, type, memory::format_tag::any),
                memory::desc({rows, outputs}, memory::data_type::f32, memory::format_tag::ab)),
            engine),
        primitive(descriptor) {}
  memory weights(const dnnl::engine& engine) const {
    memory made(descriptor.weights_desc(), engine);
    auto* words = static_cast<uint16_t*>(made.get_data_handle());
    // As bf16 and as the upper halves of f32: about 0.01.
    const size_t count = descriptor.weights_desc().get_size() / 2;
    for (size_t i = 0; i < count; ++i)
      words[i] = static_cast<uint16_t>(0x3C20 + i % 7 + i % 2 * 0x8000);
    return made;
  }
  void run(dnnl::stream& stream, memory& x, memory& w, memory& y) const {
    primitive.execute(stream, {{DNNL_ARG_SRC, x}, {DNNL_ARG_WEIGHTS, w}, {DNNL_ARG_DST, y}});
    stream.wait();
  }

  dnnl::inner_product_forward::primitive_desc descriptor;
  dnnl::inner_product_forward primitive;
};

class Experts : public OneDnnExperts {
 public:
  explicit Experts(const OneDnnShape& shape)
      : shape_(shape),
        type_(shape.bf16 ? memory::data_type::bf16 : memory::data_type::f32),
        engine_(dnnl::engine::kind::cpu, 0),
        gate_up_(engine_, shape.rows, 2 * shape.inter, shape.hidden, type_),
        down_(engine_, shape.rows, shape.hidden, shape.inter, type_) {
    for (int expert = 0; expert < shape.experts; ++expert)
      weights_.push_back({gate_up_.weights(engine_), down_.weights(engine_)});
    for (int worker = 0; worker < shape.workers; ++worker) workers_.emplace_back(*this);
  }

  void run(int expert, int worker) override {
    omp_set_num_threads(1);  // of this thread: the benchmark's own threads share the work
    Worker& own = workers_[static_cast<size_t>(worker)];
    auto& [gate_up, down] = weights_[static_cast<size_t>(expert)];
    gate_up_.run(own.stream, own.x, gate_up, own.both);
    const float* both = static_cast<const float*>(own.both.get_data_handle());
    cpu::pack_swiglu(
        DType::kF32, ConstMatrix(both, shape_.rows, shape_.inter, 2 * shape_.inter),
        ConstMatrix(both + shape_.inter, shape_.rows, shape_.inter, 2 * shape_.inter),
        Matrix(static_cast<float*>(own.inner_f32.get_data_handle()), shape_.rows, shape_.inter));
    if (shape_.bf16) {
      dnnl::reorder(own.inner_f32, own.inner).execute(own.stream, own.inner_f32, own.inner);
      own.stream.wait();
    }
    down_.run(own.stream, shape_.bf16 ? own.inner : own.inner_f32, down, own.y);
  }

 private:
  struct Worker {
    explicit Worker(const Experts& e)
        : stream(e.engine_),
          x(e.gate_up_.descriptor.src_desc(), e.engine_),
          both(e.gate_up_.descriptor.dst_desc(), e.engine_),
          inner_f32(memory::desc({e.shape_.rows, e.shape_.inter}, memory::data_type::f32,
                                 memory::format_tag::ab),
                    e.engine_),
          inner(e.down_.descriptor.src_desc(), e.engine_),
          y(e.down_.descriptor.dst_desc(), e.engine_) {
      auto* words = static_cast<uint16_t*>(x.get_data_handle());
      for (size_t i = 0; i < e.gate_up_.descriptor.src_desc().get_size() / 2; ++i)
        words[i] = static_cast<uint16_t>(0x3F80 + i % 5);
    }
    dnnl::stream stream;
    memory x, both, inner_f32, inner, y;
  };
  struct Weights {
    memory gate_up, down;
  };

  OneDnnShape shape_;
  memory::data_type type_;
  dnnl::engine engine_;
  Product gate_up_, down_;
  std::vector<Weights> weights_;
  std::vector<Worker> workers_;
};

}  // namespace

std::unique_ptr<OneDnnExperts> make_onednn_experts(const OneDnnShape& shape) {
  try {
    return std::make_unique<Experts>(shape);
  } catch (const dnnl::error&) {  // oneDNN 2.6 multiplies bf16 from AVX-512 on
    return nullptr;
  }
}

}  // namespace thermoe
