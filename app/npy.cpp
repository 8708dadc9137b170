#include "npy.h"

#include <fmt/format.h>

#include <bit>
#include <cctype>
#include <charconv>
#include <cstring>
#include <limits>
#include <optional>
#include <string_view>

#include "model/finite.h"
#include "model/json_file.h"
#include "thermoe/error.h"

namespace thermoe::app {
namespace {

static_assert(std::endian::native == std::endian::little, "elements are taken as they lie");

constexpr std::string_view kMagic = "\x93NUMPY";
constexpr size_t kVersionBytes = 2;
// NumPy itself refuses headers above 10,000 bytes unless it is told to trust the file.
constexpr size_t kMaxHeaderBytes = 65535;
constexpr size_t kMaxDimensions = 32;  // NumPy 1's own limit

struct StoredType {
  std::string_view descr;
  NpyType type;
};
constexpr StoredType kTypes[] = {{"<f2", NpyType::kF16},  {"<f4", NpyType::kF32},
                                 {"<f8", NpyType::kF64},  {"<u2", NpyType::kBf16},
                                 {"<V2", NpyType::kBf16}, {"|V2", NpyType::kBf16}};

size_t bytes_of(NpyType type) { return type == NpyType::kF64 ? 8 : type == NpyType::kF32 ? 4 : 2; }

std::string shape_text(std::span<const int64_t> shape) {
  return fmt::format("({}{})", fmt::join(shape, ", "), shape.size() == 1 ? "," : "");
}

// Reads the dictionary {'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }: each key once,
// in any order; strings without escapes; nothing but white space after it.
class DictionaryParser {
 public:
  DictionaryParser(std::string_view text, const std::string& path) : text_(text), path_(path) {}

  std::string descr;
  bool fortran_order = false;
  std::vector<int64_t> shape;

  void run() {
    expect('{');
    bool seen[3] = {};
    while (!take('}')) {
      const std::string_view key = quoted();
      expect(':');
      const size_t index = key == "descr" ? 0 : key == "fortran_order" ? 1 : key == "shape" ? 2 : 3;
      if (index == 3) fail(fmt::format("the unknown key '{}'", printable(key)));
      if (seen[index]) fail(fmt::format("the key '{}' twice", key));
      seen[index] = true;
      if (index == 0) read_descr();
      if (index == 1) read_order();
      if (index == 2) read_shape();
      if (!take(',')) {
        expect('}');
        break;
      }
    }
    skip_space();
    if (at_ != text_.size()) fail("something after its dictionary");
    if (!(seen[0] && seen[1] && seen[2])) fail("no descr, fortran_order or shape");
  }

 private:
  [[noreturn]] void fail(std::string_view what) const {
    throw IoError(path_,
                  fmt::format("the .npy header has {}: save the array again with np.save", what));
  }

  void skip_space() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n' || text_[at_] == '\t'))
      ++at_;
  }

  bool take(char c) {
    skip_space();
    if (at_ == text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }

  void expect(char c) {
    if (!take(c)) fail(fmt::format("no '{}' at byte {}", c, at_));
  }

  std::string_view quoted() {
    const char quote = take('"') ? '"' : '\'';
    if (quote == '\'') expect('\'');
    const size_t begin = at_, end = text_.find(quote, at_);
    if (end == std::string_view::npos) fail("a string without an end");
    at_ = end + 1;
    const std::string_view value = text_.substr(begin, end - begin);
    if (value.find('\\') != std::string_view::npos) fail("an escape in a string");
    return value;
  }

  void read_descr() {
    skip_space();
    if (at_ < text_.size() && text_[at_] == '[')
      throw IoError(path_, "holds records with named fields: save one plain array of floats");
    descr = quoted();
  }

  void read_order() {
    skip_space();
    const std::string_view rest = text_.substr(at_);
    fortran_order = rest.starts_with("True");
    if (!fortran_order && !rest.starts_with("False")) fail("no True or False in fortran_order");
    at_ += fortran_order ? 4 : 5;
  }

  void read_shape() {
    expect('(');
    bool comma = true;
    while (!take(')')) {
      if (!comma) fail("a shape without commas");
      skip_space();
      int64_t dimension = 0;
      const char* begin = text_.data() + at_;
      const auto [end, error] = std::from_chars(begin, text_.data() + text_.size(), dimension);
      if (error != std::errc() || dimension < 0) fail("a dimension that is no natural number");
      at_ += static_cast<size_t>(end - begin);
      shape.push_back(dimension);
      if (shape.size() > kMaxDimensions) fail(fmt::format("over {} dimensions", kMaxDimensions));
      comma = take(',');
    }
    if (shape.size() == 1 && !comma) fail("a shape that is a number, no tuple");
  }

  std::string_view text_;
  const std::string& path_;
  size_t at_ = 0;
};

NpyType type_of(const std::string& descr, const std::string& path) {
  for (const StoredType& stored : kTypes)
    if (descr == stored.descr) return stored.type;
  if (descr.starts_with('>'))
    throw IoError(path, fmt::format("its elements ('{}') are big-endian: save a.astype('<f4')",
                                    printable(descr)));
  throw IoError(path,
                fmt::format("its elements are '{}': save a.astype(np.float32) ('<f4'); '<f2', "
                            "'<f8' and bfloat16 ('<u2', '<V2') can be read too",
                            printable(descr)));
}

// The dictionary's text; leaves where it ends in `data_begin`.
std::string_view dictionary(std::string_view file, const std::string& path, size_t& data_begin) {
  if (!file.starts_with(kMagic))
    throw IoError(path, file.starts_with("PK") ? "is an .npz archive: save one array with np.save"
                                               : "is no .npy file (it does not begin with "
                                                 "\\x93NUMPY): save the array with np.save");
  const auto truncated = [&path, &file] {
    return IoError(path, fmt::format("ends after {} bytes, within its .npy header: it was cut "
                                     "short; save or copy it again",
                                     file.size()));
  };
  size_t at = kMagic.size() + kVersionBytes;
  if (file.size() < at) throw truncated();
  const auto byte = [file](size_t i) { return static_cast<size_t>(static_cast<uint8_t>(file[i])); };
  const size_t major = byte(kMagic.size()), minor = byte(kMagic.size() + 1);
  if (major < 1 || major > 3 || minor != 0)
    throw IoError(path, fmt::format("is of .npy version {}.{}: 1.0, 2.0 and 3.0 can be read; save "
                                    "it again with np.save",
                                    major, minor));
  const size_t length_bytes = major == 1 ? 2 : 4;
  if (file.size() < at + length_bytes) throw truncated();
  size_t length = 0;
  for (size_t i = 0; i < length_bytes; ++i) length |= byte(at + i) << (8 * i);
  at += length_bytes;
  if (length > kMaxHeaderBytes)
    throw IoError(path, fmt::format("claims a .npy header of {} bytes, more than {}: save the "
                                    "array again with np.save",
                                    length, kMaxHeaderBytes));
  if (file.size() - at < length) throw truncated();
  data_begin = at + length;
  return file.substr(at, length);
}

// How many elements the shape names; throws where no file could hold them.
size_t count_elements(std::span<const int64_t> shape, const std::string& path) {
  size_t elements = 1;
  for (const int64_t dimension : shape)
    if (dimension == 0) return 0;
  for (const int64_t dimension : shape) {
    if (elements > std::numeric_limits<size_t>::max() / 8 / static_cast<size_t>(dimension))
      throw IoError(path, fmt::format("claims the shape {}, more than any file holds: save the "
                                      "array again with np.save",
                                      shape_text(shape)));
    elements *= static_cast<size_t>(dimension);
  }
  return elements;
}

template <typename T>
std::string bytes_with_header(const char* descr, std::span<const int64_t> shape,
                              std::span<const T> values) {
  std::string text = fmt::format("{{'descr': '{}', 'fortran_order': False, 'shape': {}, }}", descr,
                                 shape_text(shape));
  constexpr size_t kAlignment = 64;  // of the elements, as NumPy writes it
  const size_t before = kMagic.size() + kVersionBytes + 2;
  text.resize((before + text.size() + 1 + kAlignment - 1) / kAlignment * kAlignment - before, ' ');
  text.back() = '\n';
  std::string out(kMagic);
  out += '\x01';
  out += '\x00';
  out += static_cast<char>(text.size() & 0xff);
  out += static_cast<char>(text.size() >> 8);
  out += text;
  out.append(reinterpret_cast<const char*>(values.data()), values.size_bytes());
  return out;
}

}  // namespace

NpyHeader parse_npy_header(std::span<const std::byte> file, const std::string& path) {
  const std::string_view chars(reinterpret_cast<const char*>(file.data()), file.size());
  NpyHeader header;
  DictionaryParser parser(dictionary(chars, path, header.data_begin), path);
  parser.run();
  header.type = type_of(parser.descr, path);
  if (parser.fortran_order)
    throw IoError(path, "is in Fortran order: save np.ascontiguousarray(a)");
  header.shape = std::move(parser.shape);
  header.elements = count_elements(header.shape, path);
  const size_t expected = header.elements * bytes_of(header.type);
  const size_t found = file.size() - header.data_begin;
  if (found != expected)
    throw IoError(path, fmt::format("holds {} bytes of elements where its shape {} of '{}' takes "
                                    "{}: {}; save or copy it again",
                                    found, shape_text(header.shape), parser.descr, expected,
                                    found < expected ? "it was cut short" : "it holds more"));
  return header;
}

FloatArray parse_npy(std::span<const std::byte> file, const std::string& path) {
  NpyHeader header = parse_npy_header(file, path);
  FloatArray array;
  array.shape = std::move(header.shape);
  array.values.resize(header.elements);
  const std::byte* data = file.data() + header.data_begin;
  switch (header.type) {
    case NpyType::kF16:
      to_f32(data, DType::kF16, array.values);
      break;
    case NpyType::kBf16:
      to_f32(data, DType::kBf16, array.values);
      break;
    case NpyType::kF32:
      to_f32(data, DType::kF32, array.values);
      break;
    case NpyType::kF64:
      for (size_t i = 0; i < header.elements; ++i) {
        double value = 0;
        std::memcpy(&value, data + i * sizeof value, sizeof value);
        array.values[i] = static_cast<float>(value);
      }
      break;
  }
  return array;
}

std::string npy_bytes(std::span<const int64_t> shape, std::span<const float> values) {
  return bytes_with_header("<f4", shape, values);
}

std::string npy_bytes(std::span<const int64_t> shape, std::span<const int32_t> values) {
  return bytes_with_header("<i4", shape, values);
}

}  // namespace thermoe::app
