// How to wait for something that is about to happen.
#pragma once

#include <sched.h>

#include <cstdint>

namespace kvstore {

// A short wait spins; a longer one yields between looks, so that a peer which shares the core gets to run. (Seen on two
// busy cores: without the yield, two processes on one core each spun away their whole budget, 415 us a round trip.)
inline constexpr uint64_t kPureSpinNs = 10'000;

inline void spin_pause(uint64_t idle_ns) {
  if (idle_ns > kPureSpinNs) sched_yield();
}

}  // namespace kvstore
