// Disks and catalogs that fail: once, and for long. The store goes on, claims nothing that it cannot keep, and makes up
// for it afterwards.
#include <functional>
#include <thread>

#include "check.h"
#include "tier_fixture.h"

using namespace kvstore;
using namespace kvstore::test;

namespace {

using Fault = MemoryCatalog::Fault;

struct Trouble {
  const char* name;
  std::function<void(TierFixture&)> begin;
  std::function<void(TierFixture&)> end;
};

std::vector<Trouble> troubles() {
  const auto heal = [](TierFixture& fixture) { fixture.disk().memory.heal(); };
  const auto commit_fault = [](Fault fault) {
    return [fault](TierFixture& fixture) { fixture.catalog().fail_with(fault); };
  };
  return {
      {"writes", [](TierFixture& fixture) { fixture.disk().memory.fail_all(DiskVerb::kWrite, ENOSPC); }, heal},
      {"syncs", [](TierFixture& fixture) { fixture.disk().memory.fail_all(DiskVerb::kSync, EIO); }, heal},
      {"commits", commit_fault(Fault::kNotApplied), commit_fault(Fault::kNone)},
      {"commits that arrive", commit_fault(Fault::kAppliedAllTheSame), commit_fault(Fault::kNone)},
  };
}

void for_each_trouble(const std::function<void(TierFixture&, const Trouble&)>& test) {
  for (const Trouble& trouble : troubles()) {
    try {
      TierFixture fixture;
      test(fixture, trouble);
    } catch (const Failure& failure) {
      throw Failure(std::string(trouble.name) + ": " + failure.what());
    }
  }
}

bool in_trouble(TierFixture& fixture) { return fixture.stat("nvme_disks_in_trouble") == 1; }

void wait_healed(TierFixture& fixture) {
  TierFixture::wait_until([&] {
    fixture.clock().advance_ms(1'000);
    return !in_trouble(fixture);
  });
}

}  // namespace

TEST(tiered_trouble, for_long) {
  for_each_trouble([](TierFixture& fixture, const Trouble& trouble) {
    CHECK(fixture.put_durable(1) == Status::kOk);
    trouble.begin(fixture);
    CHECK(fixture.put(2, 1, 0, true) == Status::kOk);
    TierFixture::wait_until([&] { return in_trouble(fixture); });
    CHECK(!fixture.tier().trouble().empty());
    CHECK(fixture.store().make_durable(key_of(1)) == Status::kOk);  // it was before
    CHECK(fixture.store().make_durable(key_of(2)) == Status::kNotDurable);
    // DRAM serves alone, and more than half of it.
    uint64_t blocks = 100;
    for (uint64_t bytes = 0; bytes < 3 << 20; bytes += length_of(blocks++)) CHECK(fixture.put(blocks) == Status::kOk);
    for (int second = 0; second < 5; ++second) {
      const uint64_t troubles_before = fixture.stat("nvme_troubles");
      fixture.clock().advance_ms(1'000);
      TierFixture::wait_until([&] { return fixture.stat("nvme_troubles") > troubles_before; });
      CHECK(!fixture.flush(milliseconds(20)));
      CHECK(fixture.store().make_durable(key_of(2)) != Status::kOk);
      CHECK(fixture.get(2).has_value());
    }
    trouble.end(fixture);
    wait_healed(fixture);
    CHECK(fixture.tier().trouble().empty());
    CHECK(fixture.durable(2) == Status::kOk);
    CHECK(fixture.flush());
    fixture.check_idle();
    for (uint64_t number = 100; number < blocks; ++number) CHECK(fixture.on_disk(number));
    fixture.crash(1);
    CHECK_EQ(fixture.unusable.size(), 0u);
    for (uint64_t number = 100; number < blocks; ++number) CHECK(fixture.get(number).has_value());
    CHECK(fixture.get(1).has_value() && fixture.get(2).has_value());
  });
}

// Nobody asks for anything: what was published in bad times is saved all the same.
TEST(tiered_trouble, what_was_published_meanwhile_is_saved_afterwards) {
  for_each_trouble([](TierFixture& fixture, const Trouble& trouble) {
    trouble.begin(fixture);
    CHECK(fixture.put(1) == Status::kOk);
    TierFixture::wait_until([&] { return in_trouble(fixture); });
    for (uint64_t number = 2; number < 20; ++number) CHECK(fixture.put(number) == Status::kOk);
    trouble.end(fixture);
    wait_healed(fixture);
    TierFixture::wait_until([&] {
      fixture.clock().advance_ms(100);
      return fixture.stat("nvme_blocks") == 19;
    });
  });
}

// A crash in the middle of it: what was durable is there, and nothing is wrong.
TEST(tiered_trouble, a_crash_meanwhile) {
  for_each_trouble([](TierFixture& fixture, const Trouble& trouble) {
    for (uint64_t number = 0; number < 30; ++number) CHECK(fixture.put_durable(number) == Status::kOk);
    trouble.begin(fixture);
    for (uint64_t number = 0; number < 10; ++number) CHECK(fixture.erase(number) == Status::kOk);
    for (uint64_t number = 0; number < 10; ++number) CHECK(fixture.put(number, 2) == Status::kOk);
    for (uint64_t number = 30; number < 60; ++number) CHECK(fixture.put_patiently(number) == Status::kOk);
    TierFixture::wait_until([&] { return in_trouble(fixture); });
    for (int second = 0; second < 5; ++second) {
      fixture.clock().advance_ms(1'000);
      (void)fixture.flush(milliseconds(5));
    }
    fixture.crash(9);
    CHECK_EQ(fixture.unusable.size(), 0u);
    for (uint64_t number = 0; number < 60; ++number) {
      const std::optional<uint64_t> version = fixture.get(number);
      CHECK(version.has_value() || number < 10 || number >= 30);
    }
  });
}

TEST(tiered_trouble, once) {
  for_each_trouble([](TierFixture& fixture, const Trouble& trouble) {
    trouble.begin(fixture);
    CHECK(fixture.put(1) == Status::kOk);
    TierFixture::wait_until([&] { return in_trouble(fixture); });
    trouble.end(fixture);
    CHECK(fixture.store().make_durable(key_of(1)) == Status::kNotDurable);  // until it has been seen to work
    wait_healed(fixture);
    CHECK(fixture.durable(1) == Status::kOk);
    fixture.crash(1);
    CHECK(fixture.get(1).has_value());
  });
}

// A disk that cannot write is not well because it can sync.
TEST(tiered_trouble, is_not_over_before_a_write_has_succeeded) {
  TierFixture fixture;
  fixture.disk().memory.fail_all(DiskVerb::kWrite, EROFS);
  CHECK(fixture.put(1) == Status::kOk);
  TierFixture::wait_until([&] { return in_trouble(fixture); });
  const uint64_t commits = fixture.stat("nvme_commits");
  for (int second = 0; second < 5; ++second) {
    const uint64_t errors = fixture.stat("nvme_write_errors");
    fixture.clock().advance_ms(1'000);
    TierFixture::wait_until([&] {
      CHECK(in_trouble(fixture));
      return fixture.stat("nvme_write_errors") > errors;
    });
  }
  CHECK(fixture.stat("nvme_commits") <= commits + 6);  // it does not try in a frenzy
  fixture.disk().memory.heal();
  wait_healed(fixture);
  CHECK(fixture.durable(1) == Status::kOk);
}

// A block that was written while a sync of others failed may have been lost with them: it is written again.
TEST(tiered_trouble, a_failed_sync_takes_all_that_was_written_before_it) {
  TierFixture fixture({.commits_by_itself = false});
  CHECK(fixture.put(1) == Status::kOk);
  TierFixture::wait_until([&] { return fixture.stat("nvme_written_blocks") == 1; });
  // The group is full with block 1: block 2 is written, and waits for the next.
  for (int i = 0; i < 4095; ++i) fixture.tier().commit_also({"p" + std::to_string(i), ""});
  CHECK(fixture.put(2) == Status::kOk);
  TierFixture::wait_until([&] { return fixture.stat("nvme_written_blocks") == 2; });
  fixture.disk().memory.fail_next(DiskVerb::kSync, 1, EIO);
  CHECK(!fixture.take_commit());
  CHECK(in_trouble(fixture));
  TierFixture::wait_until([&] {
    fixture.clock().advance_ms(1'000);
    while (fixture.commit()) {
    }
    return fixture.on_disk(1) && fixture.on_disk(2);
  });
  CHECK_EQ(fixture.stat("nvme_written_blocks"), 4u);
  CHECK_EQ(fixture.disk().committed_unsynced.load(), 0u);
  fixture.crash(5);
  CHECK(fixture.get(1).has_value());
  CHECK(fixture.get(2).has_value());
}

TEST(tiered_trouble, one_disk_of_two_takes_over) {
  TierFixture fixture({.disk_bytes = {16 << 20, 16 << 20}});
  fixture.disk(0).memory.fail_all(DiskVerb::kWrite, EIO);
  for (uint64_t number = 0; number < 100; ++number) CHECK(fixture.put_durable(number) == Status::kOk);
  CHECK(fixture.flush());
  CHECK_EQ(fixture.tier(0).index().stats().blocks, 0u);
  CHECK_EQ(fixture.tier(1).index().stats().blocks, 100u);
  CHECK(fixture.store().any_healthy());
}

TEST(tiered_trouble, flush_gives_up_in_time) {
  TierFixture fixture;
  fixture.disk().memory.hold();
  CHECK(fixture.put(1) == Status::kOk);
  CHECK(!fixture.flush(milliseconds(30)));
  fixture.disk().memory.release();
  CHECK(fixture.flush());
}

// A node that stops does not wait for those who wait for its disks.
TEST(tiered_trouble, flush_ends_when_the_store_stops) {
  TierFixture fixture;
  fixture.disk().memory.hold();
  CHECK(fixture.put(1) == Status::kOk);
  bool flushed = true;
  std::thread waiting([&] { flushed = fixture.flush(std::chrono::minutes(10)); });
  TierFixture::wait_until([&] { return fixture.disk().memory.waiting() > 0; });
  std::thread releasing([&] {
    waiting.join();
    fixture.disk().memory.release();
  });
  fixture.store().stop();
  releasing.join();
  CHECK(!flushed);
}
