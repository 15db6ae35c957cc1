#include "bench/replay.h"

#include <algorithm>
#include <bit>
#include <random>

#include "check.h"

using namespace kvstore;
using namespace kvstore::bench;

namespace {

template <class Action>
bool refused(Action action) {
  try {
    action();
  } catch (const std::invalid_argument&) {
    return true;
  }
  return false;
}

Trace trace_of(const std::vector<std::vector<uint32_t>>& chains) {
  std::vector<uint32_t> blocks;
  std::vector<uint32_t> lengths;
  for (const auto& chain : chains) {
    blocks.insert(blocks.end(), chain.begin(), chain.end());
    lengths.push_back(static_cast<uint32_t>(chain.size()));
  }
  return make_trace(blocks, lengths);
}

// Conversations on one prompt; each turn has all before and two blocks more.
Trace conversations(uint64_t seed, uint32_t requests) {
  std::mt19937_64 random(seed);
  std::vector<std::vector<uint32_t>> live;
  std::vector<std::vector<uint32_t>> chains;
  uint32_t next_block = 3;
  while (chains.size() < requests) {
    if (live.size() < 100) live.push_back({0, 1, 2});
    const size_t chosen = random() % live.size();
    live[chosen].push_back(next_block++);
    live[chosen].push_back(next_block++);
    chains.push_back(live[chosen]);
    if (random() % 3 == 0) live.erase(live.begin() + static_cast<std::ptrdiff_t>(chosen));
  }
  return trace_of(chains);
}

// The most usable hits, by trying all that could be kept after each request.
uint64_t best_hits(const std::vector<std::vector<uint32_t>>& chains, size_t request, uint32_t present,
                   uint32_t capacity) {
  if (request == chains.size()) return 0;
  uint64_t hits = 0;
  uint32_t there = present;
  for (const uint32_t block : chains[request]) there |= 1u << block;
  for (const uint32_t block : chains[request]) {
    if ((present >> block & 1) == 0) break;
    ++hits;
  }
  uint64_t best = 0;
  for (uint32_t kept = there;; kept = (kept - 1) & there) {
    if (static_cast<uint32_t>(std::popcount(kept)) <= capacity) {
      best = std::max(best, best_hits(chains, request + 1, kept, capacity));
    }
    if (kept == 0) break;
  }
  return hits + best;
}

}  // namespace

TEST(replay, counts_only_hits_whose_whole_prefix_is_there) {
  // Room for four: the third request leaves 0, 3, 4, 5; then 1 is missing, so 2 would be of no use.
  const Trace trace = trace_of({{0, 1, 2}, {0, 1, 2}, {0, 3, 4, 5}, {0, 1, 2}});
  const ReplayResult result = replay(trace, 4, *make_policy("LRU"), Stamps::kOneARequest);
  CHECK_EQ(result.references, 13u);
  CHECK_EQ(result.usable_hits, 3u + 1u + 1u);
  CHECK_EQ(result.blocks_held, 4u);
}

TEST(replay, with_room_for_all_every_policy_has_every_hit) {
  const Trace trace = conversations(1, 500);
  const uint64_t all = trace.blocks.size() - trace.unique_blocks;
  CHECK_EQ(belady_hits(trace, trace.unique_blocks), all);
  for (const std::string& name : policy_names()) {
    for (const Stamps stamps : {Stamps::kOneARequest, Stamps::kAsEngines}) {
      CHECK_EQ(replay(trace, trace.unique_blocks, *make_policy(name), stamps).usable_hits, all);
    }
  }
}

TEST(replay, belady_is_the_best_there_is) {
  std::mt19937_64 random(3);
  for (int round = 0; round < 20; ++round) {
    std::vector<std::vector<uint32_t>> chains;
    uint32_t next_block = 0;
    for (int request = 0; request < 5; ++request) {
      std::vector<uint32_t> chain;
      if (!chains.empty()) {
        chain = chains[random() % chains.size()];
        chain.resize(random() % (chain.size() + 1));
      }
      if (chain.size() < 3 && next_block < 7) chain.push_back(next_block++);
      if (!chain.empty()) chains.push_back(chain);
    }
    // Branches begin with a block of their own, so each block has one predecessor.
    const Trace trace = trace_of(chains);
    for (const uint32_t capacity : {1u, 2u, 3u}) {
      CHECK_EQ(belady_hits(trace, capacity), best_hits(chains, 0, 0, capacity));
    }
  }
}

// Each conversation is as likely to go on as any other, however long it was away: there is nothing to learn.
TEST(replay, no_policy_beats_belady_and_the_default_is_never_far_below_lru) {
  const Trace trace = conversations(2, 6000);
  for (const uint32_t percent : {2u, 5u, 10u, 25u}) {
    const uint32_t capacity = trace.unique_blocks * percent / 100;
    const uint64_t bound = belady_hits(trace, capacity);
    for (const std::string& name : policy_names()) {
      CHECK(replay(trace, capacity, *make_policy(name), Stamps::kOneARequest).usable_hits <= bound);
    }
    const uint64_t lru = replay(trace, capacity, *make_policy("LRU"), Stamps::kAsEngines).usable_hits;
    const uint64_t reuse = replay(trace, capacity, *make_policy("reuse"), Stamps::kAsEngines).usable_hits;
    CHECK(reuse + trace.blocks.size() / 200 >= lru);
  }
}

TEST(replay, refuses_what_is_no_trace) {
  CHECK(refused([] { (void)trace_of({{0, 1}, {1, 0}}); }));  // 1 follows nothing, then 0
  CHECK(refused([] { (void)trace_of({{0, 2}}); }));          // 2 without a 1
  CHECK(refused([] { (void)make_trace(std::vector<uint32_t>{0, 1}, std::vector<uint32_t>{1}); }));
  CHECK(refused([] { (void)make_trace(std::vector<uint32_t>{0}, std::vector<uint32_t>{2}); }));
  CHECK(refused([] { (void)make_policy("no such policy"); }));
  const Trace trace = trace_of({{0, 1, 2}});
  CHECK(refused([&] { (void)replay(trace, 2, *make_policy("LRU"), Stamps::kOneARequest); }));
}
