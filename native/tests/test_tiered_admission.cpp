// Which blocks go to disk, and that none is lost between the tiers.
#include "check.h"
#include "tier_fixture.h"

using namespace kvstore;
using namespace kvstore::test;

namespace {

TierOptions admitting(Admission admission) {
  TierOptions options;
  options.store.admission = admission;
  return options;
}

}  // namespace

TEST(tiered_admission, a_burst_of_three_times_dram_is_all_there) {
  TierFixture fixture;
  uint64_t bytes = 0;
  uint64_t blocks = 0;
  for (; bytes < 12 << 20; ++blocks) {
    CHECK(fixture.put_patiently(blocks) == Status::kOk);
    bytes += length_of(blocks);
  }
  for (uint64_t number = 0; number < blocks; ++number) CHECK(fixture.contains(number));
  for (uint64_t number = 0; number < blocks; ++number) CHECK(fixture.get(number).has_value());
  CHECK(fixture.stat("evicted_blocks") > blocks / 2);
  CHECK(fixture.flush());
  fixture.crash(1);
  for (uint64_t number = 0; number < blocks; ++number) CHECK(fixture.get(number).has_value());
}

TEST(tiered_admission, a_disk_that_stands_still_stops_writers_and_loses_nothing) {
  TierFixture fixture;
  fixture.disk().memory.hold();
  uint64_t blocks = 0;
  while (fixture.put(blocks) == Status::kOk) ++blocks;
  CHECK(!fixture.store().may_write(length_of(blocks)));
  CHECK(fixture.store().makes_room());
  CHECK_EQ(fixture.stat("evicted_blocks"), 0u);
  CHECK(fixture.stat("write_queue_bytes") <= (4 << 20) / 2);
  CHECK(fixture.stat("write_queue_bytes") > (4 << 20) / 3);
  CHECK(!fixture.flush(milliseconds(20)));
  // Readers may press as they like: what is on its way stays.
  fixture.store().evict(4 << 20);
  for (uint64_t number = 0; number < blocks; ++number) CHECK(fixture.in_dram(number));
  fixture.disk().memory.release();
  CHECK(fixture.put_patiently(blocks) == Status::kOk);
  CHECK(fixture.flush());
  for (uint64_t number = 0; number <= blocks; ++number) CHECK(fixture.on_disk(number));
}

TEST(tiered_admission, one_block_is_always_admitted) {
  TierOptions options{.arena_bytes = 2 << 20};
  options.store.max_block_bytes = 2 << 20;
  TierFixture fixture(options);
  CHECK(fixture.store().may_write(2 << 20));  // more than half of DRAM
}

TEST(tiered_admission, off_saves_what_is_asked_for_alone) {
  TierFixture fixture(admitting(Admission::kOff));
  CHECK(fixture.put(1) == Status::kOk);
  CHECK(fixture.put_durable(2) == Status::kOk);
  CHECK(fixture.get(1).has_value());
  CHECK(fixture.on_disk(2));
  CHECK(!fixture.on_disk(1));
  CHECK_EQ(fixture.stat("write_queue_blocks"), 0u);
  CHECK(fixture.durable(1) == Status::kOk);  // somebody asks now
  CHECK(fixture.put(3) == Status::kOk);
  CHECK(fixture.flush());
  CHECK(fixture.on_disk(3));
}

TEST(tiered_admission, off_stays_off_when_a_disk_heals) {
  TierFixture fixture(admitting(Admission::kOff));
  fixture.disk().memory.fail_next(DiskVerb::kWrite, 1, EIO);
  CHECK(fixture.put(1) == Status::kOk);
  CHECK(fixture.put(2, 1, 0, true) == Status::kOk);
  TierFixture::wait_until([&] { return !fixture.store().any_healthy(); });
  TierFixture::wait_until([&] {
    fixture.clock().advance_ms(1'000);
    return fixture.on_disk(2) && fixture.store().any_healthy();
  });
  CHECK_EQ(fixture.stat("write_queue_blocks"), 0u);
  CHECK(!fixture.on_disk(1));
}

TEST(tiered_admission, after_first_reuse_saves_what_is_used_again) {
  TierFixture fixture(admitting(Admission::kAfterFirstReuse));
  for (uint64_t number = 1; number <= 4; ++number) CHECK(fixture.put(number) == Status::kOk);
  CHECK_EQ(fixture.stat("write_queue_blocks") + fixture.stat("nvme_blocks"), 0u);
  CHECK(fixture.get(1).has_value());
  const Key key = key_of(2);
  CHECK_EQ(fixture.store().match({&key, 1}, fixture.store().next_stamp(), 0), 1u);
  CHECK(fixture.contains(3));  // not a use
  TierFixture::wait_until([&] { return fixture.on_disk(1) && fixture.on_disk(2); });
  CHECK(!fixture.on_disk(3) && !fixture.on_disk(4));
  CHECK(fixture.flush());
  CHECK(fixture.on_disk(3) && fixture.on_disk(4));
}

TEST(tiered_admission, a_block_that_fits_on_no_disk_stays_in_dram) {
  TierOptions options{.arena_bytes = 4 << 20, .disk_bytes = {8 << 12}, .reserved = {{0, 4096}, {4 << 12, 4096}}};
  TierFixture fixture(options);
  uint64_t large = 0;
  while (length_of(large) <= 3 * kGranule) ++large;
  CHECK(fixture.put(large, 1, 0, true) == Status::kOk);
  CHECK(fixture.store().make_durable(key_of(large)) == Status::kNotDurable);
  CHECK(fixture.flush());  // does not wait for it
  uint64_t small = 0;
  while (length_of(small) > 3 * kGranule) ++small;
  CHECK(fixture.put_durable(small) == Status::kOk);
  CHECK(fixture.get(large).has_value());
}

// A writer that had reserved its space before another one's block went to disk, and left DRAM.
TEST(tiered_admission, the_first_writer_wins_over_both_tiers) {
  TierFixture fixture;
  Reservation same, other;
  CHECK(fixture.reserve(1, &same) == Status::kOk);
  CHECK(fixture.reserve(1, &other) == Status::kOk);
  CHECK(fixture.put_durable(1, 1) == Status::kOk);
  fixture.evict_dram();
  CHECK(fixture.publish(same, 1, 1) == Status::kExists);
  CHECK(fixture.publish(other, 1, 2) == Status::kConflict);
  CHECK_EQ(fixture.stat("put_exists"), 1u);
  CHECK_EQ(fixture.stat("put_conflicts"), 1u);
  CHECK(fixture.get(1) == std::optional<uint64_t>(1));
  CHECK(fixture.flush());
  fixture.check_idle();
}

TEST(tiered_admission, wrong_bytes_in_dram_do_not_go_to_disk) {
  TierFixture fixture;
  fixture.disk().memory.hold();
  CHECK(fixture.put(1) == Status::kOk);
  BlockInfo info;
  CHECK(fixture.store().find(key_of(1), &info));
  fixture.store().quarantine(key_of(1), info.crc);
  fixture.disk().memory.release();
  CHECK(fixture.flush());
  CHECK(!fixture.contains(1));
  CHECK(!fixture.catalog().has(1));
  fixture.check_idle();
}
