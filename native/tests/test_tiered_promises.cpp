// What the store promises over a crash, and over the power loss that may come with it.
#include "check.h"
#include "tier_fixture.h"

using namespace kvstore;
using namespace kvstore::test;

TEST(tiered_promises, what_is_durable_survives_power_loss) {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    TierFixture fixture({.disk_bytes = {8 << 20, 8 << 20}});
    for (uint64_t number = 0; number < 40; ++number) {
      CHECK(fixture.put_durable(number, seed) == Status::kOk);
      CHECK(fixture.put_patiently(1000 + number, seed) == Status::kOk);  // may be there or not, never wrong
    }
    fixture.crash(seed);
    CHECK_EQ(fixture.unusable.size(), 0u);
    for (uint64_t number = 0; number < 40; ++number) {
      CHECK(fixture.get(number) == std::optional(seed));
      CHECK(fixture.get(1000 + number).value_or(seed) == seed);
    }
  }
}

TEST(tiered_promises, flush_makes_everything_durable) {
  TierFixture fixture;
  for (uint64_t number = 0; number < 50; ++number) CHECK(fixture.put_patiently(number) == Status::kOk);
  CHECK(fixture.flush());
  fixture.check_idle();
  fixture.crash(7);
  for (uint64_t number = 0; number < 50; ++number) CHECK(fixture.get(number) == std::optional<uint64_t>(1));
}

TEST(tiered_promises, writers_hear_of_room_once_it_is_there) {
  TierFixture fixture;
  std::atomic<bool> told{false};
  fixture.store().on_room([&] { told = fixture.stat("write_queue_bytes") == 0; });
  CHECK(fixture.put_durable(1) == Status::kOk);
  TierFixture::wait_until([&] { return told.load(); });
}

// The names go on, whatever the disk is overwritten with: no reader ever sees another block's bytes.
TEST(tiered_promises, blocks_that_are_replaced_many_times_are_never_mixed_up) {
  TierFixture fixture({.disk_bytes = {2 << 20}});  // a quarter of what is written
  for (uint64_t round = 1; round <= 5; ++round) {
    for (uint64_t number = 0; number < 100; ++number) {
      const Status status = fixture.put_durable(number + round * 100, round);
      CHECK(status == Status::kOk);
    }
    fixture.crash(round);
    uint64_t found = 0;
    for (uint64_t number = 0; number < 600; ++number) found += fixture.get(number) ? 1 : 0;
    CHECK(found > 20);
    CHECK(fixture.flush());
    fixture.check_idle();
  }
  CHECK(fixture.stat("nvme_blocks") > 0);
}

TEST(tiered_promises, what_was_erased_and_flushed_does_not_come_back) {
  for (uint64_t seed = 1; seed <= 10; ++seed) {
    TierFixture fixture({.disk_bytes = {8 << 20, 8 << 20}});
    for (uint64_t number = 0; number < 40; ++number) CHECK(fixture.put_patiently(number) == Status::kOk);
    for (uint64_t number = 0; number < 40; number += 2)
      CHECK(fixture.erase(number) == Status::kOk);  // some on their way
    CHECK(fixture.flush());
    fixture.crash(seed);
    for (uint64_t number = 0; number < 40; ++number) CHECK_EQ(fixture.get(number).has_value(), number % 2 == 1);
  }
}

TEST(tiered_promises, time_to_live_counts_on_over_a_restart) {
  TierFixture fixture;
  CHECK(fixture.put_durable(1, 1, 10'000) == Status::kOk);
  CHECK(fixture.put_durable(2, 1, 20'000) == Status::kOk);
  CHECK(fixture.put_durable(3, 1) == Status::kOk);
  fixture.clock().advance_ms(9'000);
  fixture.crash(1);
  fixture.clock().advance_ms(999);
  CHECK(fixture.get(1).has_value());  // brings it to DRAM, with its time
  CHECK(fixture.in_dram(1));
  fixture.clock().advance_ms(1);
  CHECK(!fixture.get(1));
  CHECK(fixture.get(2).has_value());
  fixture.crash(2);
  CHECK(!fixture.get(1));
  CHECK(fixture.get(3).has_value());
  fixture.clock().advance_ms(9'999);
  CHECK(fixture.get(2).has_value());
  fixture.clock().advance_ms(1);
  CHECK(!fixture.get(2));
  CHECK(fixture.get(3).has_value());
  CHECK(fixture.flush());
  fixture.check_idle();
  CHECK_EQ(fixture.catalog().size(), 1u);  // the rows of the expired are gone
}

TEST(tiered_promises, a_block_that_expired_while_the_node_was_down_is_gone) {
  TierFixture fixture;
  CHECK(fixture.put_durable(1, 1, 10'000) == Status::kOk);
  fixture.end(1);
  fixture.clock().advance_ms(10'000);
  fixture.start();
  CHECK_EQ(fixture.unusable.size(), 1u);
  CHECK_EQ(fixture.unusable[0], "expired");
  CHECK(!fixture.get(1));
  CHECK_EQ(fixture.stat("nvme_used_bytes"), 0u);
}

TEST(tiered_promises, a_touched_time_to_live_is_durable_after_a_flush) {
  TierFixture fixture;
  CHECK(fixture.put_durable(1, 1, 10'000) == Status::kOk);
  CHECK(fixture.put_durable(2, 1, 10'000) == Status::kOk);
  CHECK(fixture.put_durable(3) == Status::kOk);
  CHECK(fixture.touch(1, 60'000) == Status::kOk);
  CHECK(fixture.touch(2, 0) == Status::kOk);  // for ever
  CHECK(fixture.touch(3, 5'000) == Status::kOk);
  CHECK(fixture.flush());
  fixture.check_idle();
  fixture.crash(3);
  fixture.clock().advance_ms(4'999);
  CHECK(fixture.get(3).has_value());
  fixture.clock().advance_ms(1);
  CHECK(!fixture.get(3));
  fixture.clock().advance_ms(54'999);
  CHECK(fixture.get(1).has_value());
  fixture.clock().advance_ms(1);
  CHECK(!fixture.get(1));
  CHECK(fixture.get(2).has_value());
}

// Each step of a block's way to the disk is a place where a touch, or a deletion, may come.
TEST(tiered_promises, a_touch_on_the_way_to_disk_is_not_lost) {
  for (int step = 0; step < 4; ++step) {
    TierFixture fixture({.commits_by_itself = false});
    const auto touch_at = [&](int at) {
      if (step == at) CHECK(fixture.touch(1, 60'000) == Status::kOk);
    };
    fixture.disk().memory.hold();
    CHECK(fixture.put(1, 1, 10'000) == Status::kOk);
    touch_at(0);
    fixture.disk().memory.release();
    TierFixture::wait_until([&] { return fixture.stat("nvme_written_blocks") == 1; });
    touch_at(1);
    std::optional<Commit> commit;
    TierFixture::wait_until([&] { return (commit = fixture.take_commit()).has_value(); });
    touch_at(2);
    fixture.finish(*commit);
    touch_at(3);
    fixture.commit_all();
    fixture.check_idle();
    fixture.evict_dram();
    CHECK(!fixture.in_dram(1));
    fixture.clock().advance_ms(59'999);
    CHECK(fixture.get(1).has_value());
    fixture.crash(1);
    CHECK(fixture.get(1).has_value());
    fixture.clock().advance_ms(1);
    CHECK(!fixture.get(1));
  }
}

// Shorter than its way takes: it never gets there.
TEST(tiered_promises, a_block_touched_to_expire_on_its_way_is_gone) {
  TierFixture fixture;
  fixture.disk().memory.hold();
  CHECK(fixture.put(1) == Status::kOk);
  CHECK(fixture.touch(1, 1'000) == Status::kOk);
  fixture.clock().advance_ms(1'000);
  CHECK(!fixture.contains(1));
  fixture.disk().memory.release();
  CHECK(fixture.flush());
  CHECK(!fixture.contains(1));
  fixture.check_idle();
  CHECK_EQ(fixture.catalog().size(), 0u);
}

TEST(tiered_promises, a_touch_during_a_cold_read_is_not_lost) {
  TierFixture fixture;
  CHECK(fixture.put_durable(1, 1, 10'000) == Status::kOk);
  fixture.evict_dram();
  fixture.disk().memory.hold();
  std::future<std::pair<Status, Lease>> fetched;
  CHECK(fixture.start_fetch(1, &fetched) == Status::kOk);
  CHECK(fixture.touch(1, 5'000) == Status::kOk);
  fixture.disk().memory.release();
  const auto [status, lease] = fetched.get();
  CHECK(status == Status::kOk);
  fixture.store().release(lease);
  CHECK(fixture.in_dram(1));
  fixture.clock().advance_ms(4'999);
  CHECK(fixture.get(1).has_value());
  fixture.clock().advance_ms(1);
  CHECK(!fixture.get(1));
}

TEST(tiered_promises, a_block_erased_at_any_step_of_its_way_stays_erased) {
  for (int step = 0; step < 4; ++step) {
    TierFixture fixture({.commits_by_itself = false});
    const auto erase_at = [&](int at) {
      if (step == at) CHECK(fixture.erase(1) == Status::kOk);
    };
    fixture.disk().memory.hold();
    CHECK(fixture.put(1) == Status::kOk);
    erase_at(0);
    fixture.disk().memory.release();
    TierFixture::wait_until([&] { return fixture.disk().memory.waiting() == 0; });
    erase_at(1);
    std::optional<Commit> commit;
    TierFixture::wait_until(
        [&] { return (commit = fixture.take_commit()) || fixture.stat("write_queue_blocks") == 0; });
    erase_at(2);
    if (commit) fixture.finish(*commit);
    erase_at(3);
    fixture.commit_all();
    fixture.check_idle();
    CHECK(!fixture.get(1));
    CHECK_EQ(fixture.stat("nvme_used_bytes") + fixture.stat("used_bytes"), 0u);
    fixture.crash(1);
    CHECK(!fixture.get(1));
  }
}

// Version 1 is on its way, or on disk, when it is erased and version 2 comes.
TEST(tiered_promises, a_block_written_again_after_it_was_erased_is_the_one_that_stays) {
  for (int step = 0; step < 4; ++step) {
    TierFixture fixture({.commits_by_itself = false});
    const auto replace_at = [&](int at) {
      if (step != at) return;
      CHECK(fixture.erase(1) == Status::kOk);
      CHECK(fixture.put(1, 2, 0, true) == Status::kOk);
    };
    fixture.disk().memory.hold();
    CHECK(fixture.put(1, 1) == Status::kOk);
    replace_at(0);
    fixture.disk().memory.release();
    TierFixture::wait_until([&] { return fixture.stat("nvme_written_blocks") >= 1; });
    replace_at(1);
    std::optional<Commit> commit;
    TierFixture::wait_until([&] { return (commit = fixture.take_commit()).has_value(); });
    replace_at(2);
    fixture.finish(*commit);
    replace_at(3);
    fixture.commit_all();
    fixture.check_idle();
    CHECK(fixture.store().make_durable(key_of(1)) == Status::kOk);
    fixture.evict_dram();
    CHECK(fixture.get(1) == std::optional<uint64_t>(2));
    fixture.crash(1);
    CHECK(fixture.get(1) == std::optional<uint64_t>(2));
  }
}
