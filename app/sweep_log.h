// The samples of a sweep on disk: a table of measured kernels (cost/measured_table.h) with more
// columns.
#pragma once

#include <string>
#include <vector>

#include "line_log.h"
#include "sweep.h"

namespace thermoe::app {

// A log holds the samples of one device, driver, version of the program and number of threads.
class SweepLog {
 public:
  // Opens or makes the file and reads its samples. Throws IoError: it cannot be opened, another
  // process has it, it is no such log, or it is of another device, driver, version or number of
  // threads than `backend`.
  SweepLog(const std::string& path, const SweepBackend& backend);

  const std::string& path() const { return log_.path(); }
  const std::vector<SweepRow>& rows() const { return rows_; }
  // Whether a sample of the row's point is there that wasn't throttled.
  bool done(const SweepRow& row) const;
  // Throws IoError.
  void append(const SweepRow& row);

 private:
  void read(const SweepBackend& backend);

  LineLog log_;
  std::vector<SweepRow> rows_;
};

}  // namespace thermoe::app
