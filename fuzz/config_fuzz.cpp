// config.json and generation_config.json from any bytes; a newline followed by '#' parts the two.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "model/config_parser.h"
#include "thermoe/error.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const size_t cut = text.find("\n#");
  const std::string_view generation =
      cut == std::string_view::npos ? std::string_view() : text.substr(cut + 2);
  try {
    const auto c =
        thermoe::parse_model_config(text.substr(0, cut), "fuzz.json", generation, "g.json");
    // What the runtime relies on.
    const bool sound = c.vocab_size > 0 && c.hidden_size > 0 && c.inter_size > 0 &&
                       c.expert_inter_size > 0 && c.layers > 0 && c.kv_heads > 0 &&
                       c.heads % c.kv_heads == 0 && c.head_dim > 0 && c.head_dim % 2 == 0 &&
                       c.top_k > 0 && c.top_k <= c.experts && c.rope_theta > 0 &&
                       c.rms_norm_eps > 0 && c.clip_qkv >= 0 && c.max_positions > 0 &&
                       c.sparse.size() == static_cast<size_t>(c.layers);
    if (!sound) std::abort();
    for (const int32_t id : c.eos_token_ids) {
      if (id < 0 || id >= c.vocab_size) std::abort();
    }
  } catch (const thermoe::IoError&) {  // the one way to refuse a file
  }
  return 0;
}
