// What ran in a recorded phase, told from its name (data/telemetry/works.json).
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "thermoe/digital_twin.h"

namespace thermoe::app {

struct TraceWork {
  bool idle = false;  // nothing ran; then `work` is empty
  CostEstimate work;  // one kernel of it, at the maximum clock; run back to back
};

class TraceWorks {
 public:
  // Throws IoError naming the file and the field.
  explicit TraceWorks(const std::filesystem::path& file);
  ~TraceWorks();
  // The work of a phase on that device; nothing where the name says none that is known. `phase` is
  // matched by its beginning, and the sizes that follow are read from it.
  std::optional<TraceWork> find(const std::string& phase, const TwinParameters& device) const;

 private:
  struct Entry;
  struct Entries;
  std::unique_ptr<Entries> entries_;
};

}  // namespace thermoe::app
