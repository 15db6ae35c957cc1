#include "base/clock.h"

#include <time.h>

#include "base/assert.h"

namespace kvstore {

uint64_t SteadyClock::now_ns() const {
  timespec now;
  KVSTORE_ASSERT(clock_gettime(CLOCK_MONOTONIC, &now) == 0);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}

uint64_t SteadyClock::unix_ms() const {
  timespec now;
  KVSTORE_ASSERT(clock_gettime(CLOCK_REALTIME, &now) == 0);
  return static_cast<uint64_t>(now.tv_sec) * 1'000 + static_cast<uint64_t>(now.tv_nsec) / 1'000'000;
}

const SteadyClock& SteadyClock::instance() {
  static const SteadyClock clock;
  return clock;
}

}  // namespace kvstore
