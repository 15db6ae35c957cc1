// What decides which block leaves first. Policies see slots (indices of blocks), never bytes or keys.
//
// All blocks that one request touches carry the same stamp, and `depth` is a block's place in its chain. Among blocks
// of one stamp the deeper must go first: a block without its prefix is useless, so a chain is eaten from its end.
// Calls are serialised by the store.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>

namespace kvstore {

// Names a request and its place in time: a later request has a greater stamp. A type of its own, so that no depth can
// be passed for it.
enum class Stamp : uint64_t {};

struct TouchedBlock {
  uint32_t slot;
  uint32_t depth;
  // Of the block's key: the same whenever the block is stored, so that a policy can know again what it evicted. 0 where
  // it is not known.
  uint32_t digest = 0;
};

class EvictionPolicy {
 public:
  static constexpr uint32_t kNone = UINT32_MAX;

  virtual ~EvictionPolicy() = default;
  // The blocks became visible: all new to the policy, in any order. One request may insert in many calls.
  virtual void on_insert(Stamp stamp, std::span<const TouchedBlock> blocks) = 0;
  // The blocks were used again, in any order. Slots the policy does not hold (removed in the meantime) are ignored; a
  // block that a younger request touched already stays as it is.
  virtual void on_touch(Stamp stamp, std::span<const TouchedBlock> blocks) = 0;
  // The block, which the policy holds, is gone (evicted, expired or deleted).
  virtual void on_remove(uint32_t slot) = 0;
  // The next victim among those that `evictable` accepts, not yet removed; or kNone, when no block is left to ask about
  // or `limit` were refused. A refused block is in use: it counts as touched at `now`, so that the next search does not
  // meet it again first.
  [[nodiscard]] virtual uint32_t victim(Stamp now, const std::function<bool(uint32_t)>& evictable, uint32_t limit) = 0;

  [[nodiscard]] virtual bool contains(uint32_t slot) const = 0;
  [[nodiscard]] virtual size_t size() const = 0;          // blocks held
  [[nodiscard]] virtual size_t memory_bytes() const = 0;  // the policy's own memory
  [[nodiscard]] virtual bool consistent() const = 0;      // every invariant, slow: for tests
};

// Least recently used: the oldest stamp first and, within a stamp, the deepest first.
[[nodiscard]] std::unique_ptr<EvictionPolicy> make_lru_policy();

// Least expected reuse first: learns when the conversations that requests belong to come back, and keeps what promises
// the most hits for its space and time. A block never goes before a deeper one of its chain, as far as requests have
// shown which those are, unless all the deeper ones are in use. What nodes use.
[[nodiscard]] std::unique_ptr<EvictionPolicy> make_reuse_policy();

}  // namespace kvstore
