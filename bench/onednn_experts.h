// SwiGLU experts by oneDNN's inner products, for comparison; in a build without oneDNN there are
// none.
#pragma once

#include <cstdint>
#include <memory>

namespace thermoe {

class OneDnnExperts {
 public:
  virtual ~OneDnnExperts() = default;
  // Expert `expert` on its own random rows, on the calling thread; `worker` has its own buffers.
  virtual void run(int expert, int worker) = 0;
};

struct OneDnnShape {
  int experts = 0, workers = 0;
  int64_t rows = 0, hidden = 0, inter = 0;
  bool bf16 = false;
};

// Weights in the layout that oneDNN prefers. Null where it has no such product on this machine.
std::unique_ptr<OneDnnExperts> make_onednn_experts(const OneDnnShape& shape);

}  // namespace thermoe
