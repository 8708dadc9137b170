// The result of a task for programs and for people.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "task.h"

namespace thermoe::app {

nlohmann::ordered_json to_json(const TaskResult& result);
std::string to_table(const TaskResult& result, int experts);

}  // namespace thermoe::app
