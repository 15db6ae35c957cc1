// One disk as a tier: an index over its space, write-back from DRAM, and the rows that the catalog shall hold.
//
//   queue -> reserve space -> write -> [sync -> commit rows] -> visible on disk, and the hold on DRAM ends
//   removed from the index -> [commit the row's deletion] -> space free
//
// What is in brackets is done by the catalog's thread, which calls `next_commit` and `finish_commit` in turn and brings
// the rows into RocksDB in between: everything that was written or removed in the meantime goes in one commit. A block
// is visible here only once its row is committed, and its space is used again only once the row's deletion is, so that
// a crash at any moment leaves a catalog whose every row names the bytes that were meant.
//
// Trouble: after a failed write, sync or commit what is on its way goes back to the queue, where other disks find it,
// and the tier tries again every second. Nothing is dropped meanwhile and nothing is claimed to be durable.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "disk/disk.h"
#include "store/block_store.h"
#include "store/catalog_row.h"
#include "store/write_queue.h"

namespace kvstore {

struct CatalogOperation {
  std::string key;
  std::optional<std::string> value;  // nullopt: delete
};

struct Commit {
  uint64_t id = 0;
  std::vector<CatalogOperation> operations;  // to be applied in this order
};

struct UnusableRow {
  const char* why;
  std::string key;  // in the catalog
};

struct DiskTierCounters {
  std::atomic<uint64_t> written_blocks, written_bytes, read_blocks, read_bytes, write_errors, read_errors, sync_errors;
  std::atomic<uint64_t> commits, commit_errors, troubles, quarantined_bytes;
};

class DiskTier {
 public:
  struct Options {
    uint64_t max_block_bytes = 64ull << 20;
    uint32_t writes_in_flight = 128;
    uint64_t write_bytes_in_flight = 16ull << 20;  // or one write
    // A group of rows is committed this long after the one before at the earliest, unless somebody waits for it.
    std::chrono::milliseconds commit_interval{10};
    std::chrono::milliseconds retry_interval{1000};
  };

  // `arena` is what the leases of the queue's blocks point into.
  DiskTier(Disk& disk, const std::byte* arena, BlockStore& dram, WriteQueue& queue, const Clock& clock, Stamps& stamps,
           std::unique_ptr<EvictionPolicy> policy, Options options);
  ~DiskTier();

  // What the catalog holds, before `start`. `finish_recovery` makes the blocks visible; rows in `lost` ranges, and
  // those that are damaged, expired or in each other's way, are returned.
  void recover(std::string_view catalog_key, std::string_view value);
  [[nodiscard]] std::vector<UnusableRow> finish_recovery(std::span<const DiskRange> lost);
  // After `finish_recovery` of all disks. Where a block was deleted on one disk and written again to another, and the
  // process ended before the deletion was committed, both have the key: the latest stays.
  static void end_recovery(std::span<const std::unique_ptr<DiskTier>> disks);
  // Pins found in the catalog; the blocks they name are on this disk.
  [[nodiscard]] std::vector<PinRow> take_recovered_pins() { return std::move(recovered_pins_); }

  void start();
  // Ends write-back and waits for what is in flight. Idempotent.
  void stop();

  // For the catalog's thread: one commit at a time. nullopt when there is nothing to do within the time, or after
  // `stop`.
  [[nodiscard]] std::optional<Commit> next_commit(std::chrono::milliseconds timeout);
  void finish_commit(uint64_t id, bool committed, const std::string& error);

  // Blocks that are on disk. What is removed from it, or gets another expiry, is so in the catalog with the next
  // commit.
  [[nodiscard]] BlockStore& index() { return index_; }
  [[nodiscard]] const BlockStore& index() const { return index_; }
  [[nodiscard]] Disk& disk() { return disk_; }
  [[nodiscard]] DiskTierCounters& counters() { return counters_; }

  // Adds an operation of somebody else (a pin) to the next commit.
  void commit_also(CatalogOperation operation);
  // Waits until every operation so far is committed.
  [[nodiscard]] bool wait_committed(std::chrono::milliseconds timeout);
  // Somebody waits: do not wait for the commit interval.
  void hurry();

  [[nodiscard]] bool healthy() const { return !troubled_.load(); }
  [[nodiscard]] std::string trouble() const;  // what went wrong last; "" when healthy
  [[nodiscard]] uint64_t largest_block_bytes() const { return largest_block_bytes_; }  // that fits on the empty disk

  // Between times on the clock, where kNever is never and 0 long ago, and times that keep their meaning on disk.
  [[nodiscard]] uint64_t to_unix_ms(uint64_t expires_ms) const;
  [[nodiscard]] uint64_t from_unix_ms(uint64_t expires_unix_ms) const;

  // Set before `start`; called with no lock held. `on_durable`: the block is on disk, or will not be. `on_healed`:
  // after trouble.
  void on_durable(std::function<void(const Key&)> listener) { durable_listener_ = std::move(listener); }
  void on_healed(std::function<void()> listener) { healed_listener_ = std::move(listener); }
  // Blocks have left their way to this disk: once for all of a commit.
  void on_room(std::function<void()> listener) { room_listener_ = std::move(listener); }

 private:
  struct Operation {
    CatalogOperation catalog;
    // What a block's row is about; nullopt: somebody else's row. See `still_holds`.
    std::optional<Key> block{};
    uint64_t offset = 0;
    std::optional<Lease> frees{};         // space to give back once the deletion is committed
    std::optional<Reservation> undoes{};  // the same for a block that never became visible
    bool keep_space = false;              // the extent is bad: never use it again
  };
  struct Latest {
    DiskTier* disk = nullptr;
    Stamp stamp{};
  };
  using LatestBlocks = std::unordered_map<Key, Latest, KeyHash>;
  struct Written {
    DirtyBlock block;
    Reservation space;
    uint64_t failed_syncs = 0;  // as counted when the write began

    [[nodiscard]] StoredBlock stored(uint64_t expires_ms) const {
      return {block.key, space.offset, block.lease.length, block.lease.crc, block.depth, block.stamp, expires_ms};
    }
  };

  static LatestBlocks keys_on_several(std::span<const std::unique_ptr<DiskTier>> disks);
  void write_loop();
  bool wait_for_turn();
  [[nodiscard]] bool has_turn() const;
  [[nodiscard]] bool may_write() const;  // with the lock
  bool make_room(const DirtyBlock& block, Reservation* space);
  void evict_ahead();
  [[nodiscard]] uint64_t freeing_bytes() const;
  void start_write(const DirtyBlock& block, const Reservation& space);
  void on_written(const Written& written, int error);
  [[nodiscard]] bool may_commit() const;
  void on_removed(const Key& key, const Lease& lease, Removal reason);
  void on_new_expiry(const StoredBlock& block);
  void push_operation(Operation operation);
  bool take_group(std::chrono::milliseconds timeout);
  [[nodiscard]] bool due() const;  // with the lock
  [[nodiscard]] CatalogOperation row_of(const StoredBlock& block) const;
  void publish(const Written& written);
  void make_visible(const Written& written);
  void take_back(const Written& written);
  void end_way(const DirtyBlock& block);
  bool drop(const Written& written);
  [[nodiscard]] bool still_holds(const Operation& operation);
  [[nodiscard]] uint64_t expiry_in_dram(const DirtyBlock& block) const;
  void free_space(const std::vector<Operation>& operations);
  static uint64_t nanoseconds(std::chrono::milliseconds time) {
    return static_cast<uint64_t>(std::chrono::nanoseconds(time).count());
  }
  void fail(const std::string& what);
  void heal();

  static constexpr size_t kOperationsMax = 4096;  // in one commit

  Disk& disk_;
  const std::byte* const arena_;
  BlockStore& dram_;
  WriteQueue& queue_;
  const Clock& clock_;
  const Options options_;
  const uint64_t largest_block_bytes_;
  BlockStore index_;
  DiskTierCounters counters_{};
  std::function<void(const Key&)> durable_listener_;
  std::function<void()> healed_listener_;
  std::function<void()> room_listener_;

  std::vector<StoredBlock> recovered_;
  std::vector<PinRow> recovered_pins_;
  std::vector<UnusableRow> unusable_;

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::condition_variable turn_;  // of the writer, which is woken for each block that was written
  std::deque<Operation> operations_;
  std::vector<Written> written_;
  std::vector<Operation> committing_operations_;
  std::vector<Written> committing_written_;
  uint64_t commit_id_ = 0;  // of the commit under way; 0: none
  uint64_t next_commit_id_ = 1;
  uint64_t operations_made_ = 0;
  uint64_t operations_done_ = 0;
  uint64_t freeing_bytes_ = 0;  // removed, and the deletion is not committed yet
  uint32_t in_flight_ = 0;
  uint64_t in_flight_bytes_ = 0;
  uint64_t committed_ns_ = 0;
  uint64_t retry_ns_ = 0;
  bool hurried_ = false;
  bool stopping_ = false;
  bool write_failed_ = false;  // the last one: trouble that only a write can end
  uint64_t probe_ns_ = 0;      // when a commit may try next whether trouble is over
  uint64_t failed_syncs_ = 0;
  std::string trouble_;
  std::atomic<bool> troubled_{false};
  std::thread writer_;
};

}  // namespace kvstore
