#include "core/gzip_file.h"

#include <fmt/format.h>
#include <zlib.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <memory>

#include "thermoe/error.h"

namespace thermoe::core {
namespace {

// Tables and tasks are small; what unpacks to more than this is neither.
constexpr size_t kMostBytes = size_t{1} << 30;

}  // namespace

std::string read_maybe_gzipped(const std::string& path) {
  if (std::filesystem::is_directory(path)) throw IoError(path, "is a folder: name a file");
  const std::unique_ptr<gzFile_s, int (*)(gzFile)> file(gzopen(path.c_str(), "rb"), gzclose);
  if (!file) throw IoError(path, fmt::format("cannot be opened: {}", std::strerror(errno)));
  std::string content;
  std::array<char, 1 << 16> buffer;
  int size = 0;
  while ((size = gzread(file.get(), buffer.data(), buffer.size())) > 0) {
    content.append(buffer.data(), static_cast<size_t>(size));
    if (content.size() > kMostBytes) throw IoError(path, "unpacks to more than 1 GiB");
  }
  int code = Z_OK;
  const char* problem = gzerror(file.get(), &code);
  if (size < 0 || code != Z_OK)
    throw IoError(path, fmt::format("is damaged ({}): fetch it again", problem));
  return content;
}

}  // namespace thermoe::core
