// Gets that wait for blocks still being written: who to wake when a key is published.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <span>
#include <unordered_map>
#include <vector>

#include "base/key.h"

namespace kvstore {

struct Waiter {
  uint32_t thread = 0;
  uint64_t session = 0;
  uint64_t request = 0;
  bool operator==(const Waiter&) const = default;
};

class Waiters {
 public:
  void add(std::span<const Key> keys, const Waiter& waiter) {
    const std::scoped_lock lock(mutex_);
    for (const Key& key : keys) by_digest_.emplace(key.digest(), waiter);
    count_.store(by_digest_.size(), std::memory_order_release);
  }

  void remove(std::span<const Key> keys, const Waiter& waiter) {
    const std::scoped_lock lock(mutex_);
    for (const Key& key : keys) {
      const auto [first, last] = by_digest_.equal_range(key.digest());
      for (auto entry = first; entry != last; ++entry) {
        if (entry->second != waiter) continue;
        by_digest_.erase(entry);
        break;
      }
    }
    count_.store(by_digest_.size(), std::memory_order_release);
  }

  // Those who may be waiting for `key`. A digest can collide: being woken is a hint to look, not a promise.
  [[nodiscard]] std::vector<Waiter> of(const Key& key) const {
    std::vector<Waiter> found;
    if (count_.load(std::memory_order_acquire) == 0) return found;
    const std::scoped_lock lock(mutex_);
    const auto [first, last] = by_digest_.equal_range(key.digest());
    for (auto entry = first; entry != last; ++entry) found.push_back(entry->second);
    return found;
  }

 private:
  mutable std::mutex mutex_;
  std::atomic<size_t> count_{0};
  std::unordered_multimap<uint64_t, Waiter> by_digest_;
};

}  // namespace kvstore
