// QuantizedExpert: one SwiGLU feed-forward block stored once, run in int8 or in int4.
#pragma once

#include "thermoe/nested_view.h"
#include "thermoe/views.h"

namespace thermoe {

// y = down(silu(gate(x)) * up(x)) over nested planes (nested_view.h). Holds views, no copy: what
// they look at must outlive it. Immutable: run() may be called from several threads at once.
//
// gate_up is one matrix whose 32-row blocks hold 16 units each: rows 0..7 of a block the gate of
// units 0..7, rows 8..15 their up, rows 16..23 the gate of units 8..15, rows 24..31 their up. So a
// GPU thread's accumulators of rows g and g + 8 are gate and up of one unit.
class QuantizedExpert {
 public:
  // gate_up: [2 * intermediate padded to 16 units, hidden]; down: [hidden, intermediate].
  // Throws InvalidArgument where shapes disagree, a view is empty, a plane_ratio is outside [1, 16]
  // or a base is not finite and positive.
  QuantizedExpert(const NestedView& gate_up, const NestedView& down);

  int64_t hidden_size() const { return gate_up_.cols; }
  int64_t inter_size() const { return down_.cols; }
  const NestedView& gate_up() const { return gate_up_; }
  const NestedView& down() const { return down_; }
  // Bytes that run() reads of the weights.
  size_t weight_bytes(Planes planes) const { return gate_up_.bytes(planes) + down_.bytes(planes); }
  // Bytes of scratch, aligned to 64, that run() needs for `rows` rows.
  size_t scratch_bytes(int64_t rows) const;

  // out[r] = expert(x[r]) for dense rows: x [m, hidden] f32, finite; out [m, hidden] f32
  // (overwritten; may not overlap x). The inputs of both products are quantised to int8 in groups
  // of 32 values; products of integers are exact, their sums over groups f32. On the calling
  // thread. Throws InvalidArgument where x or out have another width or number of rows.
  void run(ConstMatrix x, Planes planes, Matrix out, std::byte* scratch) const;

 private:
  NestedView gate_up_, down_;
};

}  // namespace thermoe
