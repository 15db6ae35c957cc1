// What a sync answers for: each write exactly once, and never for what a failure swept away. And errors injected at
// each verb of a disk.
#include <atomic>
#include <cerrno>
#include <vector>

#include "base/failpoint.h"
#include "disk/extent_disk.h"
#include "disk/sync_ledger.h"
#include "extent_disk_fixture.h"

namespace kvstore {
namespace {

using namespace test;

struct Armed {
  explicit Armed(const char* rules) { Failpoints::arm(rules); }
  ~Armed() { Failpoints::disarm(); }
};

// One whole call of sync whose every fdatasync ends with `error`; how many there were, and what was answered.
struct Answer {
  size_t files = 0;
  int error = 0;
  bool operator==(const Answer&) const = default;
};
Answer sync(SyncLedger& ledger, int error) {
  const auto duties = ledger.sync_starts();
  Answer answer{duties.size(), 0};
  for (const auto& duty : duties) {
    const int told = ledger.sync_done(duty, error);
    if (answer.error == 0) answer.error = told;
  }
  return answer;
}

void write(SyncLedger& ledger, size_t file) { ledger.write_done(file, ledger.write_starts(file)); }

}  // namespace

TEST(disk_sync, only_written_files_are_synced) {
  SyncLedger ledger(3);
  CHECK((sync(ledger, 0) == Answer{0, 0}));
  write(ledger, 1);
  write(ledger, 1);
  CHECK((sync(ledger, 0) == Answer{1, 0}));
  CHECK((sync(ledger, 0) == Answer{0, 0}));
  write(ledger, 0);
  write(ledger, 2);
  CHECK((sync(ledger, 0) == Answer{2, 0}));
}

TEST(disk_sync, a_file_that_failed_is_synced_again) {
  SyncLedger ledger(2);
  write(ledger, 0);
  CHECK((sync(ledger, EIO) == Answer{1, EIO}));
  CHECK((sync(ledger, ENOSPC) == Answer{1, ENOSPC}));
  CHECK((sync(ledger, 0) == Answer{1, 0}));
  CHECK((sync(ledger, 0) == Answer{0, 0}));
}

TEST(disk_sync, a_write_during_a_sync_waits_for_the_next) {
  SyncLedger ledger(1);
  write(ledger, 0);
  const auto duties = ledger.sync_starts();
  write(ledger, 0);
  CHECK_EQ(ledger.sync_done(duties[0], 0), 0);
  CHECK((sync(ledger, 0) == Answer{1, 0}));
  CHECK((sync(ledger, 0) == Answer{0, 0}));
}

// The write was done when fdatasync failed, and its owner, who asks only afterwards, must not be told that all is well.
TEST(disk_sync, a_write_swept_along_by_a_failure_is_told_by_the_next_call) {
  SyncLedger ledger(1);
  write(ledger, 0);
  const auto duties = ledger.sync_starts();
  write(ledger, 0);
  CHECK_EQ(ledger.sync_done(duties[0], EIO), EIO);
  CHECK((sync(ledger, 0) == Answer{1, EIO}));
  write(ledger, 0);  // once more
  CHECK((sync(ledger, 0) == Answer{1, 0}));
}

TEST(disk_sync, so_is_a_write_that_was_under_way) {
  SyncLedger ledger(1);
  write(ledger, 0);
  const uint64_t under_way = ledger.write_starts(0);
  CHECK((sync(ledger, EIO) == Answer{1, EIO}));
  ledger.write_done(0, under_way);
  CHECK((sync(ledger, 0) == Answer{1, EIO}));
  CHECK((sync(ledger, 0) == Answer{0, 0}));
}

TEST(disk_sync, a_failure_stays_with_its_file) {
  SyncLedger ledger(2);
  write(ledger, 0);
  write(ledger, 1);
  const auto duties = ledger.sync_starts();
  CHECK_EQ(ledger.sync_done(duties[0], EIO), EIO);
  CHECK_EQ(ledger.sync_done(duties[1], 0), 0);
  CHECK((sync(ledger, 0) == Answer{1, 0}));
}

TEST(disk_sync, injected_errors_reach_the_caller_and_pass) {
  const TemporaryDirectory directory;
  ExtentDisk disk(small_disk(directory.path()));
  const AlignedBytes bytes(4096, 1);
  {
    const Armed armed("disk.write=error:ENOSPC@1;disk.read=error:EIO@2;disk.sync=error:EIO@1");
    CHECK_EQ(write_and_wait(disk, 4096, bytes), ENOSPC);
    CHECK_EQ(disk.sync(), 0);  // nothing was written
    CHECK_EQ(Failpoints::passes("disk.sync"), 0u);
    CHECK_EQ(write_and_wait(disk, 4096, bytes), 0);
    CHECK_EQ(read_and_wait(disk, 4096, bytes), 0);
    CHECK_EQ(read_and_wait(disk, 4096, bytes), EIO);
    CHECK_EQ(disk.sync(), EIO);
    CHECK_EQ(disk.sync(), 0);
    CHECK_EQ(disk.sync(), 0);
    CHECK_EQ(Failpoints::passes("disk.sync"), 2u);
  }
  CHECK(holds(disk, 4096, 4096, 1));
}

TEST(disk_sync, runs_beside_writes_and_reads) {
  const TemporaryDirectory directory;
  ExtentDisk disk(small_disk(directory.path()));
  std::atomic<int> errors{0};
  std::vector<std::thread> threads;
  for (uint64_t thread = 0; thread < 3; ++thread) {
    threads.emplace_back([&, thread] {
      for (uint64_t i = 0; i < 20; ++i) {
        const uint64_t offset = kDiskGranuleBytes * (1 + 100 * thread);
        errors += write_and_wait(disk, offset, AlignedBytes(8192, i)) != 0;
        errors += disk.sync() != 0;
        errors += !holds(disk, offset, 8192, i);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK_EQ(errors.load(), 0);
}

}  // namespace kvstore
