// The shipped nano model, opened once for all tests of the program.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "engine.h"

namespace thermoe::app {

inline Engine& nano_engine() {
  static Engine* engine = [] {
    setenv("THERMOE_HOME", THERMOE_SOURCE_DIR, 1);
    EngineOptions options;
    options.threads = 2;
    return new Engine(options);  // lives until the process ends
  }();
  return *engine;
}

// A file of the test's own, removed with it.
class ScratchFile {
 public:
  explicit ScratchFile(const std::string& name, const std::string& text = "")
      : path_(std::filesystem::temp_directory_path() /
              ("thermoe-" + std::to_string(::getpid()) + "-" + name)) {
    std::ofstream(path_, std::ios::binary) << text;
  }
  ~ScratchFile() {
    std::error_code ignored;
    std::filesystem::remove(path_, ignored);
  }
  std::string path() const { return path_.string(); }

 private:
  std::filesystem::path path_;
};

}  // namespace thermoe::app
