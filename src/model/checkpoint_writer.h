// A checkpoint in the making: shards in a folder beside the one that it becomes, in one step.
#pragma once

#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "model/safetensors_writer.h"

namespace thermoe {

// The shards, the index and the other files of a model directory. Until finish() nothing stands at
// `directory`: all is written to `directory` + ".partial", which goes with this object unless it
// was finished, and which a later writer clears away where a process was killed.
class CheckpointWriter {
 public:
  // Throws IoError where `directory` exists and holds anything, or can't be made.
  CheckpointWriter(const std::filesystem::path& directory, int shards);
  ~CheckpointWriter();
  CheckpointWriter(const CheckpointWriter&) = delete;
  CheckpointWriter& operator=(const CheckpointWriter&) = delete;

  // The next shard; the tensors are on the disk when this returns.
  void add_shard(std::span<const TensorToWrite> tensors);
  void add_file(const std::string& name, const std::string& bytes);
  void copy_file(const std::filesystem::path& from);
  // After all shards. Writes the index and puts the directory in its place.
  void finish();

 private:
  std::filesystem::path directory_, partial_;
  int shards_, written_ = 0;
  uint64_t bytes_ = 0;
  std::map<std::string, std::string> shard_of_;  // by tensor
  bool finished_ = false;
};

}  // namespace thermoe
