// A text file of whole lines that grows at its end, so that long work can be broken off and taken
// up.
#pragma once

#include <string>
#include <vector>

namespace thermoe::app {

// Lines are written whole and at once; a last line that was cut off by an interruption is dropped
// when the file is next opened. One process at a time.
class LineLog {
 public:
  // Opens or makes the file. `writer` ("frontier") and `option` ("--out") name in messages who
  // writes it and what names it. Throws IoError: it cannot be opened, or another process has it.
  LineLog(std::string path, const std::string& writer, const std::string& option);
  ~LineLog();
  LineLog(const LineLog&) = delete;
  LineLog& operator=(const LineLog&) = delete;

  const std::string& path() const { return path_; }
  // What the file held when it was opened, without line ends.
  const std::vector<std::string>& lines() const { return lines_; }
  // Throws IoError.
  void append(const std::string& line);

 private:
  void read();

  std::string path_;
  int file_ = -1;
  std::vector<std::string> lines_;
};

}  // namespace thermoe::app
