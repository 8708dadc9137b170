#include "onednn_experts.h"

namespace thermoe {
std::unique_ptr<OneDnnExperts> make_onednn_experts(const OneDnnShape&) { return nullptr; }
}  // namespace thermoe
