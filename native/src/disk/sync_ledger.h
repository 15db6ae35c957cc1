// Which extent files must be synced, and what became of it.
//
// A failed fdatasync is final for the writes that it should have saved: the kernel reports the error once and then
// takes the pages for clean, and a device may have dropped its cache, so that the next call succeeds without having
// saved them (databases know this as "fsyncgate"). So each write is answered for by the first sync that begins after it
// was done, and by no later one. A write that a failing fdatasync of an earlier call may have swept along, although it
// was done only after that call began, must hear of the failure too: the next call answers it.
// Not thread-safe: the owner locks. One sync at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace kvstore {

class SyncLedger {
 public:
  // One file's part of one call of sync.
  struct Duty {
    size_t file = 0;
    uint64_t writes = 0;  // done on the file when the call began
    int error = 0;        // of an earlier call, not yet told
  };

  explicit SyncLedger(size_t files) : files_(files) {}

  // What `write_done` wants to know of the moment when the write began.
  [[nodiscard]] uint64_t write_starts(size_t file) const { return files_[file].failures; }
  void write_done(size_t file, uint64_t failures_at_start);

  // The files that this call must fdatasync: written since their last success.
  [[nodiscard]] std::vector<Duty> sync_starts();
  // `error`: of the fdatasync. Returns what this file adds to the answer of the call.
  [[nodiscard]] int sync_done(const Duty& duty, int error);

 private:
  struct File {
    uint64_t writes = 0;  // done well, ever
    uint64_t writes_synced = 0;
    uint64_t failures = 0;
    int last_error = 0;
    int untold_error = 0;
  };

  std::vector<File> files_;
};

}  // namespace kvstore
