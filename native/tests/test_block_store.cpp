#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <stdexcept>

#include "block_store_fixture.h"
#include "check.h"

using namespace kvstore;
using namespace kvstore::test;

namespace kvstore {

static std::ostream& operator<<(std::ostream& out, Status status) { return out << status_name(status); }

}  // namespace kvstore

TEST(block_store, a_block_is_visible_from_publish_to_erase) {
  StoreFixture fixture;
  const Reservation reservation = fixture.reserve(1, 5000);
  CHECK_EQ(reservation.length, 5000u);
  CHECK(!fixture.has(1));
  CHECK_EQ(fixture.store.stats().reserved_bytes, 2 * kGranule);
  std::memset(fixture.arena.data() + reservation.offset, 7, reservation.length);
  CHECK_EQ(fixture.store.publish(reservation, 42, 0), Status::kOk);

  Lease lease;
  CHECK_EQ(fixture.acquire(1, &lease), Status::kOk);
  CHECK_EQ(lease.offset, reservation.offset);
  CHECK_EQ(lease.length, 5000u);
  CHECK_EQ(lease.crc, 42u);
  CHECK(fixture.arena.data()[lease.offset + lease.length - 1] == std::byte{7});
  CHECK(fixture.store.consistent());
  fixture.store.release(lease);

  CHECK_EQ(fixture.erase(1), Status::kOk);
  CHECK_EQ(fixture.erase(1), Status::kMiss);
  CHECK_EQ(fixture.acquire(1, &lease), Status::kMiss);
  const StoreStats stats = fixture.store.stats();
  CHECK_EQ(stats.used_bytes + stats.reserved_bytes + stats.leased_bytes + stats.blocks + stats.leases, 0u);
  CHECK_EQ(stats.puts, 1u);
  CHECK_EQ(stats.hits, 1u);
  CHECK_EQ(stats.misses, 1u);
  CHECK_EQ(stats.deleted_blocks, 1u);
  CHECK(fixture.store.consistent());
}

TEST(block_store, abort_gives_the_space_back) {
  StoreFixture fixture;
  const Reservation reservation = fixture.reserve(1);
  CHECK(fixture.store.consistent());
  fixture.store.abort(reservation);
  CHECK(!fixture.has(1));
  CHECK_EQ(fixture.store.stats().used_bytes, 0u);
  CHECK_EQ(fixture.store.stats().reserved_bytes, 0u);
  CHECK_EQ(fixture.store.stats().put_aborted, 1u);
  CHECK(fixture.store.consistent());
}

TEST(block_store, the_first_writer_wins) {
  StoreFixture fixture;
  int published = 0;
  fixture.store.on_publish([&](const Key& key) { published += key == key_of(1); });
  const Reservation first = fixture.reserve(1, 100);
  const Reservation same = fixture.reserve(1, 100);
  const Reservation other_bytes = fixture.reserve(1, 100);
  const Reservation other_length = fixture.reserve(1, 101);
  CHECK_EQ(fixture.store.publish(first, 42, 0), Status::kOk);
  CHECK_EQ(fixture.store.publish(same, 42, 0), Status::kExists);
  CHECK_EQ(fixture.store.publish(other_bytes, 43, 0), Status::kConflict);
  CHECK_EQ(fixture.store.publish(other_length, 42, 0), Status::kConflict);
  fixture.store.count_exists();
  fixture.store.count_conflict();

  BlockInfo info;
  CHECK(fixture.store.find(key_of(1), &info));
  CHECK_EQ(info.length, 100u);
  CHECK_EQ(info.crc, 42u);
  CHECK_EQ(published, 1);
  const StoreStats stats = fixture.store.stats();
  CHECK_EQ(stats.puts, 1u);
  CHECK_EQ(stats.put_exists, 2u);
  CHECK_EQ(stats.put_conflicts, 3u);
  CHECK_EQ(stats.used_bytes, kGranule);
  CHECK_EQ(stats.reserved_bytes, 0u);
  CHECK(fixture.store.consistent());
}

TEST(block_store, the_listener_may_use_the_store) {
  StoreFixture fixture;
  uint32_t matched = 0;
  fixture.store.on_publish([&](const Key& key) {
    matched += fixture.store.match({&key, 1}, fixture.stamps.next(), 0);
    Status status;
    fixture.store.erase({&key, 1}, {&status, 1});
  });
  CHECK_EQ(fixture.put(1), Status::kOk);
  CHECK_EQ(matched, 1u);
  CHECK(!fixture.has(1));
}

TEST(block_store, a_lease_outlives_the_block) {
  StoreFixture fixture;
  fixture.put(1);
  Lease lease;
  Lease second;
  CHECK_EQ(fixture.acquire(1, &lease), Status::kOk);
  CHECK_EQ(fixture.acquire(1, &second), Status::kOk);
  CHECK_EQ(fixture.erase(1), Status::kOk);
  CHECK(!fixture.has(1));
  CHECK_EQ(fixture.put(1), Status::kOk);  // the same name again, elsewhere
  Lease renewed;
  CHECK_EQ(fixture.acquire(1, &renewed), Status::kOk);
  CHECK(renewed.offset != lease.offset);
  CHECK_EQ(fixture.store.stats().leases, 3u);
  CHECK_EQ(fixture.store.stats().leased_bytes, 2 * kGranule);
  CHECK(fixture.store.consistent());

  fixture.store.release(lease);
  CHECK_EQ(fixture.store.stats().used_bytes, 2 * kGranule);
  fixture.store.release(second);
  CHECK_EQ(fixture.store.stats().used_bytes, kGranule);
  fixture.store.release(renewed);
  CHECK_EQ(fixture.store.stats().used_bytes, kGranule);
  CHECK_EQ(fixture.store.stats().leased_bytes, 0u);
  CHECK(fixture.store.consistent());
}

TEST(block_store, leased_and_reserved_blocks_are_never_evicted) {
  StoreFixture fixture;
  const uint32_t half = kSmallArena / 2;
  fixture.put(1, half);
  fixture.put(2, half);
  Lease lease;
  CHECK_EQ(fixture.acquire(1, &lease), Status::kOk);  // and so the younger: without the lease 2 would go first anyway
  CHECK_EQ(fixture.touch(2), Status::kOk);
  const Reservation third = fixture.reserve(3, half);
  CHECK(fixture.has(1));
  CHECK(!fixture.has(2));

  Reservation fourth;
  CHECK_EQ(fixture.store.reserve(key_of(4), 1, fixture.stamps.next(), 0, &fourth), Status::kBusy);
  CHECK_EQ(fixture.store.evict(1), 0u);
  CHECK_EQ(fixture.store.stats().put_busy, 1u);
  CHECK(fixture.store.consistent());

  fixture.store.release(lease);
  CHECK_EQ(fixture.store.reserve(key_of(4), 1, fixture.stamps.next(), 0, &fourth), Status::kOk);
  CHECK(!fixture.has(1));
  CHECK_EQ(fixture.store.stats().evicted_blocks, 2u);
  CHECK_EQ(fixture.store.stats().evicted_bytes, kSmallArena);
  fixture.store.abort(third);
  fixture.store.abort(fourth);
  CHECK(fixture.store.consistent());
}

TEST(block_store, refuses_what_can_never_fit_and_evicts_nothing_for_it) {
  StoreFixture fixture(kSmallArena, {.max_block_bytes = 4 << 20, .shards = 4});
  fixture.put(1);
  CHECK_EQ(fixture.put(2, kSmallArena + 1), Status::kTooLarge);
  CHECK_EQ(fixture.put(2, (4 << 20) + 1), Status::kTooLarge);
  CHECK_EQ(fixture.put(2, 0), Status::kInvalid);
  CHECK(fixture.has(1));
  CHECK_EQ(fixture.store.stats().put_too_large, 2u);
  CHECK_EQ(fixture.put(2, kSmallArena), Status::kOk);
  CHECK(!fixture.has(1));

  StoreFixture limited(kSmallArena, {.max_block_bytes = 10'000});
  CHECK_EQ(limited.put(1, 10'001), Status::kTooLarge);
  CHECK_EQ(limited.put(1, 10'000), Status::kOk);
}

TEST(block_store, evict_frees_what_was_asked_for) {
  StoreFixture fixture;
  fixture.put_chain(0, 10);
  CHECK_EQ(fixture.store.evict(3 * kGranule - 1), 3 * kGranule);
  CHECK_EQ(fixture.match(0, 10), 7u);
  CHECK_EQ(fixture.store.evict(UINT64_MAX), 7 * kGranule);
  CHECK_EQ(fixture.store.evict(1), 0u);
  CHECK_EQ(fixture.store.stats().used_bytes, 0u);
}

TEST(block_store, match_counts_the_leading_keys) {
  constexpr uint32_t kChain = 1500;  // several batches
  StoreFixture fixture(8ull << 20);
  fixture.put_chain(0, kChain);
  CHECK_EQ(fixture.match(0, kChain), kChain);
  CHECK_EQ(fixture.match(0, kChain + 10), kChain);
  CHECK_EQ(fixture.match(kChain, 5), 0u);
  CHECK_EQ(fixture.store.match({}, fixture.stamps.next(), 0), 0u);
  for (const uint32_t gap : {1400u, 600u, 84u, 16u, 15u, 1u, 0u}) {
    fixture.erase(gap);
    CHECK_EQ(fixture.match(0, kChain), gap);
  }
  CHECK_EQ(fixture.store.stats().hits + fixture.store.stats().misses, 0u);
}

TEST(block_store, a_batch_leases_each_key_that_is_there) {
  StoreFixture fixture(8ull << 20);
  std::vector<Key> keys = keys_from(0, 1200);
  keys.push_back(keys[2]);  // twice in one batch: two leases
  for (uint32_t number = 0; number < 1200; number += 2) fixture.put(number);
  std::vector<Lease> leases(keys.size());
  std::vector<Status> statuses(keys.size());
  fixture.store.acquire(keys, fixture.stamps.next(), 0, leases, statuses);
  for (size_t index = 0; index < 1200; ++index) {
    CHECK_EQ(statuses[index], index % 2 == 0 ? Status::kOk : Status::kMiss);
    if (statuses[index] == Status::kOk) CHECK_EQ(leases[index].crc, StoreFixture::crc_of(index));
  }
  CHECK_EQ(statuses.back(), Status::kOk);
  CHECK_EQ(leases.back().slot, leases[2].slot);
  CHECK_EQ(fixture.store.stats().hits, 601u);
  CHECK_EQ(fixture.store.stats().misses, 600u);
  CHECK_EQ(fixture.store.stats().leases, 601u);
  CHECK_EQ(fixture.store.stats().leased_bytes, 600u * kGranule);
  CHECK(fixture.store.consistent());

  std::vector<Status> present(keys.size());
  fixture.store.contains(keys, present);
  CHECK(present == statuses);
  CHECK_EQ(fixture.store.stats().hits, 601u);
  for (size_t index = 0; index < keys.size(); ++index) {
    if (statuses[index] == Status::kOk) fixture.store.release(leases[index]);
  }
  CHECK_EQ(fixture.store.stats().leases, 0u);
  CHECK(fixture.store.consistent());
}

TEST(block_store, quarantine_removes_only_the_bytes_that_were_wrong) {
  StoreFixture fixture;
  fixture.put(1);
  fixture.store.quarantine(key_of(1), StoreFixture::crc_of(1) + 1);
  fixture.store.quarantine(key_of(2), StoreFixture::crc_of(2));
  CHECK(fixture.has(1));
  fixture.store.quarantine(key_of(1), StoreFixture::crc_of(1));
  CHECK(!fixture.has(1));
  CHECK_EQ(fixture.store.stats().quarantined_blocks, 1u);
  CHECK_EQ(fixture.put(1), Status::kOk);
}

TEST(block_store, keys_that_differ_only_in_their_tail_are_different) {
  StoreFixture fixture;
  std::vector<Key> keys(300, key_of(1));  // one shard, one tag: every probe must compare whole keys
  for (size_t index = 0; index < keys.size(); ++index) std::memcpy(&keys[index].bytes[24], &index, sizeof(index));
  const Stamp stamp = fixture.stamps.next();
  for (uint32_t index = 0; index < keys.size(); ++index) {
    Reservation reservation;
    CHECK_EQ(fixture.store.reserve(keys[index], index + 1, stamp, index, &reservation), Status::kOk);
    CHECK_EQ(fixture.store.publish(reservation, index, 0), Status::kOk);
  }
  std::vector<Status> statuses(2);
  fixture.store.erase(std::span(keys).subspan(100, 2), statuses);
  CHECK(fixture.store.consistent());
  for (uint32_t index = 0; index < keys.size(); ++index) {
    BlockInfo info;
    CHECK_EQ(fixture.store.find(keys[index], &info), index != 100 && index != 101);
    if (index != 100 && index != 101) CHECK_EQ(info.length, index + 1);
  }
}

TEST(block_store, rejects_a_number_of_shards_that_cannot_be) {
  for (const uint32_t shards : {0u, 3u, 512u}) {
    bool refused = false;
    try {
      const StoreFixture fixture(kSmallArena, {.shards = shards});
    } catch (const std::invalid_argument&) {
      refused = true;
    }
    CHECK(refused);
  }
  StoreFixture fixture(kSmallArena, {.shards = 1});
  fixture.put_chain(0, 20);
  CHECK_EQ(fixture.match(0, 20), 20u);
  CHECK(fixture.store.consistent());
}

TEST(block_store, misuse_of_leases_and_reservations_aborts) {
  StoreFixture fixture;
  fixture.put(1);
  Lease lease;
  fixture.acquire(1, &lease);
  fixture.store.release(lease);
  CHECK_ABORTS(fixture.store.release(lease));
  CHECK_ABORTS(fixture.store.release(Lease{}));

  fixture.erase(1);
  fixture.put(2);  // takes the same slot
  Lease successor;
  fixture.acquire(2, &successor);
  CHECK_EQ(successor.slot, lease.slot);
  CHECK_ABORTS(fixture.store.release(lease));
  CHECK_EQ(ends_with([&] { fixture.store.release(successor); }), -3);

  const Reservation reservation = fixture.reserve(3);
  fixture.store.publish(reservation, 0, 0);
  CHECK_ABORTS(fixture.store.publish(reservation, 0, 0));
  CHECK_ABORTS(fixture.store.abort(reservation));
}

// What the specification allows is 200 bytes a block, allocator included.
TEST(block_store, bookkeeping_stays_under_200_bytes_a_block) {
  constexpr uint32_t kBlocks = 100'000;
  for (const uint32_t blocks_per_request : {1u, 32u}) {
    StoreFixture fixture(uint64_t{kBlocks} * kGranule);
    for (uint32_t number = 0; number < kBlocks; number += blocks_per_request) {
      fixture.put_chain(number, blocks_per_request);
    }
    CHECK_EQ(fixture.store.stats().blocks, kBlocks);
    CHECK(fixture.store.stats().index_bytes <= 200ull * kBlocks);
    // At least what an index of 32-byte keys must take: the figure counts something.
    CHECK(fixture.store.stats().index_bytes >= 100ull * kBlocks);
  }
}
