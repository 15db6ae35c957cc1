// How to wait for something that is about to happen.
#pragma once

#include <sched.h>

#include <cstdint>

#include "base/clock.h"

namespace kvstore {

// A short wait spins; a longer one yields between looks, so that whoever shares the core gets to run. (Without the
// yield two processes on one core each spun away their whole budget: 415 us a round trip, measured on two busy cores.)
inline constexpr uint64_t kPureSpinNs = 10'000;
// A yield that takes so long let somebody else run. Then it is better to block: a woken thread is given an idle core if
// there is one, a yielding thread stays where it is.
inline constexpr uint64_t kSharedCoreNs = 20'000;

// After `idle_ns` without work. False: the core is shared, block instead.
inline bool spin_pause(const Clock& clock, uint64_t idle_ns) {
  if (idle_ns <= kPureSpinNs) return true;
  const uint64_t start_ns = clock.now_ns();
  sched_yield();
  return clock.now_ns() - start_ns < kSharedCoreNs;
}

}  // namespace kvstore
