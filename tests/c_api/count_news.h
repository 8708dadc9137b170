// How often this program has allocated through operator new.
#pragma once

#include <cstdint>

namespace thermoe::test {

int64_t news_so_far();

}  // namespace thermoe::test
