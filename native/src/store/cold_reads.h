// Reads of blocks that are on disk only: into DRAM, where they become visible, and on to whoever asked. However many
// ask for a block at once, it is read once. Reads do not wait for each other; what bounds them is the room in DRAM.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "store/disk_tier.h"

namespace kvstore {

// kOk with a lease in DRAM, which is the callee's to release; kMiss when the block is gone or its bytes are wrong.
// Called on a thread of the disk, with no lock held: must be short.
using FetchDone = std::function<void(Status, const Lease&)>;

struct ColdReadCounters {
  std::atomic<uint64_t> missed, joined, busy, wrong_checksums, cancelled;
};

// Thread-safe.
class ColdReads {
 public:
  ColdReads(std::byte* arena, BlockStore& dram, std::vector<std::unique_ptr<DiskTier>>& disks)
      : arena_(arena), dram_(dram), disks_(disks) {}

  // kOk: `done` will be called, exactly once. kMiss: no disk has the block, or DRAM is too small for it; kBusy: there
  // is no room for it in DRAM now, and kWrongSize: its length is not `length` (0: any), which is then in *found_length.
  // In these cases `done` is not called.
  [[nodiscard]] Status fetch(const Key& key, Stamp stamp, uint32_t depth, uint32_t length, uint32_t* found_length,
                             FetchDone done);
  // The block was deleted: a read under way shall not bring it back.
  void cancel(const Key& key);
  // Waits for what is under way. Nothing may be fetched any more.
  void drain();

  [[nodiscard]] const ColdReadCounters& counters() const { return counters_; }

 private:
  struct Read {
    Key key{};
    DiskTier* disk = nullptr;
    Lease on_disk;
    Reservation room;
    bool cancelled = false;
    std::vector<FetchDone> waiting;
  };

  DiskTier* find(const Key& key, Stamp stamp, uint32_t depth, Lease* lease) const;
  bool join(const Read& read, FetchDone& done);  // with the lock
  void start(const std::shared_ptr<Read>& read);
  void on_read(const std::shared_ptr<Read>& read, int error);
  bool adopt(const Read& read, Lease* lease);  // with the lock
  static bool find_on_disk(const Read& read, Lease* now);

  std::byte* const arena_;
  BlockStore& dram_;
  std::vector<std::unique_ptr<DiskTier>>& disks_;
  ColdReadCounters counters_{};
  std::mutex mutex_;
  std::condition_variable ended_;
  // The read that a key can be joined to: not one that was cancelled, nor one of an earlier block of the key.
  std::unordered_map<Key, std::shared_ptr<Read>, KeyHash> open_;
  uint32_t active_ = 0;  // reads whose callbacks have not all returned
};

}  // namespace kvstore
