#include "model/checkpoint_writer.h"

#include <fmt/format.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "thermoe/error.h"

namespace thermoe {
namespace {

namespace fs = std::filesystem;

[[noreturn]] void fail(const fs::path& path, const std::error_code& error) {
  throw IoError(path.string(), fmt::format("cannot be written ({}): check that the folder above it "
                                           "is writable and the disk has room",
                                           error.message()));
}

fs::path without_slash(const fs::path& directory) {
  return directory.has_filename() ? directory : directory.parent_path();
}

}  // namespace

CheckpointWriter::CheckpointWriter(const fs::path& directory, int shards)
    : directory_(without_slash(directory)),
      partial_(directory_.string() + ".partial"),
      shards_(shards) {
  std::error_code error;
  if (fs::exists(directory_, error) &&
      !(fs::is_directory(directory_, error) && fs::is_empty(directory_, error)))
    throw IoError(directory_.string(), "is there already: name a folder that is not, or remove it");
  fs::remove_all(partial_, error);
  fs::create_directories(partial_, error);
  if (error) fail(partial_, error);
}

CheckpointWriter::~CheckpointWriter() {
  std::error_code ignored;
  if (!finished_) fs::remove_all(partial_, ignored);
}

void CheckpointWriter::add_shard(std::span<const TensorToWrite> tensors) {
  const std::string name = fmt::format("model-{:05}-of-{:05}.safetensors", ++written_, shards_);
  write_safetensors(partial_ / name, tensors);
  for (const TensorToWrite& tensor : tensors) {
    shard_of_[tensor.name] = name;
    bytes_ += tensor.size_bytes;
  }
}

void CheckpointWriter::add_file(const std::string& name, const std::string& bytes) {
  std::ofstream file(partial_ / name, std::ios::binary | std::ios::trunc);
  file << bytes;
  file.close();
  if (!file) fail(partial_ / name, std::make_error_code(std::errc::io_error));
}

void CheckpointWriter::copy_file(const fs::path& from) {
  std::error_code error;
  fs::copy_file(from, partial_ / from.filename(), error);
  if (error) fail(partial_ / from.filename(), error);
}

void CheckpointWriter::finish() {
  if (written_ != shards_)
    throw InvalidArgument(fmt::format("{} of {} shards were written", written_, shards_));
  const nlohmann::ordered_json index = {{"metadata", {{"total_size", bytes_}}},
                                        {"weight_map", shard_of_}};
  add_file("model.safetensors.index.json", index.dump(2) + "\n");
  std::error_code error;
  fs::rename(partial_, directory_, error);  // over an empty folder too
  if (error) fail(directory_, error);
  finished_ = true;
}

}  // namespace thermoe
