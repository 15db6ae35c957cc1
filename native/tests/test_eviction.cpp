#include <random>
#include <set>
#include <tuple>
#include <unordered_map>

#include "block_store_fixture.h"
#include "check.h"
#include "store/eviction.h"

using namespace kvstore;
using namespace kvstore::test;

namespace {

constexpr uint32_t kNone = EvictionPolicy::kNone;

bool any(uint32_t) { return true; }
bool none(uint32_t) { return false; }

struct PolicyFixture {
  std::unique_ptr<EvictionPolicy> policy = make_lru_policy();

  void insert(uint64_t stamp, std::vector<TouchedBlock> blocks) { policy->on_insert(Stamp{stamp}, blocks); }
  void touch(uint64_t stamp, std::vector<TouchedBlock> blocks) { policy->on_touch(Stamp{stamp}, blocks); }
  // Evicts everything and says in which order.
  std::vector<uint32_t> drain() {
    std::vector<uint32_t> order;
    while (policy->size() > 0) {
      if (!policy->consistent()) throw std::runtime_error("the policy is not consistent");
      order.push_back(policy->victim(Stamp{UINT64_MAX}, any, 1));
      policy->on_remove(order.back());
    }
    return order;
  }
};

using Order = std::vector<uint32_t>;

}  // namespace

TEST(eviction, an_empty_policy_has_no_victim) {
  PolicyFixture fixture;
  CHECK_EQ(fixture.policy->victim(Stamp{1}, any, 10), kNone);
  fixture.touch(1, {{5, 0}});
  CHECK(!fixture.policy->contains(5));
  CHECK_EQ(fixture.policy->size(), 0u);
  CHECK(fixture.policy->consistent());
}

TEST(eviction, the_oldest_stamp_goes_first_and_the_deepest_within_it) {
  PolicyFixture fixture;
  fixture.insert(1, {{10, 0}, {11, 1}, {12, 2}});
  fixture.insert(2, {{20, 0}, {21, 7}});
  fixture.insert(3, {{32, 2}, {30, 0}, {31, 1}});  // in any order
  CHECK(fixture.drain() == (Order{12, 11, 10, 21, 20, 32, 31, 30}));
}

TEST(eviction, a_request_may_arrive_block_by_block_and_out_of_order) {
  PolicyFixture fixture;
  for (const uint32_t depth : {3u, 0u, 1u, 5u, 2u, 7u, 6u, 4u}) {
    fixture.insert(1, {{depth, depth}});
    fixture.insert(2, {{10 + depth, depth}});
  }
  CHECK(fixture.drain() == (Order{7, 6, 5, 4, 3, 2, 1, 0, 17, 16, 15, 14, 13, 12, 11, 10}));
}

TEST(eviction, a_second_part_of_a_request_joins_the_first) {
  PolicyFixture fixture;
  fixture.insert(1, {{0, 0}, {1, 1}});
  fixture.insert(2, {{10, 0}});
  fixture.insert(1, {{2, 2}, {3, 3}});
  CHECK(fixture.drain() == (Order{3, 2, 1, 0, 10}));
}

TEST(eviction, a_touch_moves_blocks_to_its_request) {
  PolicyFixture fixture;
  fixture.insert(1, {{0, 0}, {1, 1}, {2, 2}});
  fixture.insert(2, {{10, 0}});
  fixture.touch(3, {{1, 1}, {0, 0}});
  fixture.touch(4, {{99, 0}});  // not there: ignored
  CHECK(fixture.drain() == (Order{2, 10, 1, 0}));
}

TEST(eviction, an_older_request_does_not_age_a_block) {
  PolicyFixture fixture;
  fixture.insert(5, {{0, 0}});
  fixture.insert(6, {{1, 0}});
  fixture.touch(9, {{0, 0}});
  fixture.touch(7, {{0, 0}, {1, 1}});
  CHECK(fixture.drain() == (Order{1, 0}));
}

TEST(eviction, requests_rank_by_stamp_not_by_arrival) {
  PolicyFixture fixture;
  fixture.insert(3, {{30, 0}});
  fixture.insert(1, {{10, 0}});
  fixture.insert(2, {{20, 0}});
  CHECK(fixture.drain() == (Order{10, 20, 30}));
}

TEST(eviction, a_request_too_late_to_rank_still_goes_deepest_first) {
  PolicyFixture fixture;
  fixture.insert(1, {{0, 0}});
  for (uint32_t other = 3; other < 500; ++other) fixture.insert(other, {{other, 0}});
  fixture.insert(2, {{500, 0}});
  fixture.insert(2, {{501, 1}});
  CHECK(fixture.policy->consistent());
  const Order order = fixture.drain();
  CHECK_EQ(order.front(), 0u);
  const auto shallow = std::find(order.begin(), order.end(), 500u);
  CHECK(shallow != order.begin() && *(shallow - 1) == 501);
}

TEST(eviction, refused_candidates_count_as_used_now) {
  PolicyFixture fixture;
  fixture.insert(1, {{0, 0}, {1, 1}, {2, 2}});
  fixture.insert(2, {{10, 0}});
  const auto not_the_deep_ones = [](uint32_t slot) { return slot != 1 && slot != 2; };
  CHECK_EQ(fixture.policy->victim(Stamp{3}, not_the_deep_ones, 10), 0u);
  CHECK(fixture.policy->consistent());
  CHECK(fixture.drain() == (Order{0, 10, 2, 1}));
}

TEST(eviction, a_search_ends_when_all_or_enough_were_refused) {
  PolicyFixture fixture;
  fixture.insert(1, {{0, 0}, {1, 1}, {2, 2}, {3, 3}});
  int asked = 0;
  const auto refuse = [&](uint32_t) { return ++asked < 0; };
  CHECK_EQ(fixture.policy->victim(Stamp{2}, refuse, 100), kNone);
  CHECK(asked >= 4 && asked <= 5);
  asked = 0;
  CHECK_EQ(fixture.policy->victim(Stamp{3}, refuse, 2), kNone);
  CHECK_EQ(asked, 2);
  // The two that were not asked about are first now.
  CHECK(fixture.drain() == (Order{1, 0, 3, 2}));
  CHECK_EQ(fixture.policy->victim(Stamp{4}, none, 100), kNone);
}

// The oracle: a set ordered by stamp, then by depth, deepest first. Requests are out of order, but by less than the
// policy looks back.
TEST(eviction, agrees_with_an_ordered_set) {
  using Rank = std::tuple<uint64_t, int64_t, uint32_t>;  // stamp, minus depth, slot
  constexpr uint32_t kSlots = 500;
  PolicyFixture fixture;
  std::mt19937_64 random(7);
  std::set<Rank> oracle;
  std::unordered_map<uint32_t, Rank> ranks;
  const auto rank = [&](uint32_t slot, uint64_t stamp, uint32_t depth) {
    if (const auto old = ranks.find(slot); old != ranks.end()) oracle.erase(old->second);
    ranks[slot] = {stamp, -int64_t{depth}, slot};
    oracle.insert(ranks[slot]);
  };
  for (uint64_t step = 100; step < 20'000; ++step) {
    const uint64_t stamp = step - random() % 30;
    const auto slot = static_cast<uint32_t>(random() % kSlots);
    if (!ranks.contains(slot)) {
      const TouchedBlock inserted{slot, static_cast<uint32_t>(random() % 64)};
      fixture.insert(stamp, {inserted});
      rank(slot, stamp, inserted.depth);
    } else if (step % 7 == 0) {
      fixture.policy->on_remove(slot);
      oracle.erase(ranks[slot]);
      ranks.erase(slot);
    } else if (step % 5 == 0) {
      // Slots above half are in use. Refused ones take the stamp of the search.
      const auto free_to_go = [](uint32_t candidate) { return candidate < kSlots / 2; };
      while (!oracle.empty() && !free_to_go(std::get<2>(*oracle.begin())) && std::get<0>(*oracle.begin()) < step) {
        const Rank first = *oracle.begin();
        rank(std::get<2>(first), step, static_cast<uint32_t>(-std::get<1>(first)));
      }
      const uint32_t victim = fixture.policy->victim(Stamp{step}, free_to_go, UINT32_MAX);
      if (victim == kNone) continue;
      // Of equal rank either may go.
      CHECK_EQ(std::get<0>(ranks[victim]), std::get<0>(*oracle.begin()));
      CHECK_EQ(std::get<1>(ranks[victim]), std::get<1>(*oracle.begin()));
    } else {
      std::vector<TouchedBlock> batch;
      for (uint32_t depth = 0; depth < 20; ++depth) batch.push_back({(slot + depth * 3) % kSlots, depth});
      std::shuffle(batch.begin(), batch.end(), random);
      fixture.touch(stamp, batch);
      for (const TouchedBlock& block : batch) {
        const auto held = ranks.find(block.slot);
        if (held != ranks.end() && std::get<0>(held->second) < stamp) rank(block.slot, stamp, block.depth);
      }
    }
    CHECK_EQ(fixture.policy->size(), ranks.size());
    if (step % 64 == 0) CHECK(fixture.policy->consistent());
  }
}

TEST(eviction, the_store_eats_chains_from_their_end) {
  StoreFixture fixture;
  const Stamp stamp = fixture.stamps.next();
  for (uint32_t depth = 0; depth < 32; ++depth) fixture.put_at(depth, stamp, depth);
  fixture.put_chain(1000, 16);
  for (uint32_t depth = 32; depth < 64; ++depth) fixture.put_at(depth, stamp, depth);  // the same request goes on
  for (uint32_t left = 64; left > 0; --left) {
    CHECK_EQ(fixture.match(1000, 16), 16u);  // touching the other chain only makes it younger
    CHECK_EQ(fixture.store.evict(1), kGranule);
    CHECK(!fixture.has(left - 1));
    CHECK(left == 1 || fixture.has(left - 2));
  }
}

TEST(eviction, whatever_reads_a_chain_keeps_it) {
  const auto survives = [](auto&& read) {
    StoreFixture fixture;
    fixture.put_chain(0, 8);
    fixture.put_chain(100, 8);
    read(fixture);
    fixture.store.evict(8 * kGranule);
    return fixture.has(0) && fixture.has(7) && !fixture.has(100) && !fixture.has(107);
  };
  CHECK(survives([](StoreFixture& fixture) { fixture.match(0, 8); }));
  CHECK(survives([](StoreFixture& fixture) { fixture.put_chain(0, 8); }));  // kExists counts as a use
  CHECK(survives([](StoreFixture& fixture) {
    std::vector<Status> statuses(8);
    fixture.store.touch(keys_from(0, 8), fixture.stamps.next(), 0, BlockStore::kKeepExpiry, statuses);
  }));
  CHECK(survives([](StoreFixture& fixture) {
    std::vector<Status> statuses(8);
    std::vector<Lease> leases(8);
    fixture.store.acquire(keys_from(0, 8), fixture.stamps.next(), 0, leases, statuses);
    for (const Lease& lease : leases) fixture.store.release(lease);
  }));
  CHECK(!survives([](StoreFixture& fixture) {
    std::vector<Status> statuses(8);
    fixture.store.contains(keys_from(0, 8), statuses);
  }));
}

// Verbs look keys up in batches; the depths must go on from one batch to the next.
TEST(eviction, a_chain_longer_than_a_batch_keeps_its_depths) {
  constexpr uint32_t kChain = 1300;
  const auto evicts_from_the_end = [](auto&& use) {
    StoreFixture fixture(8ull << 20);
    fixture.put_chain(0, kChain);
    use(fixture, keys_from(0, kChain));
    for (uint32_t left = kChain; left > 0; left -= 100) {
      if (fixture.match(0, kChain) != left) return false;
      use(fixture, keys_from(0, left));
      fixture.store.evict(100 * kGranule);
    }
    return true;
  };
  CHECK(evicts_from_the_end([](StoreFixture& fixture, const std::vector<Key>& keys) {
    CHECK_EQ(fixture.store.match(keys, fixture.stamps.next(), 0), keys.size());
  }));
  CHECK(evicts_from_the_end([](StoreFixture& fixture, const std::vector<Key>& keys) {
    std::vector<Status> statuses(keys.size());
    fixture.store.touch(keys, fixture.stamps.next(), 0, BlockStore::kKeepExpiry, statuses);
  }));
  CHECK(evicts_from_the_end([](StoreFixture& fixture, const std::vector<Key>& keys) {
    std::vector<Status> statuses(keys.size());
    std::vector<Lease> leases(keys.size());
    fixture.store.acquire(keys, fixture.stamps.next(), 0, leases, statuses);
    for (const Lease& lease : leases) fixture.store.release(lease);
  }));
}

// More leased blocks at the cold end than one search asks about: the victims behind them must still be found.
TEST(eviction, finds_the_one_idle_block_behind_many_leased_ones) {
  constexpr uint32_t kBlocks = 2048;
  StoreFixture fixture(uint64_t{kBlocks} * kGranule);
  fixture.put_chain(0, kBlocks);
  std::vector<Lease> leases(kBlocks);
  for (uint32_t number = 0; number < kBlocks; ++number) {
    if (number != 17) fixture.acquire(number, &leases[number]);
  }
  fixture.touch(17);
  CHECK_EQ(fixture.store.stats().leases, kBlocks - 1u);
  CHECK(fixture.put(5000) == Status::kOk);
  CHECK(!fixture.has(17));
  CHECK(fixture.put(5001) == Status::kOk);
  CHECK(!fixture.has(5000));
  for (uint32_t number = 0; number < kBlocks; ++number) {
    if (number != 17) fixture.store.release(leases[number]);
  }
  CHECK(fixture.store.consistent());
}
