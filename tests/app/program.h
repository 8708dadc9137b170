// The program run as a person runs it.
#pragma once

#include <gtest/gtest.h>
#include <sys/wait.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <string>

#include "nano.h"

namespace thermoe::app {

struct Outcome {
  int status = -1;
  std::string out, error;
};

inline Outcome run(const std::string& arguments, const std::string& input = "/dev/null") {
  const ScratchFile errors("stderr");
  const std::string command = std::string("THERMOE_HOME='") + THERMOE_SOURCE_DIR + "' '" +
                              THERMOE_PROGRAM + "' " + arguments + " 2>'" + errors.path() + "' <'" +
                              input + "'";
  Outcome outcome;
  FILE* pipe = popen(command.c_str(), "r");
  std::array<char, 4096> buffer;
  for (size_t n; (n = fread(buffer.data(), 1, buffer.size(), pipe)) > 0;)
    outcome.out.append(buffer.data(), n);
  outcome.status = WEXITSTATUS(pclose(pipe));
  std::ifstream file(errors.path());
  outcome.error.assign(std::istreambuf_iterator<char>(file), {});
  return outcome;
}

// Bad input ends in one line that names the culprit, and exit status 2.
inline void expect_refusal(const std::string& arguments, const std::string& named) {
  const Outcome outcome = run(arguments);
  EXPECT_EQ(outcome.status, 2) << arguments << "\n" << outcome.error;
  EXPECT_EQ(std::count(outcome.error.begin(), outcome.error.end(), '\n'), 1) << outcome.error;
  EXPECT_NE(outcome.error.find(named), std::string::npos) << outcome.error;
  EXPECT_EQ(outcome.out, "");
}

}  // namespace thermoe::app
