// Where stamps come from: one source for all tiers of a node, so that they agree on what is older.
#pragma once

#include <atomic>
#include <cstdint>

#include "store/eviction.h"

namespace kvstore {

// Thread-safe.
class Stamps {
 public:
  [[nodiscard]] Stamp next() { return Stamp{next_.fetch_add(1, std::memory_order_relaxed)}; }

  // Every later stamp is younger than this one, which an earlier run gave out.
  void continue_after(Stamp stamp) {
    const uint64_t wanted = static_cast<uint64_t>(stamp) + 1;
    uint64_t next = next_.load();
    while (next < wanted && !next_.compare_exchange_weak(next, wanted)) {
    }
  }

 private:
  std::atomic<uint64_t> next_{1};
};

}  // namespace kvstore
