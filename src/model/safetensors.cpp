#include "model/safetensors.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <limits>
#include <string_view>
#include <utility>

#include "model/json_file.h"
#include "thermoe/error.h"

namespace thermoe {
namespace {

using nlohmann::json;

static_assert(std::endian::native == std::endian::little, "safetensors data is little-endian");

constexpr uint64_t kLengthBytes = 8;
constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // the reference implementation's limit

struct FormatDType {
  std::string_view name;
  unsigned bits;
  std::optional<DType> dtype;
};

// The format's types; thermoe computes with three of them, the others may stand in a file unused.
constexpr FormatDType kFormatDTypes[] = {
    {"F32", 32, DType::kF32},     {"F16", 16, DType::kF16},     {"BF16", 16, DType::kBf16},
    {"F64", 64, std::nullopt},    {"I64", 64, std::nullopt},    {"U64", 64, std::nullopt},
    {"C64", 64, std::nullopt},    {"I32", 32, std::nullopt},    {"U32", 32, std::nullopt},
    {"I16", 16, std::nullopt},    {"U16", 16, std::nullopt},    {"I8", 8, std::nullopt},
    {"U8", 8, std::nullopt},      {"BOOL", 8, std::nullopt},    {"F8_E4M3", 8, std::nullopt},
    {"F8_E5M2", 8, std::nullopt}, {"F8_E8M0", 8, std::nullopt}, {"F6_E2M3", 6, std::nullopt},
    {"F6_E3M2", 6, std::nullopt}, {"F4", 4, std::nullopt},
};

const FormatDType* find_dtype(std::string_view name) {
  const auto* found = std::find_if(std::begin(kFormatDTypes), std::end(kFormatDTypes),
                                   [&](const FormatDType& d) { return d.name == name; });
  return found == std::end(kFormatDTypes) ? nullptr : found;
}

class HeaderParser {
 public:
  HeaderParser(uint64_t file_bytes, const std::string& path)
      : file_bytes_(file_bytes), path_(path) {}

  // The JSON text of the header.
  std::string_view text(std::span<const std::byte> head) {
    if (file_bytes_ < kLengthBytes || head.size() < kLengthBytes) {
      fail(
          fmt::format("the file ends after {} bytes, before its safetensors header: download it "
                      "again",
                      file_bytes_));
    }
    const std::string_view chars(reinterpret_cast<const char*>(head.data()), head.size());
    if (chars.starts_with("version https://git-lfs")) {
      fail("is a Git LFS pointer, not the weights: run 'git lfs pull' in its repository");
    }
    uint64_t length = 0;
    for (size_t i = 0; i < kLengthBytes; ++i) {
      length |= std::to_integer<uint64_t>(head[i]) << (8 * i);
    }
    if (length > kMaxHeaderBytes || (head.size() > kLengthBytes && chars[kLengthBytes] != '{')) {
      fail(
          "does not begin with a safetensors header: name a safetensors file, or download it "
          "again");
    }
    data_start_ = kLengthBytes + length;
    if (data_start_ > file_bytes_ || data_start_ > head.size()) {
      fail(fmt::format("the file ends after {} bytes, within its header of {}: download it again",
                       file_bytes_, length));
    }
    return chars.substr(kLengthBytes, length);
  }

  SafetensorsHeader tensors(const json& header) {
    if (!header.is_object()) fail("the header is not a JSON object: download the file again");
    SafetensorsHeader out;
    for (const auto& [name, entry] : header.items()) {
      if (name == "__metadata__") {
        check_metadata(entry);
      } else {
        out.emplace(name, tensor(name, entry));
      }
    }
    check_tiling(out);
    return out;
  }

 private:
  [[noreturn]] void fail(const std::string& problem) const { throw IoError(path_, problem); }
  [[noreturn]] void fail_tensor(const std::string& name, std::string_view problem) const {
    fail(fmt::format("tensor '{}' {}: download the file again", printable(name), problem));
  }

  void check_metadata(const json& entry) const {
    const bool strings =
        entry.is_object() &&
        std::all_of(entry.begin(), entry.end(), [](const json& v) { return v.is_string(); });
    if (!strings) fail("__metadata__ is not a map of strings: download the file again");
  }

  // A JSON integer in [0, 2^63).
  uint64_t natural(const std::string& name, const json& value, const char* what) const {
    if (!value.is_number_unsigned() ||
        value.get<uint64_t>() > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
      fail_tensor(name, fmt::format("has a {} that is no natural number", what));
    }
    return value.get<uint64_t>();
  }

  // Offsets stay relative to the data until check_tiling has seen them.
  StoredTensor tensor(const std::string& name, const json& entry) const {
    if (!entry.is_object()) fail_tensor(name, "has no dtype, shape and data_offsets");
    const auto dtype = entry.find("dtype");
    const auto shape = entry.find("shape");
    const auto offsets = entry.find("data_offsets");
    if (dtype == entry.end() || !dtype->is_string()) fail_tensor(name, "has no dtype");
    if (shape == entry.end() || !shape->is_array()) fail_tensor(name, "has no shape");
    if (offsets == entry.end() || !offsets->is_array() || offsets->size() != 2) {
      fail_tensor(name, "has no data_offsets [begin, end]");
    }
    StoredTensor out;
    out.dtype_name = dtype->get<std::string>();
    for (const auto& dim : *shape) {
      out.shape.push_back(static_cast<int64_t>(natural(name, dim, "dimension")));
    }
    out.begin_byte = natural(name, (*offsets)[0], "data offset");
    const uint64_t end = natural(name, (*offsets)[1], "data offset");
    if (end < out.begin_byte) fail_tensor(name, "ends before it begins");
    out.size_bytes = end - out.begin_byte;
    if (const auto* known = find_dtype(out.dtype_name)) {
      out.dtype = known->dtype;
      check_size(name, out, known->bits);
    }
    return out;
  }

  void check_size(const std::string& name, const StoredTensor& tensor, unsigned bits) const {
    uint64_t total_bits = bits;
    for (const int64_t dim : tensor.shape) {
      if (__builtin_mul_overflow(total_bits, static_cast<uint64_t>(dim), &total_bits)) {
        fail_tensor(name, "has a shape too large for any file");
      }
    }
    if (total_bits % 8 != 0 || total_bits / 8 != tensor.size_bytes) {
      fail_tensor(name, fmt::format("of type {} needs {} bytes by its shape, but its data_offsets "
                                    "give it {}",
                                    tensor.dtype_name, total_bits / 8, tensor.size_bytes));
    }
  }

  // The ranges, in order, must cover the data exactly. Makes the offsets relative to the file.
  void check_tiling(SafetensorsHeader& tensors) const {
    std::vector<std::pair<const std::string, StoredTensor>*> order;
    order.reserve(tensors.size());
    for (auto& entry : tensors) order.push_back(&entry);
    std::sort(order.begin(), order.end(), [](const auto* a, const auto* b) {
      return std::pair(a->second.begin_byte, a->second.size_bytes) <
             std::pair(b->second.begin_byte, b->second.size_bytes);
    });
    uint64_t cursor = 0;
    for (const auto* entry : order) {
      const StoredTensor& tensor = entry->second;
      if (tensor.begin_byte < cursor) fail_tensor(entry->first, "overlaps another tensor");
      if (tensor.begin_byte > cursor) fail_tensor(entry->first, "leaves a hole before it");
      cursor = tensor.begin_byte + tensor.size_bytes;  // both < 2^63: no overflow
    }
    const uint64_t data_bytes = file_bytes_ - data_start_;
    if (cursor > data_bytes) {
      fail(fmt::format("the file ends after {} of {} bytes: download it again", file_bytes_,
                       data_start_ + cursor));
    }
    if (cursor < data_bytes) {
      fail(fmt::format("the file holds {} bytes, but its header describes {}: download it again",
                       file_bytes_, data_start_ + cursor));
    }
    for (auto* entry : order) entry->second.begin_byte += data_start_;
  }

  uint64_t file_bytes_;
  const std::string& path_;
  uint64_t data_start_ = 0;
};

}  // namespace

SafetensorsHeader parse_safetensors_header(std::span<const std::byte> head, uint64_t file_bytes,
                                           const std::string& path) {
  HeaderParser parser(file_bytes, path);
  const std::string_view text = parser.text(head);
  return parser.tensors(parse_json(text, path));
}

}  // namespace thermoe
