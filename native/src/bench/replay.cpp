#include "bench/replay.h"

#include <array>
#include <iterator>
#include <set>
#include <stdexcept>
#include <tuple>
#include <utility>

#include "base/clock.h"
#include "bench/policies/policies.h"

namespace kvstore::bench {

namespace {

constexpr uint32_t kNone = UINT32_MAX;

struct NamedPolicy {
  std::string_view name;
  std::unique_ptr<EvictionPolicy> (*make)();
};

constexpr std::array kPolicies{
    NamedPolicy{"plain LRU", make_plain_lru_policy}, NamedPolicy{"LRU", make_lru_policy},
    NamedPolicy{"S3-FIFO", make_s3_fifo_policy},     NamedPolicy{"LFU-DA", make_lfu_policy},
    NamedPolicy{"reuse", make_reuse_policy},
};

// Spreads block numbers as the digests of keys are spread (the finalizer of MurmurHash3).
uint32_t digest_of(uint32_t block) {
  uint32_t hash = block + 1;
  hash = (hash ^ (hash >> 16)) * 0x85ebca6b;
  hash = (hash ^ (hash >> 13)) * 0xc2b2ae35;
  return hash ^ (hash >> 16);
}

class Replay {
 public:
  Replay(const Trace& trace, uint32_t capacity, EvictionPolicy& policy, Stamps stamps)
      : policy_(policy), stamps_(stamps), slots_(trace.unique_blocks, kNone), blocks_(capacity), free_(capacity) {
    for (uint32_t slot = 0; slot < capacity; ++slot) free_[slot] = capacity - 1 - slot;
  }

  void request(std::span<const uint32_t> chain) {
    if (chain.size() > blocks_.size()) throw std::invalid_argument("a request has more blocks than the capacity");
    const Stamp stamp = next_stamp();
    touched_.clear();
    for (uint32_t depth = 0; depth < chain.size() && slots_[chain[depth]] != kNone; ++depth) {
      touched_.push_back({slots_[chain[depth]], depth, digest_of(chain[depth])});
    }
    result_.references += chain.size();
    result_.usable_hits += touched_.size();
    const uint64_t start_ns = clock_.now_ns();
    policy_.on_touch(stamp, touched_);
    store(chain, stamps_ == Stamps::kOneARequest ? stamp : next_stamp());
    result_.policy_ns += clock_.now_ns() - start_ns;
    result_.operations += touched_.size() + inserted_.size();
  }

  ReplayResult result() {
    result_.policy_bytes = policy_.memory_bytes();
    result_.blocks_held = policy_.size();
    return result_;
  }

 private:
  Stamp next_stamp() { return Stamp{++stamp_}; }

  // Blocks behind the hits may be present as well: a put finds them there, which touches nothing.
  void store(std::span<const uint32_t> chain, Stamp stamp) {
    missing_.clear();
    for (uint32_t depth = 0; depth < chain.size(); ++depth) {
      if (slots_[chain[depth]] == kNone) missing_.push_back(depth);
    }
    while (free_.size() < missing_.size()) evict();
    inserted_.clear();
    for (const uint32_t depth : missing_) {
      const uint32_t slot = free_.back();
      free_.pop_back();
      slots_[chain[depth]] = slot;
      blocks_[slot] = chain[depth];
      inserted_.push_back({slot, depth, digest_of(chain[depth])});
    }
    policy_.on_insert(stamp, inserted_);
  }

  void evict() {
    const uint32_t slot = policy_.victim(next_stamp(), [](uint32_t) { return true; }, kNone);
    if (slot == kNone) throw std::logic_error("the policy holds blocks and finds no victim");
    policy_.on_remove(slot);
    slots_[blocks_[slot]] = kNone;
    free_.push_back(slot);
    ++result_.operations;
  }

  EvictionPolicy& policy_;
  const Stamps stamps_;
  const Clock& clock_ = SteadyClock::instance();
  std::vector<uint32_t> slots_;   // by block
  std::vector<uint32_t> blocks_;  // by slot
  std::vector<uint32_t> free_;
  std::vector<TouchedBlock> touched_;
  std::vector<TouchedBlock> inserted_;
  std::vector<uint32_t> missing_;  // depths
  uint64_t stamp_ = 0;
  ReplayResult result_;
};

// Where the next use of each reference's block is, by the number of the request; kNone where there is none.
std::vector<uint32_t> next_uses(const Trace& trace) {
  std::vector<uint32_t> next(trace.blocks.size());
  std::vector<uint32_t> user(trace.unique_blocks, kNone);
  size_t at = trace.blocks.size();
  for (auto request = static_cast<uint32_t>(trace.lengths.size()); request-- > 0;) {
    for (uint32_t left = trace.lengths[request]; left > 0; --left) {
      --at;
      next[at] = std::exchange(user[trace.blocks[at]], request);
    }
  }
  return next;
}

}  // namespace

Trace make_trace(std::span<const uint32_t> blocks, std::span<const uint32_t> lengths) {
  Trace trace{{blocks.begin(), blocks.end()}, {lengths.begin(), lengths.end()}, 0};
  std::vector<uint32_t> before;  // by block: the block before it, or itself at the start of a chain
  size_t at = 0;
  for (const uint32_t length : lengths) {
    if (length > blocks.size() - at) throw std::invalid_argument("the lengths add up to more than the blocks");
    for (size_t depth = 0; depth < length; ++depth, ++at) {
      const uint32_t block = blocks[at];
      const uint32_t previous = depth == 0 ? block : blocks[at - 1];
      if (block > before.size()) throw std::invalid_argument("blocks must be numbered in the order they first appear");
      if (block == before.size()) before.push_back(previous);
      if (before[block] != previous) {
        throw std::invalid_argument("block " + std::to_string(block) + " follows different blocks in different chains");
      }
    }
  }
  if (at != blocks.size()) throw std::invalid_argument("the lengths add up to less than the blocks");
  trace.unique_blocks = static_cast<uint32_t>(before.size());
  return trace;
}

ReplayResult replay(const Trace& trace, uint32_t capacity, EvictionPolicy& policy, Stamps stamps) {
  Replay run(trace, capacity, policy, stamps);
  std::span<const uint32_t> rest = trace.blocks;
  for (const uint32_t length : trace.lengths) {
    run.request(rest.first(length));
    rest = rest.subspan(length);
  }
  return run.result();
}

uint64_t belady_hits(const Trace& trace, uint32_t capacity) {
  using Rank = std::tuple<uint32_t, uint32_t, uint32_t>;  // next use, depth, block
  const std::vector<uint32_t> next = next_uses(trace);
  std::set<Rank> present;
  std::vector<Rank> ranks(trace.unique_blocks);
  uint64_t hits = 0;
  size_t at = 0;
  for (const uint32_t length : trace.lengths) {
    for (uint32_t depth = 0; depth < length; ++depth, ++at) {
      const uint32_t block = trace.blocks[at];
      hits += present.erase(ranks[block]);
      ranks[block] = {next[at], depth, block};
      if (next[at] != kNone) present.insert(ranks[block]);
      if (present.size() > capacity) present.erase(std::prev(present.end()));
    }
  }
  return hits;
}

std::vector<std::string> policy_names() {
  std::vector<std::string> names;
  for (const NamedPolicy& policy : kPolicies) names.emplace_back(policy.name);
  return names;
}

std::unique_ptr<EvictionPolicy> make_policy(std::string_view name) {
  for (const NamedPolicy& policy : kPolicies) {
    if (policy.name == name) return policy.make();
  }
  throw std::invalid_argument("there is no policy named " + std::string(name));
}

}  // namespace kvstore::bench
