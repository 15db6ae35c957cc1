// What every eviction policy promises (store/eviction.h), checked for each of them.
#include <algorithm>
#include <random>
#include <unordered_map>
#include <unordered_set>

#include "bench/replay.h"
#include "check.h"
#include "store/eviction.h"

using namespace kvstore;

namespace {

constexpr uint32_t kNone = EvictionPolicy::kNone;

TouchedBlock block(uint32_t slot, uint32_t depth) { return {slot, depth, slot * 2654435761U + 1}; }

struct PolicyUnderTest {
  explicit PolicyUnderTest(const std::string& name)
      : policy(bench::make_policy(name)),
        knows_chains(name != "plain LRU"),
        orders_late_blocks(knows_chains && name != "S3-FIFO") {}  // a queue has the order of arrival

  void insert(uint64_t stamp, std::vector<TouchedBlock> blocks) { policy->on_insert(Stamp{stamp}, blocks); }
  void touch(uint64_t stamp, std::vector<TouchedBlock> blocks) { policy->on_touch(Stamp{stamp}, blocks); }
  // Evicts everything and says in which order.
  std::vector<uint32_t> drain() {
    std::vector<uint32_t> order;
    while (policy->size() > 0) {
      CHECK(policy->consistent());
      order.push_back(policy->victim(Stamp{1'000'000}, [](uint32_t) { return true; }, 1));
      policy->on_remove(order.back());
    }
    return order;
  }

  const std::unique_ptr<EvictionPolicy> policy;
  const bool knows_chains;
  const bool orders_late_blocks;
};

template <class Check>
void for_each_policy(Check check) {
  for (const std::string& name : bench::policy_names()) {
    try {
      PolicyUnderTest tested(name);
      check(tested);
    } catch (const test::Failure& failure) {
      throw test::Failure(name + ": " + failure.what());
    }
  }
}

}  // namespace

TEST(policy_contract, an_empty_policy_has_no_victim) {
  for_each_policy([](PolicyUnderTest& tested) {
    CHECK_EQ(tested.policy->victim(Stamp{1}, [](uint32_t) { return true; }, 10), kNone);
    tested.touch(1, {block(5, 0)});
    CHECK(!tested.policy->contains(5));
    CHECK_EQ(tested.policy->size(), 0u);
    CHECK(tested.policy->consistent());
  });
}

TEST(policy_contract, the_deeper_block_of_a_request_goes_first) {
  for_each_policy([](PolicyUnderTest& tested) {
    if (!tested.knows_chains) return;
    tested.insert(1, {block(12, 2), block(10, 0), block(11, 1)});  // in any order
    tested.insert(2, {block(20, 0), block(21, 7)});
    tested.touch(3, {block(10, 0), block(11, 1), block(12, 2)});
    const std::vector<uint32_t> order = tested.drain();
    const auto place = [&](uint32_t slot) { return std::ranges::find(order, slot); };
    CHECK_EQ(order.size(), 5u);
    CHECK(place(12) < place(11) && place(11) < place(10) && place(21) < place(20));
  });
}

TEST(policy_contract, a_request_may_arrive_block_by_block_and_out_of_order) {
  for_each_policy([](PolicyUnderTest& tested) {
    if (!tested.orders_late_blocks) return;
    for (const uint32_t depth : {3u, 0u, 1u, 5u, 2u, 7u, 6u, 4u}) {
      tested.insert(1, {block(depth, depth)});
      tested.insert(2, {block(10 + depth, depth)});
    }
    const std::vector<uint32_t> order = tested.drain();
    for (uint32_t depth = 1; depth < 8; ++depth) {
      CHECK(std::ranges::find(order, depth) < std::ranges::find(order, depth - 1));
      CHECK(std::ranges::find(order, 10 + depth) < std::ranges::find(order, 10 + depth - 1));
    }
  });
}

TEST(policy_contract, a_search_ends_when_all_or_enough_were_refused) {
  for_each_policy([](PolicyUnderTest& tested) {
    tested.insert(1, {block(0, 0), block(1, 1), block(2, 2), block(3, 3)});
    tested.insert(2, {block(4, 0)});
    int asked = 0;
    const auto refuse = [&](uint32_t) { return ++asked < 0; };
    CHECK_EQ(tested.policy->victim(Stamp{3}, refuse, 100), kNone);
    CHECK(asked >= 5 && asked <= 12);
    asked = 0;
    CHECK_EQ(tested.policy->victim(Stamp{4}, refuse, 2), kNone);
    CHECK_EQ(asked, 2);
    CHECK(tested.policy->consistent());
    CHECK_EQ(tested.drain().size(), 5u);
  });
}

TEST(policy_contract, the_one_idle_block_is_found_wherever_it_is) {
  constexpr uint32_t kBlocks = 600;
  for_each_policy([](PolicyUnderTest& tested) {
    std::vector<TouchedBlock> chain;
    for (uint32_t depth = 0; depth < kBlocks; ++depth) chain.push_back(block(depth, depth));
    tested.insert(1, chain);
    for (const uint32_t idle : {17u, 599u, 0u, 300u}) {
      uint32_t found = kNone;
      uint32_t looks = 0;
      for (uint64_t stamp = 2; found == kNone && looks < kBlocks + 1000; ++stamp, looks += 64) {
        found = tested.policy->victim(Stamp{stamp}, [&](uint32_t slot) { return slot == idle; }, 64);
      }
      CHECK_EQ(found, idle);
    }
  });
}

TEST(policy_contract, holds_what_it_was_told_through_random_operations) {
  constexpr uint32_t kSlots = 400;
  for_each_policy([](PolicyUnderTest& tested) {
    std::mt19937_64 random(11);
    std::unordered_set<uint32_t> held;
    for (uint64_t step = 100; step < 12'000; ++step) {
      const uint64_t stamp = step - random() % 20;
      const auto slot = static_cast<uint32_t>(random() % kSlots);
      const auto depth = static_cast<uint32_t>(random() % 48);
      if (held.insert(slot).second) {
        tested.insert(stamp, {block(slot, depth)});
      } else if (step % 9 == 0) {
        tested.policy->on_remove(slot);
        held.erase(slot);
      } else if (step % 4 == 0) {
        const auto idle = [](uint32_t candidate) { return candidate % 3 != 0; };
        const uint32_t victim = tested.policy->victim(Stamp{step}, idle, 2 * kSlots);
        CHECK(victim == kNone ? std::ranges::none_of(held, idle) : held.contains(victim) && idle(victim));
        if (victim == kNone) continue;
        tested.policy->on_remove(victim);
        held.erase(victim);
      } else {
        std::vector<TouchedBlock> chain;
        for (uint32_t place = 0; place < 12; ++place) chain.push_back(block((slot + place * 5) % kSlots, place * 2));
        std::shuffle(chain.begin(), chain.end(), random);
        tested.touch(stamp, chain);
      }
      CHECK_EQ(tested.policy->size(), held.size());
      if (step % 64 == 0) CHECK(tested.policy->consistent());
    }
    for (uint32_t slot = 0; slot < kSlots; ++slot) CHECK_EQ(tested.policy->contains(slot), held.contains(slot));
  });
}
