// Pins: what is pinned stays while everything else goes, for its time and its owners, within the share of pins.
#include <chrono>
#include <string>

#include "block_store_fixture.h"
#include "check.h"
#include "store/tiered_store.h"

using namespace kvstore;
using namespace kvstore::test;

namespace {

constexpr std::chrono::milliseconds kSoon{1'000};

// Memory is all there is.
struct PinFixture {
  Status put(uint64_t number, uint32_t length = kGranule) {
    Reservation space;
    const Status status = store.reserve(key_of(number), length, store.next_stamp(), 0, &space);
    return status == Status::kOk ? store.publish(key_of(number), space, 1, 0, false) : status;
  }
  Status pin(uint64_t number, const std::string& owner, uint64_t ttl_ms) {
    const Key key = key_of(number);
    Status status = Status::kMiss;
    store.pin({&key, 1}, owner, ttl_ms, kSoon, {&status, 1});
    return status;
  }
  bool has(uint64_t number) const {
    BlockInfo info;
    return store.find(key_of(number), &info);
  }
  void evict_all() { store.evict(UINT64_MAX); }
  uint64_t stat(const std::string& name) const {
    for (const auto& [key, value] : store.stats()) {
      if (key == name) return value;
    }
    return UINT64_MAX;
  }

  ManualClock clock;
  Arena arena{kSmallArena};
  TieredStore store{arena.data(), arena.bytes(), {}, clock, {}};
};

}  // namespace

TEST(pins, keep_a_block_from_eviction_until_the_last_owner_lets_go) {
  PinFixture fixture;
  for (uint64_t number = 0; number < 10; ++number) CHECK(fixture.put(number) == Status::kOk);
  CHECK(fixture.pin(3, "one", 60'000) == Status::kOk);
  CHECK(fixture.pin(3, "two", 60'000) == Status::kOk);
  fixture.evict_all();
  CHECK_EQ(fixture.stat("blocks"), 1u);
  CHECK(fixture.has(3));
  CHECK(fixture.pin(3, "one", 0) == Status::kOk);
  CHECK(fixture.pin(3, "one", 0) == Status::kMiss);
  fixture.evict_all();
  CHECK(fixture.has(3));
  CHECK(fixture.pin(3, "two", 0) == Status::kOk);
  fixture.evict_all();
  CHECK(!fixture.has(3));
  CHECK_EQ(fixture.stat("pinned_bytes"), 0u);
}

TEST(pins, end_with_their_time) {
  PinFixture fixture;
  CHECK(fixture.put(1) == Status::kOk);
  CHECK(fixture.pin(1, "one", 5'000) == Status::kOk);
  fixture.clock.advance_ms(4'000);
  fixture.store.sweep_expired(16);
  fixture.evict_all();
  CHECK(fixture.has(1));
  fixture.clock.advance_ms(1'000);
  fixture.store.sweep_expired(16);
  CHECK_EQ(fixture.stat("pinned_blocks"), 0u);
  fixture.evict_all();
  CHECK(!fixture.has(1));
}

TEST(pins, hold_at_most_their_share) {
  PinFixture fixture;
  const uint32_t large = kSmallArena / 4;
  for (uint64_t number = 0; number < 3; ++number) CHECK(fixture.put(number, large) == Status::kOk);
  CHECK_EQ(fixture.stat("pinned_bytes_max"), kSmallArena / 100 * 50);
  CHECK(fixture.pin(0, "one", 60'000) == Status::kOk);
  CHECK(fixture.pin(1, "one", 60'000) == Status::kBusy);
  CHECK(fixture.pin(0, "two", 60'000) == Status::kOk);  // its bytes count once
  CHECK_EQ(fixture.stat("pinned_bytes"), large);
}

TEST(pins, end_with_a_block_that_is_deleted) {
  PinFixture fixture;
  CHECK(fixture.put(1) == Status::kOk);
  CHECK(fixture.pin(1, "one", 60'000) == Status::kOk);
  const Key key = key_of(1);
  Status status = Status::kMiss;
  fixture.store.erase({&key, 1}, {&status, 1});
  CHECK(status == Status::kOk && !fixture.has(1));
  CHECK_EQ(fixture.stat("pinned_bytes"), 0u);
  CHECK_EQ(fixture.stat("used_bytes"), 0u);
  CHECK(fixture.pin(1, "one", 60'000) == Status::kMiss);
}
