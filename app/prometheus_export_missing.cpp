// Stands in for prometheus_export.cpp where prometheus-cpp or cpp-httplib was not found at build
// time.
#include <fmt/format.h>

#include "prometheus_export.h"
#include "thermoe/error.h"

namespace thermoe::app {

struct PrometheusExport::Impl {};

// NOLINTNEXTLINE(performance-unnecessary-value-param): the signature of the one that serves
PrometheusExport::PrometheusExport(const std::string& address, std::vector<ExportedDevice>) {
  throw InvalidArgument(fmt::format(
      "--prometheus {}: this build can't serve it; install prometheus-cpp and cpp-httplib (Debian: "
      "prometheus-cpp-dev, libcpp-httplib-dev) and build again",
      address));
}
PrometheusExport::~PrometheusExport() = default;
int PrometheusExport::port() const { return 0; }
bool PrometheusExport::available() { return false; }

}  // namespace thermoe::app
