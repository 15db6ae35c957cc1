// The store of a node: DRAM in front and, where there are disks, NVMe behind. What a session calls.
//
// Without disks it is the BlockStore of the arena and nothing else. With disks:
//   - a block that is published is held in DRAM until a disk has it, as far as admission says so (`Admission`);
//   - what is on its way to the disks is at most half of DRAM: `may_write` says when writers have to wait;
//   - a block is present when either tier has it; what only a disk has comes to DRAM through `fetch`.
//
// Thread-safe. Keys of a batch are one chain in order, as in BlockStore.
#pragma once

#include <algorithm>
#include <string>
#include <utility>

#include "store/cold_reads.h"
#include "store/pins.h"

namespace kvstore {

enum class Admission : uint8_t {
  kEager,            // every block goes to disk
  kAfterFirstReuse,  // a block goes to disk when it is used for the first time after it was written
  kOff,              // only what is asked for: durable puts and `flush`
};

struct TieredStoreOptions {
  uint64_t max_block_bytes = 64ull << 20;
  Admission admission = Admission::kEager;
  uint32_t pin_share_percent = 50;  // of the tier that keeps blocks longest
  DiskTier::Options disk{};
};

class TieredStore {
 public:
  // `arena` has `arena_bytes`; it, the clock and the disks must outlive the store.
  TieredStore(std::byte* arena, uint64_t arena_bytes, std::span<const std::unique_ptr<Disk>> disks, const Clock& clock,
              TieredStoreOptions options);
  ~TieredStore();

  void start();  // what the disks hold was handed over before
  void stop();   // ends write-back and waits for reads under way; idempotent

  [[nodiscard]] Stamp next_stamp() { return stamps_.next(); }

  // ---- readers
  // As BlockStore: DRAM alone. What is a miss may be had by `fetch`.
  void acquire(std::span<const Key> keys, Stamp stamp, uint32_t first_depth, std::span<Lease> leases,
               std::span<Status> statuses);
  void release(const Lease& lease) { dram_.release(lease); }
  [[nodiscard]] static bool all_in_dram(std::span<const Status> statuses) {
    return std::ranges::find(statuses, Status::kMiss) == statuses.end();
  }
  // See ColdReads::fetch.
  [[nodiscard]] Status fetch(const Key& key, Stamp stamp, uint32_t depth, uint32_t length, uint32_t* found_length,
                             FetchDone done);
  // Both tiers.
  [[nodiscard]] uint32_t match(std::span<const Key> keys, Stamp stamp, uint32_t first_depth);
  void contains(std::span<const Key> keys, std::span<Status> statuses) const;
  [[nodiscard]] bool find(const Key& key, BlockInfo* info) const;

  // ---- writers
  // Whether there is room for `bytes` more beside what is on its way to the disks; false: wait, it is being written.
  // While no disk takes anything, DRAM serves alone: true.
  [[nodiscard]] bool may_write(uint64_t bytes) const;
  // Whether waiting helps a writer that found no room: disks are taking blocks over from DRAM.
  [[nodiscard]] bool makes_room() const { return has_disks() && any_healthy() && dirty_bytes() > 0; }
  Status reserve(const Key& key, uint32_t length, Stamp stamp, uint32_t depth, Reservation* reservation) {
    return dram_.reserve(key, length, stamp, depth, reservation);
  }
  // `durable` sends the block to disk whatever admission says.
  Status publish(const Key& key, const Reservation& reservation, uint32_t crc, uint64_t ttl_ms, bool durable);
  void abort(const Reservation& reservation) { dram_.abort(reservation); }
  void count_busy() { dram_.count_busy(); }
  void count_exists() { dram_.count_exists(); }
  void count_conflict() { dram_.count_conflict(); }
  // What has become of a block that shall be durable. kOk: it is. kBusy: on its way. kNotDurable: it is not, and will
  // not be soon. Sends a block to disk that is in DRAM only.
  [[nodiscard]] Status make_durable(const Key& key);
  // Everything that is visible now is durable, and every deletion so far is committed; false when that took too long.
  [[nodiscard]] bool flush(std::chrono::milliseconds timeout);

  // Keeps the blocks from eviction for `ttl_ms`, on disk where there is one; ttl_ms 0 unpins. statuses: kOk, kMiss,
  // kBusy (over the share of pins) or kNotDurable (no disk took the block, or not in time). Blocks.
  void pin(std::span<const Key> keys, const std::string& owner, uint64_t ttl_ms, std::chrono::milliseconds timeout,
           std::span<Status> statuses);

  // ---- upkeep
  void touch(std::span<const Key> keys, Stamp stamp, uint32_t first_depth, uint64_t ttl_ms, std::span<Status> statuses);
  void erase(std::span<const Key> keys, std::span<Status> statuses);
  // The bytes in DRAM are wrong: they shall not go to disk either.
  void quarantine(const Key& key, uint32_t crc);
  uint64_t evict(uint64_t bytes) { return dram_.evict(bytes); }
  void sweep_expired(uint32_t limit);

  void on_publish(std::function<void(const Key&)> listener) { dram_.on_publish(std::move(listener)); }
  // A block is durable now, or will not be: ask `make_durable`. Called with no lock held. Set once, before `start`.
  void on_durable(std::function<void(const Key&)> listener);
  // Writers that found no room may find some now. As `on_durable`.
  void on_room(const std::function<void()>& listener);

  [[nodiscard]] BlockStore& dram() { return dram_; }
  [[nodiscard]] std::vector<std::unique_ptr<DiskTier>>& disks() { return disks_; }
  [[nodiscard]] bool has_disks() const { return !disks_.empty(); }
  // Where every block goes that DRAM has no room for: 0 where eviction from DRAM loses blocks.
  [[nodiscard]] uint64_t overflow_bytes() const;
  [[nodiscard]] bool any_healthy() const;  // at least one disk takes blocks
  [[nodiscard]] std::vector<std::pair<std::string, uint64_t>> stats() const;

 private:
  Status pin_one(const Key& key, const std::string& owner, uint64_t expires_ms);
  [[nodiscard]] uint64_t dirty_bytes() const { return queue_.bytes() + dram_.reserved_bytes(); }
  [[nodiscard]] bool find_on_disk(const Key& key, BlockInfo* info) const;
  [[nodiscard]] bool on_disk(const Key& key) const;
  [[nodiscard]] bool can_save(uint32_t length) const;
  Status give_up(const Reservation& reservation, uint32_t crc, const BlockInfo& first);
  void send_to_disk(const Key& key, const Lease& lease, uint32_t depth, Stamp stamp);
  // Sends a block that is in DRAM, not on disk and not on its way; true if it did.
  bool save(const Key& key, uint32_t depth, Stamp stamp);
  void save_all();
  void erase_on_disks(std::span<const Key> keys, std::span<Status> statuses);
  void touch_disks(std::span<const Key> keys, Stamp stamp, uint32_t first_depth);
  void on_reuse(std::span<const Key> keys, Stamp stamp, uint32_t first_depth);

  const TieredStoreOptions options_;
  const Clock& clock_;
  const uint64_t dirty_bytes_max_;
  uint64_t durable_bytes_max_ = UINT64_MAX;  // what fits on every disk: the line to them is one
  Stamps stamps_;
  BlockStore dram_;
  WriteQueue queue_;
  std::vector<std::unique_ptr<DiskTier>> disks_;
  ColdReads cold_;
  Pins pins_;
  std::atomic<uint64_t> pins_swept_ms_{0};
  std::mutex save_mutex_;
  std::atomic<bool> unsaved_{false};  // DRAM may hold blocks that were never sent to a disk
};

}  // namespace kvstore
