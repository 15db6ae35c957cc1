// The disk in memory behaves as its switches say: what other tests conclude from it must rest on something.
#include <chrono>
#include <set>
#include <vector>

#include "disk_fixture.h"
#include "fake_disk.h"

namespace kvstore {
namespace {

using namespace test;

constexpr uint64_t kCapacity = 1 << 20;

// Where a granule's bytes come from, sector by sector.
enum class Content { kOld, kNew, kTorn, kStrange };

Content content_of(const AlignedBytes& found, const AlignedBytes& old_bytes, const AlignedBytes& new_bytes) {
  if (found == old_bytes) return Content::kOld;
  if (found == new_bytes) return Content::kNew;
  for (uint32_t at = 0; at < found.bytes(); at += 512) {
    if (std::memcmp(found.data() + at, old_bytes.data() + at, 512) != 0 &&
        std::memcmp(found.data() + at, new_bytes.data() + at, 512) != 0) {
      return Content::kStrange;
    }
  }
  return Content::kTorn;
}

}  // namespace

TEST(disk_fake, keeps_bytes) {
  MemoryDisk disk(kCapacity, {{0, 4096}});
  CHECK_EQ(disk.capacity_bytes(), kCapacity);
  CHECK_EQ(disk.reserved().size(), 1u);
  CHECK_EQ(write_and_wait(disk, 8192, AlignedBytes(64 << 10, 1)), 0);
  CHECK(holds(disk, 8192, 64 << 10, 1));
  CHECK_EQ(disk.sync(), 0);
  CHECK_EQ(disk.writes(), 1u);
  CHECK_EQ(disk.reads(), 1u);
  CHECK_EQ(disk.syncs(), 1u);
  CHECK_ABORTS(disk.read(0, AlignedBytes(4096).data(), 4096, [](int) {}));
  CHECK_ABORTS(disk.read(kCapacity, AlignedBytes(4096).data(), 4096, [](int) {}));
}

TEST(disk_fake, fails_as_often_as_told) {
  MemoryDisk disk(kCapacity);
  const AlignedBytes bytes(4096, 1);
  disk.fail_next(DiskVerb::kWrite, 2, ENOSPC);
  disk.fail_next(DiskVerb::kRead, 1, EIO);
  CHECK_EQ(write_and_wait(disk, 0, bytes), ENOSPC);
  CHECK_EQ(write_and_wait(disk, 0, bytes), ENOSPC);
  CHECK_EQ(write_and_wait(disk, 0, bytes), 0);
  CHECK_EQ(read_and_wait(disk, 0, bytes), EIO);
  CHECK_EQ(read_and_wait(disk, 0, bytes), 0);
  disk.fail_all(DiskVerb::kSync, EROFS);
  for (int i = 0; i < 5; ++i) CHECK_EQ(disk.sync(), EROFS);
  disk.heal();
  CHECK_EQ(disk.sync(), 0);
}

TEST(disk_fake, holds_and_releases) {
  MemoryDisk disk(kCapacity);
  const AlignedBytes bytes(4096, 1);
  disk.hold();
  Outcome first;
  Outcome second;
  disk.write(0, bytes.data(), bytes.bytes(), first.done());
  disk.write(4096, bytes.data(), bytes.bytes(), second.done());
  CHECK_EQ(disk.waiting(), 2u);
  CHECK_EQ(disk.writes(), 0u);
  disk.release();
  CHECK_EQ(first.wait(), 0);
  CHECK_EQ(second.wait(), 0);
}

TEST(disk_fake, ends_what_it_holds_when_it_goes) {
  Outcome outcome;
  const AlignedBytes bytes(4096, 1);
  {
    MemoryDisk disk(kCapacity);
    disk.hold();
    disk.write(0, bytes.data(), bytes.bytes(), outcome.done());
  }
  CHECK_EQ(outcome.wait(), 0);
}

TEST(disk_fake, delays) {
  MemoryDisk disk(kCapacity);
  disk.delay(std::chrono::milliseconds(30));
  const auto start = std::chrono::steady_clock::now();
  CHECK_EQ(write_and_wait(disk, 0, AlignedBytes(4096, 1)), 0);
  CHECK(std::chrono::steady_clock::now() - start >= std::chrono::milliseconds(29));
}

TEST(disk_fake, flips_a_bit_for_good) {
  MemoryDisk disk(kCapacity);
  const AlignedBytes bytes(4096, 1);
  CHECK_EQ(write_and_wait(disk, 0, bytes), 0);
  CHECK_EQ(disk.sync(), 0);
  disk.flip_bit(100, 3);
  disk.lose_power(1);
  const AlignedBytes found(4096);
  CHECK_EQ(read_and_wait(disk, 0, found), 0);
  CHECK(!(found == bytes));
  found.data()[100] ^= std::byte{8};
  CHECK(found == bytes);
}

TEST(disk_fake, power_loss_spares_what_was_synced_and_settles_the_rest_by_seed) {
  std::set<Content> seen;
  const AlignedBytes old_bytes(4096, 1);
  const AlignedBytes new_bytes(4096, 2);
  for (uint64_t seed = 0; seed < 40; ++seed) {
    Content content[2];
    for (Content& outcome : content) {
      MemoryDisk disk(kCapacity);
      for (const uint64_t offset : {0, 4096}) CHECK_EQ(write_and_wait(disk, offset, old_bytes), 0);
      CHECK_EQ(disk.sync(), 0);
      CHECK_EQ(write_and_wait(disk, 4096, new_bytes), 0);
      disk.lose_power(seed);
      CHECK(holds(disk, 0, 4096, 1));
      const AlignedBytes found(4096);
      CHECK_EQ(read_and_wait(disk, 4096, found), 0);
      outcome = content_of(found, old_bytes, new_bytes);
    }
    CHECK(content[0] == content[1]);
    seen.insert(content[0]);
  }
  CHECK((seen == std::set<Content>{Content::kOld, Content::kNew, Content::kTorn}));
}

// An owner who syncs again after a failure, instead of writing again, loses its bytes.
TEST(disk_fake, a_sync_after_a_failed_one_saves_only_what_was_written_again) {
  std::set<bool> survived;
  for (uint64_t seed = 0; seed < 20; ++seed) {
    MemoryDisk disk(kCapacity);
    for (const uint64_t offset : {0, 4096}) CHECK_EQ(write_and_wait(disk, offset, AlignedBytes(4096, 1)), 0);
    disk.fail_next(DiskVerb::kSync, 1, EIO);
    CHECK_EQ(disk.sync(), EIO);
    CHECK_EQ(write_and_wait(disk, 4096, AlignedBytes(4096, 1)), 0);
    CHECK_EQ(disk.sync(), 0);
    disk.lose_power(seed);
    CHECK(holds(disk, 4096, 4096, 1));
    survived.insert(holds(disk, 0, 4096, 1));
  }
  CHECK_EQ(survived.size(), 2u);
}

TEST(disk_fake, power_loss_cuts_off_what_is_under_way) {
  MemoryDisk disk(kCapacity);
  disk.hold();
  Outcome outcome;
  const AlignedBytes bytes(4096, 1);
  disk.write(0, bytes.data(), bytes.bytes(), outcome.done());
  disk.lose_power(1);
  CHECK_EQ(outcome.wait(), EIO);
  disk.release();
  CHECK_EQ(write_and_wait(disk, 0, bytes), 0);
}

}  // namespace kvstore
