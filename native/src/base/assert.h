// Checks of what only a programming error can break. Always on: a store that lost track of its memory must stop rather
// than hand out wrong bytes.
#pragma once

#include <cstdio>
#include <cstdlib>

namespace kvstore {

[[noreturn, gnu::cold, gnu::noinline]] inline void assertion_failed(const char* condition, const char* file, int line) {
  std::fprintf(stderr, "kvstore: %s:%d: assertion failed: %s\n", file, line, condition);
  std::abort();
}

}  // namespace kvstore

#define KVSTORE_ASSERT(condition)                                  \
  do {                                                             \
    if (!(condition)) [[unlikely]]                                 \
      ::kvstore::assertion_failed(#condition, __FILE__, __LINE__); \
  } while (false)
