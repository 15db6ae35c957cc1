#include <algorithm>
#include <random>
#include <unordered_map>
#include <vector>

#include "check.h"
#include "store/eviction.h"

using namespace kvstore;

namespace {

constexpr uint32_t kNone = EvictionPolicy::kNone;

bool any(uint32_t) { return true; }

// Chains of numbered blocks in a policy of limited size, as a store would keep them.
class SmallStore {
 public:
  explicit SmallStore(uint32_t capacity) : capacity_(capacity), blocks_(capacity, kNone) {
    for (uint32_t slot = 0; slot < capacity; ++slot) free_.push_back(slot);
  }

  // The usable hits. What is read and what is written have a stamp each, as an engine's calls have.
  uint32_t request(const std::vector<uint32_t>& chain, bool block_by_block = false) {
    std::vector<TouchedBlock> touched;
    for (uint32_t depth = 0; depth < chain.size() && slots_.contains(chain[depth]); ++depth) {
      touched.push_back(at(chain[depth], depth));
    }
    policy_->on_touch(next_stamp(), touched);
    std::vector<uint32_t> missing;
    for (uint32_t depth = 0; depth < chain.size(); ++depth) {
      if (!slots_.contains(chain[depth])) missing.push_back(depth);
    }
    while (free_.size() < missing.size()) evict();
    const Stamp stamp = next_stamp();
    std::vector<TouchedBlock> inserted;
    for (const uint32_t depth : missing) {
      slots_[chain[depth]] = free_.back();
      blocks_[free_.back()] = chain[depth];
      free_.pop_back();
      inserted.push_back(at(chain[depth], depth));
      before_[chain[depth]] = depth == 0 ? kNone : chain[depth - 1];
      if (block_by_block) policy_->on_insert(stamp, {&inserted.back(), 1});
    }
    if (!block_by_block) policy_->on_insert(stamp, inserted);
    return static_cast<uint32_t>(touched.size());
  }

  uint32_t evict() {
    const uint32_t slot = policy_->victim(next_stamp(), any, kNone);
    const uint32_t gone = blocks_[slot];
    policy_->on_remove(slot);
    slots_.erase(gone);
    free_.push_back(slot);
    evicted.push_back(gone);
    return gone;
  }

  // Whether no block is there without the block before it.
  [[nodiscard]] bool usable() const {
    return std::ranges::all_of(slots_, [this](const auto& held) {
      const uint32_t before = before_.at(held.first);
      return before == kNone || slots_.contains(before);
    });
  }
  [[nodiscard]] bool has(uint32_t block) const { return slots_.contains(block); }
  [[nodiscard]] size_t size() const { return slots_.size(); }
  EvictionPolicy& policy() { return *policy_; }

  std::vector<uint32_t> evicted;

 private:
  TouchedBlock at(uint32_t block, uint32_t depth) { return {slots_.at(block), depth, block * 2654435761U + 1}; }
  Stamp next_stamp() { return Stamp{++stamp_}; }

  const uint32_t capacity_;
  std::unique_ptr<EvictionPolicy> policy_ = make_reuse_policy();
  std::unordered_map<uint32_t, uint32_t> slots_;   // by block
  std::unordered_map<uint32_t, uint32_t> before_;  // in the chain
  std::vector<uint32_t> blocks_;                   // by slot
  std::vector<uint32_t> free_;
  uint64_t stamp_ = 0;
};

std::vector<uint32_t> chain_of(uint32_t first, uint32_t length) {
  std::vector<uint32_t> chain(length);
  for (uint32_t depth = 0; depth < length; ++depth) chain[depth] = first + depth;
  return chain;
}

// Conversations that grow, part and end, on a few prompts that many share.
template <class OnRequest>
void random_conversations(uint64_t seed, uint32_t requests, OnRequest on_request) {
  std::mt19937_64 random(seed);
  uint32_t next_block = 100;
  std::vector<std::vector<uint32_t>> live;
  for (uint32_t request = 0; request < requests; ++request) {
    if (live.size() < 20 || random() % 3 == 0) {
      live.push_back(chain_of(static_cast<uint32_t>(random() % 4) * 8, 8));
      if (live.size() > 60) live.erase(live.begin());
    }
    std::vector<uint32_t>& chain = live[random() % live.size()];
    if (chain.size() > 12 && random() % 6 == 0) chain.resize(chain.size() - random() % 4);  // goes on elsewhere
    for (uint64_t added = random() % 5; added > 0; --added) chain.push_back(next_block++);
    on_request(chain);
  }
}

}  // namespace

TEST(reuse_policy, no_block_goes_before_its_suffix) {
  for (const bool block_by_block : {false, true}) {
    SmallStore store(300);
    random_conversations(5, 4000, [&](const std::vector<uint32_t>& chain) {
      store.request(chain, block_by_block);
      CHECK(store.usable());
    });
    CHECK(store.evicted.size() > 1000);
    CHECK(store.policy().consistent());
    while (store.size() > 0) {
      store.evict();
      CHECK(store.usable());
    }
  }
}

TEST(reuse_policy, equal_calls_have_equal_results) {
  SmallStore one(200);
  SmallStore other(200);
  for (SmallStore* store : {&one, &other}) {
    random_conversations(6, 2000, [&](const std::vector<uint32_t>& chain) { store->request(chain); });
  }
  CHECK(one.evicted.size() > 500);
  CHECK(one.evicted == other.evicted);
}

TEST(reuse_policy, before_it_has_learned_it_evicts_the_least_recent) {
  SmallStore store(40);
  for (uint32_t request = 0; request < 4; ++request) store.request(chain_of(request * 100, 10));
  for (uint32_t request = 0; request < 4; ++request) {
    for (uint32_t depth = 10; depth-- > 0;) CHECK_EQ(store.evict(), request * 100 + depth);
  }
}

TEST(reuse_policy, the_request_that_needs_the_space_keeps_its_prefix) {
  SmallStore store(40);
  for (uint32_t request = 0; request < 4; ++request) store.request(chain_of(request * 100, 10));
  CHECK_EQ(store.request(chain_of(0, 30)), 10u);
  for (uint32_t depth = 0; depth < 30; ++depth) CHECK(store.has(depth));
}

TEST(reuse_policy, learns_that_documents_read_once_do_not_come_back) {
  // Long documents between short conversations that come back after 40 requests: LRU loses them all.
  SmallStore store(600);
  uint32_t next_block = 1'000'000;
  std::vector<std::vector<uint32_t>> conversations(20);
  uint32_t hits = 0;
  uint32_t references = 0;
  for (uint32_t request = 0; request < 6000; ++request) {
    if (request % 2 == 0) {
      store.request(chain_of(next_block, 60));
      next_block += 60;
      continue;
    }
    std::vector<uint32_t>& chain = conversations[request / 2 % conversations.size()];
    for (int added = 0; added < 2; ++added) chain.push_back(next_block++);
    if (chain.size() > 12) chain = {next_block++, next_block++};
    const uint32_t found = store.request(chain);
    if (request < 3000) continue;
    hits += found;
    references += static_cast<uint32_t>(chain.size()) - 2;
  }
  CHECK(hits * 10 > references * 8);
}

TEST(reuse_policy, learns_again_when_the_load_changes) {
  // First whole conversations come back, then only new chains come, then other conversations do.
  SmallStore store(400);
  uint32_t next_block = 0;
  const auto hits_of_phase = [&](uint32_t conversations) {
    std::vector<std::vector<uint32_t>> chains(conversations);
    uint32_t hits = 0;
    for (uint32_t request = 0; request < 2000; ++request) {
      std::vector<uint32_t>& chain = chains[request % conversations];
      if (chain.size() > 20) chain.clear();
      for (int added = 0; added < 4; ++added) chain.push_back(next_block++);
      hits += store.request(chain);
    }
    return hits;
  };
  const uint32_t first = hits_of_phase(10);
  for (uint32_t request = 0; request < 2000; ++request) {
    store.request(chain_of(next_block, 10));
    next_block += 10;
  }
  const uint32_t again = hits_of_phase(10);
  CHECK(first > 2000 * 6);
  CHECK(again * 10 > first * 9);
}

TEST(reuse_policy, keeps_to_its_memory) {
  constexpr uint32_t kBlocks = 200'000;
  SmallStore store(kBlocks);
  const size_t empty_bytes = store.policy().memory_bytes();
  for (uint32_t request = 0; store.size() < kBlocks; ++request) store.request(chain_of(request * 20, 20));
  CHECK(store.policy().memory_bytes() - empty_bytes < kBlocks * 40u);
}
