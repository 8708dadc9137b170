// SimpleExpert: one SwiGLU feed-forward block in the checkpoint's own precision.
#pragma once

#include "thermoe/views.h"

namespace thermoe {

// y = down(silu(gate(x)) * up(x)). Holds views of the checkpoint's weights, no copy; the checkpoint
// must outlive it. Immutable: run() may be called from several threads at once.
class SimpleExpert {
 public:
  // gate, up: [intermediate, hidden]; down: [hidden, intermediate]; all of one dtype.
  // Throws InvalidArgument where the shapes or dtypes disagree or a view is empty.
  SimpleExpert(const WeightView& gate, const WeightView& up, const WeightView& down);

  int64_t hidden_size() const { return gate_.cols; }
  int64_t inter_size() const { return gate_.rows; }
  DType dtype() const { return gate_.dtype; }
  const WeightView& gate() const { return gate_; }
  const WeightView& up() const { return up_; }
  const WeightView& down() const { return down_; }
  size_t weight_bytes() const { return gate_.bytes() + up_.bytes() + down_.bytes(); }
  // Floats of scratch that run() needs for `rows` rows.
  size_t scratch_floats(int64_t rows) const;

  // out[r] = expert(x[r]) for dense rows: x [m, hidden] f32, out [m, hidden] f32 (overwritten; may
  // not overlap x), scratch of scratch_floats(m) floats. f32 accumulation, on the calling thread.
  // Throws InvalidArgument where x or out have another width or number of rows.
  void run(ConstMatrix x, Matrix out, float* scratch) const;

 private:
  WeightView gate_, up_, down_;
};

}  // namespace thermoe
