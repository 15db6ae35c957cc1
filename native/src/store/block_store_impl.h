// What the verbs of the block store share. Private to native/src/store; block_store.cpp states the lock order.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "store/block_pool.h"
#include "store/block_store.h"
#include "store/prefetch.h"
#include "store/slot_table.h"

namespace kvstore {

struct BlockStore::Impl {
  static constexpr uint32_t kNone = UINT32_MAX;
  static constexpr uint32_t kMaxShards = 256;
  static constexpr uint32_t kBatchKeys = 512;  // looked up together: bounds how long a batch holds the policy's lock

  struct alignas(64) Shard {
    std::mutex mutex;
    SlotTable table;
  };

  // A block that was visible when its shard was locked. Whoever uses it later compares the generation.
  struct Found {
    uint32_t slot;
    uint32_t generation;
  };
  using FoundStorage = std::array<Found, kBatchKeys>;
  // One Found a key, nothing found yet. Leaves the rest of the storage alone: most batches are short.
  static std::span<Found> nothing_found(FoundStorage& storage, size_t keys) {
    const std::span<Found> found = std::span(storage).first(keys);
    std::ranges::fill(found, Found{kNone, 0});
    return found;
  }

  using Counter = std::atomic<uint64_t>;
  struct Counters {
    Counter reserved_bytes{0}, leased_bytes{0}, leases{0};
    Counter hits{0}, misses{0};
    Counter puts{0}, put_exists{0}, put_conflicts{0}, put_busy{0}, put_too_large{0}, put_aborted{0};
    Counter evicted_bytes{0};
    std::array<Counter, 4> removed{};  // by Removal

    Counter& of(Removal reason) { return removed[static_cast<size_t>(reason)]; }
    [[nodiscard]] uint64_t of(Removal reason) const { return removed[static_cast<size_t>(reason)]; }
  };

  Impl(uint64_t capacity_bytes, const StoreOptions& store_options, const Clock& store_clock, Stamps& stamp_source,
       std::unique_ptr<EvictionPolicy> eviction_policy);

  // The shard takes the digest's high bits and the table its low ones.
  Shard& shard_of(const Key& key) { return shards[(key.digest() >> 56) & (shards.size() - 1)]; }
  static uint32_t tag_of(const Key& key) { return static_cast<uint32_t>(key.digest()); }

  // These six need the shard's lock. `find_live` removes the block it finds if that has expired. `remove` counts the
  // reason and frees the space unless the block is leased; the slot may belong to another block when it returns.
  uint32_t find_live(Shard& shard, const Key& key, uint64_t now_ms);
  void insert(Shard& shard, const Reservation& reservation);
  void remove(Shard& shard, uint32_t slot, Removal reason);
  Lease lease(uint32_t slot);
  [[nodiscard]] Lease unleased(uint32_t slot) const;  // what `lease` would answer
  void set_expiry(uint32_t slot, uint64_t expires_ms, Stamp stamp, uint32_t depth);

  // Calls on_found(slot) for a live block, with its shard locked; false where there is none.
  template <class OnFound>
  bool visit_one(const Key& key, OnFound&& on_found);
  // Calls on_found(index, slot) for each key of the batch with a live block, with its shard locked, in any order.
  template <class OnFound>
  void visit(std::span<const Key> keys, uint64_t now_ms, OnFound&& on_found);
  // Lists the indices of a batch's keys shard by shard, and calls work(shard, indices) for each with the shard locked.
  void group_by_shard(std::span<const Key> keys, std::span<uint16_t> order);
  template <class Work>
  void for_each_shard(std::span<const Key> keys, std::span<const uint16_t> order, Work&& work);

  // Touches those of a batch's blocks that are still what was found; found[i] is at depth first_depth + i.
  void touch(Stamp stamp, uint32_t first_depth, std::span<const Found> found);
  // Removes the policy's next victim and returns the bytes that this freed; 0 when there is none. Counts the candidates
  // it looks at down from `looks_left`, and gives up at 0.
  uint64_t evict_one(uint64_t* looks_left);
  Found next_victim(uint32_t limit, Key* key);
  // How many looks at candidates a caller may spend on eviction: enough for every block there is.
  uint64_t looks_allowed() const;

  Block& reserved_block(const Reservation& reservation);
  void give_back(const Reservation& reservation);

  // The steps of `restore`.
  void place(std::span<const StoredBlock> blocks, std::span<const SpaceRange> excluded, std::span<uint32_t> slots,
             std::span<Status> statuses);
  void rank(std::span<const StoredBlock> blocks, std::span<const uint32_t> slots);

  [[nodiscard]] size_t memory_bytes();
  [[nodiscard]] bool consistent();
  [[nodiscard]] bool shard_consistent(Shard& shard);
  [[nodiscard]] bool counters_consistent();

  const StoreOptions options;
  const Clock& clock;
  Stamps& stamps;
  BlockPool pool;
  std::vector<Shard> shards;
  std::mutex policy_mutex;
  const std::unique_ptr<EvictionPolicy> policy;
  const std::function<bool(uint32_t)> evictable;

  std::atomic<uint64_t> visible_blocks{0};
  // Visible blocks without a lease: the victims there are. May run a moment behind the blocks' own counts.
  std::atomic<int64_t> idle_blocks{0};
  Counters counters;

  std::mutex sweep_mutex;
  size_t sweep_shard = 0;
  uint32_t sweep_bucket = 0;

  std::function<void(const Key&)> listener;
  OnRemove remove_listener;
  std::function<void(const StoredBlock&)> expiry_listener;
};

template <class OnFound>
bool BlockStore::Impl::visit_one(const Key& key, OnFound&& on_found) {
  Shard& shard = shard_of(key);
  const std::lock_guard lock(shard.mutex);
  const uint32_t slot = find_live(shard, key, clock.now_ms());
  if (slot == kNone) return false;
  on_found(slot);
  return true;
}

template <class Work>
void BlockStore::Impl::for_each_shard(std::span<const Key> keys, std::span<const uint16_t> order, Work&& work) {
  for (size_t start = 0; start < order.size();) {
    Shard& shard = shard_of(keys[order[start]]);
    size_t end = start + 1;
    while (end < order.size() && &shard_of(keys[order[end]]) == &shard) ++end;
    const std::lock_guard lock(shard.mutex);
    work(shard, order.subspan(start, end - start));
    start = end;
  }
}

// Twice over the shards: first only to ask for the cache lines of every block, so that the misses of the whole batch
// overlap. Locking each shard again costs less than waiting in it.
template <class OnFound>
void BlockStore::Impl::visit(std::span<const Key> keys, uint64_t now_ms, OnFound&& on_found) {
  std::array<uint16_t, kBatchKeys> storage;
  const std::span<uint16_t> order = std::span(storage).first(keys.size());
  group_by_shard(keys, order);
  if (keys.size() > 1) {
    for_each_shard(keys, order, [&](Shard& shard, std::span<const uint16_t> indices) {
      for (const uint16_t index : indices) shard.table.prefetch_home(tag_of(keys[index]));
      for (const uint16_t index : indices) {
        const uint32_t slot = shard.table.likely(tag_of(keys[index]));
        if (slot != kNone) prefetch(&pool[slot]);
      }
    });
  }
  for_each_shard(keys, order, [&](Shard& shard, std::span<const uint16_t> indices) {
    for (const uint16_t index : indices) {
      const uint32_t slot = find_live(shard, keys[index], now_ms);
      if (slot != kNone) on_found(index, slot);
    }
  });
}

}  // namespace kvstore
