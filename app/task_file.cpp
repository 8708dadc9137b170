// Reads the files of tasks: JSON lines, plain or gzipped.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "core/gzip_file.h"
#include "task.h"
#include "thermoe/error.h"

namespace thermoe::app {
namespace {

TaskItem blimp_item(const nlohmann::json& json) {
  return {.group = json.at("paradigm").get<std::string>(),
          .texts = {json.at("good").get<std::string>(), json.at("bad").get<std::string>()},
          .counted_from = 0};
}

// The last word with the space before it, as the tokenizer takes them.
TaskItem lambada_item(const nlohmann::json& json) {
  TaskItem item{.group = "", .texts = {json.at("text").get<std::string>()}, .counted_from = 0};
  const std::string& text = item.texts.front();
  const size_t space = text.find_last_of(" \n\t");
  if (space == std::string::npos || space == 0 || space + 1 == text.size())
    throw std::invalid_argument("the text has no last word after others");
  item.counted_from = space;
  return item;
}

}  // namespace

Task Task::parse(const std::string& text) {
  const size_t colon = text.find(':');
  const std::string name = text.substr(0, colon);
  if (colon == std::string::npos || colon + 1 == text.size() ||
      (name != "blimp" && name != "lambada"))
    throw InvalidArgument(
        fmt::format("task '{}' is not known: give blimp:FILE or lambada:FILE", text));
  return {name == "blimp" ? TaskKind::kBlimp : TaskKind::kLambada, text.substr(colon + 1)};
}

std::vector<TaskItem> read_task(const Task& task) {
  const std::string path = task.file.string(), content = core::read_maybe_gzipped(path);
  std::vector<TaskItem> items;
  int line = 0;
  for (size_t begin = 0; begin < content.size();) {
    const size_t end = std::min(content.find('\n', begin), content.size());
    const std::string_view text(content.data() + begin, end - begin);
    begin = end + 1;
    ++line;
    if (text.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    try {
      const auto json = nlohmann::json::parse(text);
      items.push_back(task.kind == TaskKind::kBlimp ? blimp_item(json) : lambada_item(json));
    } catch (const std::exception& error) {  // nlohmann's, or a field that is not fit
      throw IoError(path, fmt::format("line {}: no {} item: {}", line, task.name(), error.what()));
    }
  }
  if (items.empty()) throw IoError(path, "holds no items");
  return items;
}

}  // namespace thermoe::app
