// Blocks on their way from DRAM to a disk, from the moment they are visible until the catalog has them. Each holds a
// lease on its place in DRAM: what is on its way cannot be evicted.
//
// A block is in the line (`pop` takes it), with a disk (which gives it back with `put_back`, or ends its way with
// `settle`), or unknown. It is wanted as long as it is visible in DRAM: a block that was deleted there, or found to be
// wrong, or that has expired (perhaps by a touch that came after it was sent) shall not appear on a disk.
//
// Thread-safe. The lock of the queue comes before those of the stores.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <unordered_map>

#include "base/clock.h"
#include "store/block_store.h"

namespace kvstore {

struct DirtyBlock {
  Key key{};
  Lease lease;  // in DRAM
  uint32_t depth = 0;
  Stamp stamp{};
};

class WriteQueue {
 public:
  WriteQueue(BlockStore& dram, const Clock& clock) : dram_(dram), clock_(clock) {}

  // False when this block is on its way already, or no longer visible in DRAM: the lease stays the caller's.
  [[nodiscard]] bool push(const DirtyBlock& block);
  [[nodiscard]] std::optional<DirtyBlock> pop(std::chrono::milliseconds wait);
  void put_back(const DirtyBlock& block);
  // The way ends: `last_step` is told, with the queue locked, whether the block is wanted, and nothing changes that
  // before it returns. The lease is the caller's from here on.
  void settle(const DirtyBlock& block, const std::function<void(bool wanted)>& last_step);
  // After a block was removed from DRAM: when this returns, whoever settled it as one that was still wanted is through.
  void cancel(const Key& key);

  [[nodiscard]] bool contains(const Key& key) const;
  [[nodiscard]] bool is_wanted(const DirtyBlock& block) const { return is_current(block.key, block.lease); }
  // Bytes of all blocks on their way, in whole granules.
  [[nodiscard]] uint64_t bytes() const { return bytes_.load(std::memory_order_relaxed); }
  [[nodiscard]] uint64_t blocks() const;
  [[nodiscard]] uint64_t lag_ms() const;  // since when the oldest is on its way
  // Waits until everything that was pushed before the call is settled; false when that took too long.
  [[nodiscard]] bool wait_settled(std::chrono::milliseconds timeout) const;
  // Ends all waiting: what is on its way now stays there.
  void close();

 private:
  struct Waiting {
    DirtyBlock block;
    uint64_t number = 0;
  };
  struct OnItsWay {
    Lease lease;
    uint64_t number = 0;
    // Of the same key, written after the first was removed: its turn comes when the first has left the way.
    std::optional<Waiting> successor;
  };

  [[nodiscard]] bool is_current(const Key& key, const Lease& lease) const;
  // With the lock.
  uint64_t count_in(const Lease& lease);
  void count_out(const Lease& lease, uint64_t number);
  void drop_successor(OnItsWay& first);

  BlockStore& dram_;
  const Clock& clock_;
  mutable std::mutex mutex_;
  std::condition_variable arrived_;
  mutable std::condition_variable settled_;
  std::deque<DirtyBlock> line_;
  std::unordered_map<Key, OnItsWay, KeyHash> known_;
  std::map<uint64_t, uint64_t> pushed_ns_;  // by number: the first is the oldest
  uint64_t next_number_ = 1;
  bool closed_ = false;
  std::atomic<uint64_t> bytes_{0};
};

}  // namespace kvstore
