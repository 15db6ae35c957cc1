#include "block_store_fixture.h"
#include "check.h"

using namespace kvstore;
using namespace kvstore::test;

TEST(block_store_expiry, a_block_is_a_miss_from_the_millisecond_it_expires) {
  StoreFixture fixture;
  fixture.put(1, kGranule, 100);
  fixture.put(2);  // never expires
  fixture.clock.advance_ms(99);
  CHECK_EQ(fixture.match(1, 2), 2u);
  fixture.clock.advance_ms(1);
  Status present;
  const Key key = key_of(1);
  fixture.store.contains({&key, 1}, {&present, 1});
  CHECK(present == Status::kMiss);
  CHECK(!fixture.has(1));
  CHECK(fixture.has(2));
  fixture.clock.advance_ms(UINT32_MAX);
  CHECK(fixture.has(2));
  CHECK_EQ(fixture.store.stats().expired_blocks, 1u);
  CHECK(fixture.store.consistent());
}

// Each verb alone must notice: none relies on another having removed the block.
TEST(block_store_expiry, every_verb_misses_an_expired_block) {
  StoreFixture fixture;
  const auto expired_block = [&] {
    fixture.put(1, kGranule, 10);
    fixture.clock.advance_ms(10);
  };
  Lease lease;
  expired_block();
  CHECK(fixture.acquire(1, &lease) == Status::kMiss);
  expired_block();
  CHECK_EQ(fixture.match(1, 1), 0u);
  expired_block();
  CHECK(fixture.touch(1, 0) == Status::kMiss);
  expired_block();
  CHECK(fixture.erase(1) == Status::kMiss);
  expired_block();
  fixture.store.quarantine(key_of(1), StoreFixture::crc_of(1));
  const StoreStats stats = fixture.store.stats();
  CHECK_EQ(stats.expired_blocks, 5u);
  CHECK_EQ(stats.deleted_blocks + stats.quarantined_blocks + stats.blocks + stats.used_bytes, 0u);
}

TEST(block_store_expiry, publishing_replaces_an_expired_block) {
  StoreFixture fixture;
  fixture.put(1, kGranule, 10);
  Lease lease;
  fixture.acquire(1, &lease);
  fixture.clock.advance_ms(10);
  const Reservation reservation = fixture.reserve(1, 2 * kGranule);
  CHECK(fixture.store.publish(reservation, 7, 0) == Status::kOk);
  BlockInfo info;
  CHECK(fixture.store.find(key_of(1), &info));
  CHECK_EQ(info.length, 2 * kGranule);
  CHECK_EQ(fixture.store.stats().used_bytes, 3 * kGranule);  // the reader of the old one is still there
  fixture.store.release(lease);
  CHECK_EQ(fixture.store.stats().used_bytes, 2 * kGranule);
  CHECK(fixture.store.consistent());
}

TEST(block_store_expiry, touch_renews_keeps_or_lifts_the_expiry) {
  StoreFixture fixture;
  for (const uint64_t number : {1, 2, 3, 4}) fixture.put(number, kGranule, 100);
  fixture.clock.advance_ms(60);
  CHECK(fixture.touch(1, 100) == Status::kOk);
  CHECK(fixture.touch(2, BlockStore::kKeepExpiry) == Status::kOk);
  CHECK(fixture.touch(3, 0) == Status::kOk);
  CHECK(fixture.touch(4, UINT64_MAX - 1) == Status::kOk);  // past the end of time: never
  fixture.clock.advance_ms(99);
  CHECK(fixture.has(1));
  CHECK(!fixture.has(2));
  fixture.clock.advance_ms(1);
  CHECK(!fixture.has(1));
  CHECK(fixture.has(3));
  CHECK(fixture.has(4));
  CHECK(fixture.touch(5, 100) == Status::kMiss);
}

TEST(block_store_expiry, a_sweep_goes_on_where_the_last_one_stopped) {
  constexpr uint32_t kBlocks = 1000;
  StoreFixture fixture(8ull << 20);
  for (uint32_t number = 0; number < kBlocks; ++number) fixture.put(number, kGranule, number % 2 == 0 ? 10 : 1000);
  fixture.store.sweep_expired(UINT32_MAX);
  CHECK_EQ(fixture.store.stats().blocks, kBlocks);
  fixture.clock.advance_ms(10);

  fixture.store.sweep_expired(100);
  const uint64_t first = fixture.store.stats().expired_blocks;
  CHECK(first > 0 && first < 100);
  // 64 shards of at most 64 buckets each, and a look more for each block removed.
  for (int sweep = 0; sweep < 50; ++sweep) fixture.store.sweep_expired(100);
  CHECK_EQ(fixture.store.stats().expired_blocks, kBlocks / 2);
  CHECK_EQ(fixture.store.stats().used_bytes, kBlocks / 2 * kGranule);
  CHECK(fixture.store.consistent());

  fixture.clock.advance_ms(990);
  fixture.store.sweep_expired(UINT32_MAX);
  CHECK_EQ(fixture.store.stats().blocks, 0u);
  CHECK_EQ(fixture.store.stats().used_bytes, 0u);
  CHECK(fixture.store.consistent());
}
