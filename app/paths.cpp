#include "paths.h"

#include <fmt/format.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <vector>

#include "thermoe/error.h"

namespace fs = std::filesystem;

namespace thermoe::app {

fs::path shipped(const std::string& relative) {
  std::vector<fs::path> roots;
  if (const char* home = std::getenv("THERMOE_HOME"); home != nullptr && *home != '\0') {
    roots.emplace_back(home);
  } else {
    std::error_code failed;
    const fs::path program = fs::read_symlink("/proc/self/exe", failed);
    const fs::path above = failed ? fs::path("..") : program.parent_path().parent_path();
    roots = {above, above / "share" / "thermoe"};
  }
  std::string tried;
  for (const fs::path& root : roots) {
    std::error_code ignored;
    if (fs::exists(root / relative, ignored)) return root / relative;
    tried += (tried.empty() ? "" : " and ") + root.string();
  }
  throw IoError(relative,
                fmt::format("not found below {}: set THERMOE_HOME to a thermoe checkout", tried));
}

std::string read_file(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw IoError(path.string(), "cannot be opened: check the name and its permissions");
  std::ostringstream content;
  content << file.rdbuf();
  if (file.bad() || fs::is_directory(path))
    throw IoError(path.string(), "cannot be read: name a regular file");
  return std::move(content).str();
}

void write_file(const std::string& path, const std::string& text) {
  if (path == "-") {
    std::fwrite(text.data(), 1, text.size(), stdout);
    if (std::fflush(stdout) != 0) throw IoError("standard output", "cannot be written");
    return;
  }
  const std::string partial = path + ".part";
  std::ofstream file(partial, std::ios::binary | std::ios::trunc);
  file << text;
  file.close();
  if (!file) throw IoError(path, "cannot be written: check that the folder exists and has room");
  std::error_code failed;
  fs::rename(partial, path, failed);
  if (failed) throw IoError(path, "cannot be replaced: " + failed.message());
}

}  // namespace thermoe::app
