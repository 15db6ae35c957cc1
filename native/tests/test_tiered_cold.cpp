// Cold reads: from a disk into DRAM.
#include "check.h"
#include "tier_fixture.h"

using namespace kvstore;
using namespace kvstore::test;

namespace {

using Fetched = std::future<std::pair<Status, Lease>>;

// One block, on disk only.
struct ColdBlock : TierFixture {
  explicit ColdBlock(TierOptions options = {}) : TierFixture(std::move(options)) {
    CHECK(put_durable(1) == Status::kOk);
    evict_dram();
    CHECK(!in_dram(1) && on_disk(1));
    wait_until([&] { return disk().memory.waiting() == 0; });
  }
  Fetched start() {
    Fetched fetched;
    CHECK(start_fetch(1, &fetched) == Status::kOk);
    return fetched;
  }
  uint64_t extent() {
    Lease lease;
    CHECK(tier().index().hold(key_of(1), &lease));
    tier().index().release(lease);
    return lease.offset;
  }
};

Status status_of(Fetched& fetched) {
  CHECK(fetched.wait_for(kLongWait) == std::future_status::ready);
  return fetched.get().first;
}

}  // namespace

TEST(tiered_cold, many_readers_are_one_read) {
  ColdBlock fixture;
  fixture.disk().memory.hold();
  std::vector<Fetched> fetched;
  for (int reader = 0; reader < 20; ++reader) fetched.push_back(fixture.start());
  CHECK_EQ(fixture.disk().memory.waiting(), 1u);
  fixture.disk().memory.release();
  for (Fetched& one : fetched) {
    const auto [status, lease] = one.get();
    CHECK(status == Status::kOk);
    CHECK_EQ(fixture.verify_and_release(1, lease), 1u);
  }
  CHECK_EQ(fixture.disk().memory.reads(), 1u);
  CHECK_EQ(fixture.stat("nvme_reads_joined"), 19u);
  CHECK(fixture.in_dram(1));
  CHECK(fixture.get(1).has_value());
  CHECK_EQ(fixture.disk().memory.reads(), 1u);
  CHECK(fixture.flush());
  fixture.check_idle();
}

TEST(tiered_cold, wrong_bytes_are_a_miss_and_their_place_is_not_used_again) {
  ColdBlock fixture({.disk_bytes = {2 << 20}});
  const uint64_t bad = fixture.extent();
  fixture.disk().memory.flip_bit(bad + 100, 3);
  Status status;
  CHECK(!fixture.get(1, &status));
  CHECK(status == Status::kMiss);
  CHECK(!fixture.contains(1));
  CHECK_EQ(fixture.stat("nvme_wrong_checksums"), 1u);
  CHECK_EQ(fixture.stat("nvme_quarantined_blocks"), 1u);
  CHECK_EQ(fixture.stat("nvme_quarantined_bytes"), ExtentAllocator::rounded(length_of(1)));
  CHECK(fixture.flush());
  CHECK(!fixture.catalog().has(1));
  fixture.check_idle();
  for (uint64_t number = 100; number < 300; ++number) {
    CHECK(fixture.put_durable(number) == Status::kOk);
    CHECK(!fixture.catalog().names(bad, kGranule));
  }
  CHECK(fixture.stat("nvme_evicted_blocks") > 0);
  // The block itself may come again.
  CHECK(fixture.put_durable(1, 2) == Status::kOk);
  CHECK(fixture.get(1) == std::optional<uint64_t>(2));
  CHECK(fixture.flush());
  fixture.check_idle();
}

TEST(tiered_cold, a_read_error_is_a_miss) {
  ColdBlock fixture;
  fixture.disk().memory.fail_next(DiskVerb::kRead, 1, EIO);
  Status status;
  CHECK(!fixture.get(1, &status));
  CHECK(status == Status::kMiss);
  CHECK_EQ(fixture.stat("nvme_read_errors"), 1u);
  CHECK_EQ(fixture.stat("nvme_quarantined_blocks"), 1u);
  CHECK_EQ(fixture.stat("nvme_wrong_checksums"), 0u);
}

TEST(tiered_cold, an_erased_block_is_not_brought_back_by_a_read) {
  ColdBlock fixture;
  fixture.disk().memory.hold();
  Fetched before = fixture.start();
  CHECK(fixture.erase(1) == Status::kOk);
  Fetched after;
  CHECK(fixture.start_fetch(1, &after) == Status::kMiss);
  fixture.disk().memory.release();
  CHECK(status_of(before) == Status::kMiss);
  CHECK(!fixture.contains(1));
  CHECK(fixture.flush());
  fixture.check_idle();
  CHECK_EQ(fixture.stat("nvme_used_bytes") + fixture.stat("used_bytes"), 0u);
}

// The read of version 1 is still under way on its disk when version 2 is on another one: who asks now gets version 2.
TEST(tiered_cold, only_a_read_of_the_same_block_is_joined) {
  for (const bool erased : {true, false}) {
    TierOptions options{.disk_bytes = {8 << 20, 8 << 20}};
    options.store.disk.writes_in_flight = 1;
    TierFixture fixture(options);
    CHECK(fixture.put_durable(1, 1, 1'000) == Status::kOk);
    fixture.evict_dram();
    const size_t slow = fixture.catalog(0).has(1) ? 0 : 1;
    fixture.disk(slow).memory.hold();
    Fetched first;
    CHECK(fixture.start_fetch(1, &first) == Status::kOk);
    // Until its writer stands still, too, so that the other disk takes all that comes.
    for (uint64_t number = 100; fixture.disk(slow).memory.waiting() < 2; ++number) {
      CHECK(fixture.put_patiently(number) == Status::kOk);
    }
    if (erased) CHECK(fixture.erase(1) == Status::kOk);
    if (!erased) fixture.clock().advance_ms(1'000);
    CHECK(fixture.put_durable(1, 2) == Status::kOk);
    CHECK(fixture.catalog(1 - slow).has(1));
    TierFixture::wait_until([&] {
      fixture.store().evict(4 << 20);
      return !fixture.in_dram(1);
    });
    CHECK(fixture.get(1) == std::optional<uint64_t>(2));
    fixture.disk(slow).memory.release();
    CHECK(status_of(first) == Status::kMiss);
  }
}

TEST(tiered_cold, no_room_in_dram_is_busy) {
  ColdBlock fixture;
  std::vector<Reservation> reservations;
  Reservation reservation;
  for (uint64_t number = 100;
       fixture.store().dram().reserve(key_of(number), kGranule, Stamp{1}, 0, &reservation) == Status::kOk; ++number) {
    reservations.push_back(reservation);
  }
  Fetched fetched;
  CHECK(fixture.start_fetch(1, &fetched) == Status::kBusy);
  CHECK_EQ(fixture.stat("nvme_reads_busy"), 1u);
  CHECK_EQ(fixture.disk().memory.reads(), 0u);
  for (const Reservation& one : reservations) fixture.store().abort(one);
  CHECK(fixture.get(1).has_value());
}

TEST(tiered_cold, a_block_greater_than_dram_is_a_miss) {
  TierOptions options{.arena_bytes = 4 << 20};
  options.store.max_block_bytes = 4 << 20;
  TierFixture fixture(options);
  const BlockRow row{key_of(1), 0, 5 << 20, 0, 0, 1};
  const CatalogEntry entry = encode(row);
  fixture.end(0);
  fixture.disk().commit({1, {{entry.key, entry.value}}});
  fixture.start();
  CHECK(fixture.contains(1));
  Fetched fetched;
  CHECK(fixture.start_fetch(1, &fetched) == Status::kMiss);
}

TEST(tiered_cold, the_wrong_size_is_told_with_the_right_one) {
  ColdBlock fixture;
  uint32_t length = 0;
  const Status status = fixture.store().fetch(key_of(1), Stamp{1}, 0, 17, &length, [](Status, const Lease&) {});
  CHECK(status == Status::kWrongSize);
  CHECK_EQ(length, length_of(1));
  CHECK_EQ(fixture.disk().memory.reads(), 0u);
}

TEST(tiered_cold, stop_waits_for_reads_under_way) {
  ColdBlock fixture;
  fixture.disk().memory.delay(milliseconds(30));
  Fetched fetched = fixture.start();
  fixture.store().stop();
  CHECK(fetched.wait_for(milliseconds(0)) == std::future_status::ready);
  const auto [status, lease] = fetched.get();
  CHECK(status == Status::kOk);
  fixture.store().release(lease);
}
