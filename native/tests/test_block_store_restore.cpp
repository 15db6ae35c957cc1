// Filling a store with what lies in its space already.
#include <algorithm>
#include <random>

#include "block_store_fixture.h"
#include "check.h"

using namespace kvstore;
using namespace kvstore::test;

namespace {

constexpr uint64_t kSpace = 64 * kGranule;

struct RestoredStore {
  explicit RestoredStore(uint64_t bytes = kSpace)
      : store(bytes, {.evict_to_reserve = false}, clock, stamps, make_lru_policy()) {}

  std::vector<Status> restore(const std::vector<StoredBlock>& blocks, const std::vector<SpaceRange>& excluded = {}) {
    std::vector<Status> statuses(blocks.size());
    store.restore(blocks, excluded, statuses);
    CHECK(store.consistent());
    return statuses;
  }
  Lease hold(uint64_t number) {
    Lease lease;
    CHECK(store.hold(key_of(number), &lease));
    store.release(lease);
    return lease;
  }
  bool has(uint64_t number) {
    BlockInfo info;
    return store.find(key_of(number), &info);
  }

  ManualClock clock;
  Stamps stamps;
  BlockStore store;
};

StoredBlock block_at(uint64_t number, uint64_t granule, uint32_t length = kGranule, uint64_t stamp = 1) {
  return {key_of(number), granule * kGranule, length, static_cast<uint32_t>(number), 0, Stamp{stamp}, UINT64_MAX};
}

}  // namespace

TEST(block_store_restore, brings_back_every_field) {
  RestoredStore restored;
  StoredBlock block = block_at(1, 5, 10'000);
  block.expires_ms = restored.clock.now_ms() + 500;
  CHECK(restored.restore({block_at(2, 40), block}) == std::vector(2, Status::kOk));
  const Lease lease = restored.hold(1);
  CHECK_EQ(lease.offset, 5 * kGranule);
  CHECK_EQ(lease.length, 10'000u);
  CHECK_EQ(lease.crc, 1u);
  CHECK_EQ(lease.expires_ms, block.expires_ms);
  CHECK_EQ(restored.store.used_bytes(), 4 * kGranule);
  restored.clock.advance_ms(500);
  CHECK(!restored.has(1));
  CHECK_EQ(restored.store.used_bytes(), 1 * kGranule);
}

TEST(block_store_restore, refuses_what_cannot_be) {
  RestoredStore restored;
  StoredBlock unaligned = block_at(5, 20);
  unaligned.offset += 512;
  StoredBlock endless = block_at(8, 0, UINT32_MAX);
  endless.offset = UINT64_MAX - kGranule + 1;
  const std::vector<Status> statuses = restored.restore({
      block_at(1, 0, 3 * kGranule),
      block_at(2, 2),                 // over the end of 1
      block_at(3, 63, 2 * kGranule),  // past the end of the space
      block_at(4, 64),                // outside
      unaligned,
      block_at(6, 30, 0),  // empty
      block_at(1, 33),     // a key that came before
      endless,
      block_at(7, 3),  // fits between
  });
  const std::vector<Status> expected{Status::kOk,      Status::kInvalid, Status::kInvalid,
                                     Status::kInvalid, Status::kInvalid, Status::kInvalid,
                                     Status::kExists,  Status::kInvalid, Status::kOk};
  CHECK(statuses == expected);
  CHECK_EQ(restored.store.stats().blocks, 2u);
  CHECK_EQ(restored.store.used_bytes(), 4 * kGranule);
}

TEST(block_store_restore, of_two_in_one_place_the_later_stays) {
  RestoredStore restored;
  const std::vector<Status> statuses = restored.restore({block_at(1, 8, kGranule, 5), block_at(2, 8, kGranule, 6)});
  CHECK(statuses[0] == Status::kInvalid && statuses[1] == Status::kOk);
  CHECK(restored.has(2) && !restored.has(1));
}

TEST(block_store_restore, nothing_is_in_what_is_excluded) {
  RestoredStore restored;
  const std::vector<SpaceRange> excluded{{0, kGranule}, {16 * kGranule, 2 * kGranule}, {63 * kGranule, kGranule}};
  const std::vector<Status> statuses = restored.restore(
      {block_at(1, 0), block_at(2, 14, 3 * kGranule), block_at(3, 17), block_at(4, 18), block_at(5, 62, 2 * kGranule)},
      excluded);
  const std::vector<Status> expected{Status::kInvalid, Status::kInvalid, Status::kInvalid, Status::kOk,
                                     Status::kInvalid};
  CHECK(statuses == expected);
  // All the rest is handed out, and no more.
  uint64_t blocks = 0;
  for (Reservation reservation;
       restored.store.reserve(key_of(100 + blocks), kGranule, Stamp{9}, 0, &reservation) == Status::kOk; ++blocks) {
    for (const SpaceRange& range : excluded) {
      CHECK(reservation.offset < range.offset || reservation.offset >= range.offset + range.bytes);
    }
    CHECK(reservation.offset != 18 * kGranule);
  }
  CHECK_EQ(blocks, 64u - 4 - 1);
}

TEST(block_store_restore, keeps_the_order_of_eviction) {
  RestoredStore restored;
  std::vector<StoredBlock> blocks;
  for (uint64_t number = 0; number < 12; ++number) {
    // Three requests of four blocks, the second one the oldest.
    const uint64_t request = number / 4;
    const uint64_t stamps[] = {30, 10, 20};
    blocks.push_back(block_at(number, number, kGranule, stamps[request]));
    blocks.back().depth = static_cast<uint32_t>(number % 4);
  }
  std::shuffle(blocks.begin(), blocks.end(), std::mt19937_64(3));
  restored.restore(blocks);
  CHECK(static_cast<uint64_t>(restored.stamps.next()) > 30);
  for (const uint64_t number : {7, 6, 5, 4, 11, 10, 9, 8, 3, 2, 1, 0}) {
    CHECK(restored.has(number));
    CHECK_EQ(restored.store.evict(1), uint64_t{kGranule});
    CHECK(!restored.has(number));
  }
  CHECK_EQ(restored.store.used_bytes(), 0u);
}

TEST(block_store_restore, a_crowded_space_comes_back_as_it_was) {
  std::mt19937_64 random(5);
  RestoredStore first(4096 * kGranule);
  std::vector<StoredBlock> blocks;
  std::vector<Reservation> given_back;
  for (uint64_t number = 0;; ++number) {
    Reservation reservation;
    const auto length = static_cast<uint32_t>(1 + random() % (8 * kGranule));
    if (first.store.reserve(key_of(number), length, Stamp{number}, 0, &reservation) != Status::kOk) break;
    if (number % 3 == 0) {
      given_back.push_back(reservation);
    } else {
      blocks.push_back({key_of(number), reservation.offset, length, 0, 0, Stamp{number}, UINT64_MAX});
    }
  }
  CHECK(blocks.size() > 400);
  for (const Reservation& reservation : given_back) first.store.abort(reservation);
  std::shuffle(blocks.begin(), blocks.end(), random);
  RestoredStore again(4096 * kGranule);
  CHECK(again.restore(blocks) == std::vector(blocks.size(), Status::kOk));
  CHECK_EQ(again.store.used_bytes(), first.store.used_bytes());
}
