// What bad input is refused with.
#pragma once

#include <gtest/gtest.h>

#include <string>

#include "thermoe/error.h"

namespace thermoe::app {

// The message that `action` ends with; "accepted" where it ends well.
template <typename Action>
std::string refusal(Action&& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "accepted";
}

#define EXPECT_REFUSED(action, named) \
  EXPECT_NE(refusal([&] { action; }).find(named), std::string::npos) << refusal([&] { action; })

}  // namespace thermoe::app
