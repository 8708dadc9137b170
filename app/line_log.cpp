#include "line_log.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "paths.h"
#include "thermoe/error.h"

namespace thermoe::app {

LineLog::LineLog(std::string path, const std::string& writer, const std::string& option)
    : path_(std::move(path)), file_(::open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644)) {
  if (file_ < 0)
    throw IoError(path_, fmt::format("cannot be opened: {}; check the folder of {}",
                                     std::strerror(errno), option));
  try {
    if (::flock(file_, LOCK_EX | LOCK_NB) != 0)
      throw IoError(path_, fmt::format("another {} is writing to it: wait for it, or give another "
                                       "{}",
                                       writer, option));
    read();
  } catch (...) {
    ::close(file_);
    throw;
  }
}

LineLog::~LineLog() { ::close(file_); }

void LineLog::read() {
  const std::string content = read_file(path_);
  const size_t whole = content.rfind('\n') + 1;
  if (::ftruncate(file_, static_cast<off_t>(whole)) != 0 || ::lseek(file_, 0, SEEK_END) < 0)
    throw IoError(path_, fmt::format("cannot be written: {}", std::strerror(errno)));
  for (size_t begin = 0; begin < whole;) {
    const size_t end = content.find('\n', begin);
    lines_.push_back(content.substr(begin, end - begin));
    begin = end + 1;
  }
}

void LineLog::append(const std::string& line) {
  const std::string text = line + "\n";
  for (size_t done = 0; done < text.size();) {
    const ssize_t written = ::write(file_, text.data() + done, text.size() - done);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0)
      throw IoError(path_, fmt::format("cannot be written: {}", std::strerror(errno)));
    done += static_cast<size_t>(written);
  }
}

}  // namespace thermoe::app
