// Where the program's own files are: profiles, scenarios, texts, prompts and the nano model.
#pragma once

#include <filesystem>
#include <string>

namespace thermoe::app {

// The profile that a newcomer's run is charged to: the H100 under vLLM's kernels.
inline constexpr const char* kDefaultProfile = "data/profiles/h100-sxm.json";

// The shipped file or folder `relative` ("data/profiles/...", "models/nano"): below $THERMOE_HOME
// where that is set, else below the checkout that the program was built in (the folder above its
// own), else below ../share/thermoe of an install tree. Throws IoError naming the places tried.
std::filesystem::path shipped(const std::string& relative);

// The whole file as bytes. Throws IoError.
std::string read_file(const std::filesystem::path& path);

// Writes `text` to `path` in one step: a reader sees the old file or the new one, never a part.
// "-" is standard output. Throws IoError.
void write_file(const std::string& path, const std::string& text);

}  // namespace thermoe::app
