// The blocks of one tier: an index over a linear space (the arena in DRAM, or a disk), and the life of each block in
// it. It never looks at the space itself.
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
#include <vector>

#include "base/clock.h"
#include "base/key.h"
#include "base/status.h"
#include "store/eviction.h"
#include "store/stamps.h"

namespace kvstore {

struct StoreOptions {
  uint64_t max_block_bytes = 64ull << 20;
  uint32_t shards = 64;  // a power of two, at most 256
  // Whether `reserve` makes room by evicting. Off where space comes back later than it is evicted (see `on_remove`).
  bool evict_to_reserve = true;
};

// A reader's reference on a visible block. Give it back with `release` exactly once.
struct Lease {
  uint32_t slot = UINT32_MAX;
  uint32_t generation = 0;
  uint64_t offset = 0;  // in the space, bytes
  uint32_t length = 0;  // bytes
  uint32_t crc = 0;     // CRC32C of the bytes
  uint64_t expires_ms = 0;

  [[nodiscard]] bool is_of_same_block(const Lease& other) const {
    return slot == other.slot && generation == other.generation;
  }
};

// A writer's space, invisible until published. Give it back with `publish` or `abort` exactly once.
struct Reservation {
  uint32_t slot = UINT32_MAX;
  uint32_t generation = 0;
  uint64_t offset = 0;  // in the space, bytes
  uint32_t length = 0;  // bytes
  uint32_t depth = 0;   // with `stamp`, the block's rank for eviction once it is published
  Stamp stamp{};
};

// What is known of a visible block without a lease on it.
struct BlockInfo {
  uint32_t length = 0;
  uint32_t crc = 0;
};

// A block and its place, as one that lay in the space before this process began.
struct StoredBlock {
  Key key{};
  uint64_t offset = 0;
  uint32_t length = 0;
  uint32_t crc = 0;
  uint32_t depth = 0;
  Stamp stamp{};
  uint64_t expires_ms = 0;
};

// A run of the space that holds no blocks.
struct SpaceRange {
  uint64_t offset = 0;
  uint64_t bytes = 0;
};

enum class Removal : uint8_t { kEvicted, kExpired, kDeleted, kQuarantined };

// Bytes are of space taken (lengths rounded up to the allocator's granule). `leased_bytes` counts a block once however
// many leases it has, and a removed block until its last lease ends.
struct StoreStats {
  uint64_t capacity_bytes, used_bytes, reserved_bytes, leased_bytes;
  uint64_t blocks, leases, index_bytes;  // index_bytes: memory the store itself takes
  uint64_t hits, misses, puts, put_exists, put_conflicts, put_busy, put_too_large, put_aborted;
  uint64_t evicted_blocks, evicted_bytes, expired_blocks, deleted_blocks, quarantined_blocks;
};

class BlockStore {
 public:
  // Throws std::invalid_argument for a number of shards that is not allowed. Stamps and clock must outlive it.
  BlockStore(uint64_t capacity_bytes, StoreOptions options, const Clock& clock, Stamps& stamps,
             std::unique_ptr<EvictionPolicy> policy);
  ~BlockStore();

  // Fills a new store with what lies in the space already. statuses: kOk; kInvalid (outside, or over another block or
  // an excluded range); kExists (the key came before). `excluded` ranges ascend and are never handed out.
  void restore(std::span<const StoredBlock> blocks, std::span<const SpaceRange> excluded, std::span<Status> statuses);

  // Readers. `acquire` fills leases[i] and statuses[i] (kOk or kMiss) for each key and touches what it found; counts
  // hits and misses. `match` is how many leading keys are visible; it touches them. `contains` touches and counts
  // nothing.
  void acquire(std::span<const Key> keys, Stamp stamp, uint32_t first_depth, std::span<Lease> leases,
               std::span<Status> statuses);
  void release(const Lease& lease);
  // A lease without a touch and without being counted as a hit or a miss; false when the block is not visible.
  [[nodiscard]] bool hold(const Key& key, Lease* lease);
  // What `hold` would answer, without the lease: there is nothing to release.
  [[nodiscard]] bool look(const Key& key, Lease* lease) const;
  // One more lease on what is leased already.
  [[nodiscard]] Lease share(const Lease& lease);
  [[nodiscard]] uint32_t match(std::span<const Key> keys, Stamp stamp, uint32_t first_depth);
  void contains(std::span<const Key> keys, std::span<Status> statuses) const;
  [[nodiscard]] bool find(const Key& key, BlockInfo* info) const;

  // Writers. kOk, kBusy, kTooLarge or kInvalid (length 0). Duplicate reservations of one key are allowed: the first to
  // publish wins, the second learns kExists or kConflict. `ttl_ms` 0 is no expiry.
  Status reserve(const Key& key, uint32_t length, Stamp stamp, uint32_t depth, Reservation* reservation);
  [[nodiscard]] uint64_t reserved_bytes() const;  // of all reservations
  Status publish(const Reservation& reservation, uint32_t crc, uint64_t ttl_ms);
  // The same with the time on the store's clock at which the block expires, and with a lease on the block that is
  // visible afterwards: this one (kOk) or its first writer's (kExists); on kConflict there is none.
  Status publish_until(const Reservation& reservation, uint32_t crc, uint64_t expires_ms, Lease* lease);
  // The same for a block that comes from another tier: not counted as a put, and nobody is told.
  Status adopt(const Reservation& reservation, uint32_t crc, uint64_t expires_ms, Lease* lease);
  [[nodiscard]] uint64_t expiry_ms(uint64_t ttl_ms) const;
  void abort(const Reservation& reservation);
  void withdraw(const Reservation& reservation);  // the same, where nobody's put failed
  void count_busy();                              // a writer was refused before it could reserve
  void count_conflict();                          // a writer found another checksum before sending its bytes
  void count_exists();                            // ... or the same one

  // Upkeep. `touch` also sets a new expiry unless ttl_ms is kKeepExpiry. statuses: kOk or kMiss.
  static constexpr uint64_t kKeepExpiry = UINT64_MAX;
  void touch(std::span<const Key> keys, Stamp stamp, uint32_t first_depth, uint64_t ttl_ms, std::span<Status> statuses);
  // A new expiry as a time on the store's clock, for a block that another tier knows better. Not a touch.
  void set_expiry(const Key& key, uint64_t expires_ms, Stamp stamp, uint32_t depth);
  void erase(std::span<const Key> keys, std::span<Status> statuses);
  void quarantine(const Key& key, uint32_t crc);  // bytes found wrong: remove the block if it still has this checksum
  uint64_t evict(uint64_t bytes);                 // frees at least `bytes` if it can; returns the bytes freed
  // Removes the expired among the next `limit` places of the index (16 a shard at first, then at most 8/3 a block),
  // going on where the last call stopped; once round the index at most.
  void sweep_expired(uint32_t limit);

  // Every visible key of one shard, for walking through all of them a shard at a time.
  [[nodiscard]] uint32_t shards() const;
  void keys_of_shard(uint32_t shard, std::vector<Key>* keys) const;

  // Called for each block that leaves the index, with its shard locked: must be short and must not call the store but
  // for `release`. The lease is the listener's: the space is taken until it is released. Set once, before use.
  using OnRemove = std::function<void(const Key&, const Lease&, Removal)>;
  void on_remove(OnRemove listener);

  // Called for each block that gets a new expiry, with its shard locked, as above.
  void on_new_expiry(std::function<void(const StoredBlock&)> listener);

  // Called after each publish that made a block visible, outside all locks, on the publisher's thread. Set once, before
  // use.
  void on_publish(std::function<void(const Key&)> listener);

  [[nodiscard]] uint64_t used_bytes() const;
  [[nodiscard]] StoreStats stats() const;
  // Every invariant, slow: for tests. No other thread may be inside the store.
  [[nodiscard]] bool consistent() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace kvstore
