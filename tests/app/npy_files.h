// .npy files put together by hand: an implementation of the format that shares nothing with the
// program's.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace thermoe::app {

template <typename T>
std::string bytes_of(const std::vector<T>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

inline std::string npy_of(const std::string& dictionary, const std::string& data, int version = 1) {
  std::string file = "\x93NUMPY";
  file += static_cast<char>(version);
  file += '\0';
  const std::string header = dictionary + "\n";
  for (int i = 0; i < (version == 1 ? 2 : 4); ++i)
    file += static_cast<char>(header.size() >> (8 * i) & 0xff);
  return file + header + data;
}

inline std::string npy(const std::string& descr, const std::string& shape, const std::string& data,
                       int version = 1) {
  return npy_of("{'descr': '" + descr + "', 'fortran_order': False, 'shape': " + shape + ", }",
                data, version);
}

}  // namespace thermoe::app
