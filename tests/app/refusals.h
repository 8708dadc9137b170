// What bad input is refused with.
#pragma once

#include <gtest/gtest.h>

#include <string>

#include "thermoe/error.h"

namespace thermoe::app {

// The message of the Kind of error that `action` ends with; "accepted" where it ends well.
template <typename Kind = Error, typename Action>
std::string refusal(Action&& action) {
  try {
    action();
  } catch (const Kind& error) {
    return error.what();
  }
  return "accepted";
}

#define EXPECT_ERROR(Kind, action, named)                                  \
  EXPECT_NE(refusal<Kind>([&] { action; }).find(named), std::string::npos) \
      << refusal<Kind>([&] { action; })
#define EXPECT_REFUSED(action, named) EXPECT_ERROR(Error, action, named)

}  // namespace thermoe::app
