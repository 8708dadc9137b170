// The library's version.
#pragma once

namespace thermoe {

// major.minor.patch (semantic versioning; before 1.0 a minor version may break). CMakeLists.txt
// reads it from this line.
inline constexpr const char* kVersion = "0.1.0";

}  // namespace thermoe
