// The block store of one tenant: an index over the arena, and the life of each block in it.
//
//   reserve -> (writer fills the extent) -> publish -> visible -> evicted | expired | deleted
//                                        \-> abort
//
// A reserved block is in nobody's index. Publishing is atomic and the first publisher of a key wins. A reader holds a
// lease (a counted reference) while it uses the bytes; a block removed under a lease disappears from the index at once
// and gives its space back when the last lease ends. Space is a hard budget: reserving evicts what it must and
// answers kBusy when everything left is leased or reserved.
//
// Thread-safe. The keys of a batch are one chain in order, the first at `first_depth`. Every call made on behalf of one
// request carries that request's stamp (`next_stamp`), however many calls it takes: what they touch ages together, and
// the deeper is evicted first.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>

#include "base/clock.h"
#include "base/key.h"
#include "base/status.h"
#include "memory/arena.h"
#include "store/eviction.h"

namespace kvstore {

struct StoreOptions {
  uint64_t max_block_bytes = 64ull << 20;
  uint32_t shards = 64;  // a power of two, at most 256
};

// A reader's reference on a visible block. Give it back with `release` exactly once.
struct Lease {
  uint32_t slot = UINT32_MAX;
  uint32_t generation = 0;
  uint64_t offset = 0;  // in the arena, bytes
  uint32_t length = 0;  // bytes
  uint32_t crc = 0;     // CRC32C of the bytes
};

// A writer's space, invisible until published. Give it back with `publish` or `abort` exactly once.
struct Reservation {
  uint32_t slot = UINT32_MAX;
  uint32_t generation = 0;
  uint64_t offset = 0;  // in the arena, bytes
  uint32_t length = 0;  // bytes
  uint32_t depth = 0;   // with `stamp`, the block's rank for eviction once it is published
  Stamp stamp{};
};

// What is known of a visible block without a lease on it.
struct BlockInfo {
  uint32_t length = 0;
  uint32_t crc = 0;
};

// Bytes are of space taken (lengths rounded up to the allocator's granule). `leased_bytes` counts a block once however
// many leases it has, and a removed block until its last lease ends.
struct StoreStats {
  uint64_t capacity_bytes, used_bytes, reserved_bytes, leased_bytes;
  uint64_t blocks, leases, index_bytes;  // index_bytes: memory the store itself takes, arena excluded
  uint64_t hits, misses, puts, put_exists, put_conflicts, put_busy, put_too_large, put_aborted;
  uint64_t evicted_blocks, evicted_bytes, expired_blocks, deleted_blocks, quarantined_blocks;
};

class BlockStore {
 public:
  // Throws std::invalid_argument for a number of shards that is not allowed. The arena and the clock must outlive it.
  BlockStore(Arena& arena, StoreOptions options, const Clock& clock, std::unique_ptr<EvictionPolicy> policy);
  ~BlockStore();

  // The stamp of a new request: younger than all before it. Take one a request and give it to every call made for it.
  [[nodiscard]] Stamp next_stamp();

  // Readers. `acquire` fills leases[i] and statuses[i] (kOk or kMiss) for each key and touches what it found; counts
  // hits and misses. `match` is how many leading keys are visible; it touches them. `contains` touches and counts
  // nothing.
  void acquire(std::span<const Key> keys, Stamp stamp, uint32_t first_depth, std::span<Lease> leases,
               std::span<Status> statuses);
  void release(const Lease& lease);
  [[nodiscard]] uint32_t match(std::span<const Key> keys, Stamp stamp, uint32_t first_depth);
  void contains(std::span<const Key> keys, std::span<Status> statuses) const;
  [[nodiscard]] bool find(const Key& key, BlockInfo* info) const;

  // Writers. kOk, kBusy, kTooLarge or kInvalid (length 0). Duplicate reservations of one key are allowed: the first to
  // publish wins, the second learns kExists or kConflict. `ttl_ms` 0 is no expiry.
  Status reserve(const Key& key, uint32_t length, Stamp stamp, uint32_t depth, Reservation* reservation);
  Status publish(const Reservation& reservation, uint32_t crc, uint64_t ttl_ms);
  void abort(const Reservation& reservation);
  void count_conflict();  // a writer found another checksum before sending its bytes
  void count_exists();    // ... or the same one

  // Upkeep. `touch` also sets a new expiry unless ttl_ms is kKeepExpiry. statuses: kOk or kMiss.
  static constexpr uint64_t kKeepExpiry = UINT64_MAX;
  void touch(std::span<const Key> keys, Stamp stamp, uint32_t first_depth, uint64_t ttl_ms, std::span<Status> statuses);
  void erase(std::span<const Key> keys, std::span<Status> statuses);
  void quarantine(const Key& key, uint32_t crc);  // bytes found wrong: remove the block if it still has this checksum
  uint64_t evict(uint64_t bytes);                 // frees at least `bytes` if it can; returns the bytes freed
  // Removes the expired among the next `limit` places of the index (16 a shard at first, then at most 8/3 a block),
  // going on where the last call stopped; once round the index at most.
  void sweep_expired(uint32_t limit);

  // Called after each publish that made a block visible, outside all locks, on the publisher's thread. Set once, before
  // use.
  void on_publish(std::function<void(const Key&)> listener);

  [[nodiscard]] StoreStats stats() const;
  // Every invariant, slow: for tests. No other thread may be inside the store.
  [[nodiscard]] bool consistent() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace kvstore
