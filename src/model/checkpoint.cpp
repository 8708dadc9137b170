#include "thermoe/checkpoint.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <map>
#include <set>
#include <utility>

#include "model/finite.h"
#include "model/json_file.h"
#include "model/mapped_file.h"
#include "model/safetensors.h"
#include "thermoe/error.h"

namespace thermoe {
namespace {

namespace fs = std::filesystem;

constexpr const char* kSingleFile = "model.safetensors";
constexpr const char* kIndexFile = "model.safetensors.index.json";

std::string shape_text(const std::vector<int64_t>& shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

// The map tensor -> shard of an index file.
std::map<std::string, std::string> read_index(const fs::path& path) {
  const auto index = read_json_file(path);
  const auto map = index.is_object() ? index.find("weight_map") : index.end();
  if (map == index.end() || !map->is_object()) {
    throw IoError(path.string(), "has no weight_map object: download it again");
  }
  std::map<std::string, std::string> out;
  for (const auto& [name, file] : map->items()) {
    // A shard lies beside its index: a path that leads elsewhere is an attack or a mistake.
    const std::string text = file.is_string() ? file.get<std::string>() : "";
    const bool plain = !text.empty() && text != "." && text != ".." &&
                       text.find_first_of(std::string_view("/\0", 2)) == std::string::npos;
    if (!plain) {
      throw IoError(path.string(), fmt::format("weight_map gives tensor '{}' no plain file name: "
                                               "download it again",
                                               printable(name)));
    }
    out.emplace(name, text);
  }
  return out;
}

}  // namespace

struct Checkpoint::Impl {
  struct Entry {
    size_t file;
    StoredTensor stored;
  };

  explicit Impl(const fs::path& dir) : directory(dir), config(read_model_config(dir)) {
    std::error_code ignored;
    if (fs::exists(dir / kSingleFile, ignored)) {
      open_single();
    } else if (fs::exists(dir / kIndexFile, ignored)) {
      open_shards();
    } else {
      throw IoError(directory.string(),
                    fmt::format("holds neither {} nor {}: download the weights in safetensors "
                                "format, or convert others with save_pretrained",
                                kSingleFile, kIndexFile));
    }
  }

  void open_single() {
    for (auto& [name, stored] : add_file(directory / kSingleFile)) {
      entries.emplace(name, Entry{0, std::move(stored)});
    }
  }

  void open_shards() {
    std::map<std::string, std::pair<size_t, SafetensorsHeader>> shards;
    for (const auto& [name, shard] : read_index(directory / kIndexFile)) {
      const fs::path path = directory / shard;
      auto found = shards.find(shard);
      if (found == shards.end()) {
        std::error_code ignored;
        if (!fs::exists(path, ignored)) {
          throw IoError(
              path.string(),
              fmt::format("this shard is missing, though {} names it: download it", kIndexFile));
        }
        auto header = add_file(path);
        found = shards.emplace(shard, std::pair(files.size() - 1, std::move(header))).first;
      }
      auto& [file, header] = found->second;
      const auto stored = header.find(name);
      if (stored == header.end()) {
        throw IoError(path.string(),
                      fmt::format("lacks tensor '{}', which {} says it holds: download both again",
                                  printable(name), kIndexFile));
      }
      entries.emplace(name, Entry{file, std::move(stored->second)});
    }
  }

  SafetensorsHeader add_file(const fs::path& path) {
    MappedFile file(path);
    auto header = parse_safetensors_header(file.bytes(), file.bytes().size(), path.string());
    files.push_back(std::move(file));
    return header;
  }

  const Entry& entry(const std::string& name) const {
    const auto found = entries.find(name);
    if (found == entries.end()) {
      throw IoError(directory.string(),
                    fmt::format("no tensor '{}' among the {} stored: its config.json is of another "
                                "model, or the download is incomplete: download it again",
                                printable(name), entries.size()));
    }
    return found->second;
  }

  const std::byte* data(const Entry& e) const {
    return files[e.file].bytes().data() + e.stored.begin_byte;
  }
  const std::string path(const Entry& e) const { return files[e.file].path().string(); }

  fs::path directory;
  ModelConfig config;
  std::vector<MappedFile> files;
  std::map<std::string, Entry> entries;
};

Checkpoint::Checkpoint(const fs::path& directory) : impl_(std::make_unique<Impl>(directory)) {}
Checkpoint::~Checkpoint() = default;
Checkpoint::Checkpoint(Checkpoint&&) noexcept = default;

const ModelConfig& Checkpoint::config() const { return impl_->config; }
const fs::path& Checkpoint::directory() const { return impl_->directory; }
bool Checkpoint::contains(const std::string& name) const { return impl_->entries.contains(name); }

std::vector<std::string> Checkpoint::names() const {
  std::vector<std::string> out;
  out.reserve(impl_->entries.size());
  for (const auto& [name, entry] : impl_->entries) out.push_back(name);
  return out;
}

TensorView Checkpoint::tensor(const std::string& name) const {
  const Impl::Entry& entry = impl_->entry(name);
  const StoredTensor& stored = entry.stored;
  if (!stored.dtype) {
    throw IoError(impl_->path(entry),
                  fmt::format("tensor '{}' is stored as {}: thermoe computes with F32, F16 and "
                              "BF16; use a checkpoint in one of these",
                              printable(name), printable(stored.dtype_name)));
  }
  const std::byte* data = impl_->data(entry);
  if (reinterpret_cast<uintptr_t>(data) % size_bytes(*stored.dtype) != 0) {
    throw IoError(impl_->path(entry),
                  fmt::format("tensor '{}' is not aligned to its elements (an old or foreign "
                              "writer): load and save the file once with the safetensors library",
                              printable(name)));
  }
  return {data, *stored.dtype, stored.shape};
}

WeightView Checkpoint::weight(const std::string& name, int64_t rows, int64_t cols) const {
  const TensorView view = tensor(name);
  if (view.shape != std::vector<int64_t>{rows, cols}) {
    throw IoError(impl_->path(impl_->entry(name)),
                  fmt::format("tensor '{}' has shape {}, but config.json asks for [{}, {}]: "
                              "download both again",
                              printable(name), shape_text(view.shape), rows, cols));
  }
  return {view.data, view.dtype, rows, cols};
}

std::vector<float> Checkpoint::vector(const std::string& name, int64_t size) const {
  const TensorView view = tensor(name);
  if (view.shape != std::vector<int64_t>{size}) {
    throw IoError(impl_->path(impl_->entry(name)),
                  fmt::format("tensor '{}' has shape {}, but config.json asks for [{}]: download "
                              "both again",
                              printable(name), shape_text(view.shape), size));
  }
  std::vector<float> out(static_cast<size_t>(size));
  to_f32(view.data, view.dtype, out);
  return out;
}

const uint8_t* Checkpoint::bytes(const std::string& name, const std::vector<int64_t>& shape) const {
  const Impl::Entry& entry = impl_->entry(name);
  if (entry.stored.dtype_name != "U8" || entry.stored.shape != shape)
    throw IoError(impl_->path(entry),
                  fmt::format("tensor '{}' is {} {}, but config.json asks for U8 {}: quantise the "
                              "model again",
                              printable(name), printable(entry.stored.dtype_name),
                              shape_text(entry.stored.shape), shape_text(shape)));
  return reinterpret_cast<const uint8_t*>(impl_->data(entry));
}

void Checkpoint::check_finite() const {
  for (const auto& [name, entry] : impl_->entries) {
    if (!entry.stored.dtype) continue;
    const DType dtype = *entry.stored.dtype;
    const std::byte* data = impl_->data(entry);
    const size_t count = entry.stored.size_bytes / size_bytes(dtype);
    const size_t bad = first_not_finite(data, dtype, count);
    if (bad == count) continue;
    throw IoError(impl_->path(entry),
                  fmt::format("tensor '{}' holds {} at element {} of {}: the weights are damaged; "
                              "download the file again",
                              printable(name), is_nan(data, dtype, bad) ? "a NaN" : "an infinity",
                              bad, count));
  }
}

}  // namespace thermoe
