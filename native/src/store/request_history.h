// The requests of the recent past, whether their blocks are still stored or not: how a returning conversation is known
// again, and what the chances of a return are learned from.
//
// A ring of requests, found by the digests of up to two of their blocks. Not thread-safe: the owner locks.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "store/slot_table.h"

namespace kvstore {

// What the chance of a return depends on: of a conversation, or of one block at which many part, which comes back
// whenever any of them does and has a usual gap of its own.
struct ReturnClass {
  static constexpr uint8_t kTurns = 8;
  static constexpr uint8_t kSizes = 8;
  static constexpr uint8_t kGaps = 4;
  static constexpr uint8_t kShared = kGaps;  // in place of a gap

  uint8_t turn = 0;  // how often the conversation came back before; the last counts all above
  uint8_t size = 0;  // blocks the request added to its conversation, as powers of two; of a shared block its usual gap
  uint8_t gap = 0;   // how long the conversation was away before: 0 never, then short, middling, long

  [[nodiscard]] bool shared() const { return gap == kShared; }
};

struct PastRequest {
  uint64_t stamp = 0;
  uint64_t returned_after = 0;        // stamps until the conversation came back; 0: not yet
  std::array<uint32_t, 2> digests{};  // of the blocks it is known by; 0: none
  uint32_t end_depth = 0;             // of its deepest block
  ReturnClass kind;
};

class RequestHistory {
 public:
  static constexpr uint32_t kNone = UINT32_MAX;

  // The number of a new request. Forgets the oldest, if at least `capacity` are known.
  uint32_t open(uint64_t stamp, size_t capacity);
  // The request is known by this block from now on, and no other one is. `which` is 0 or 1.
  void name(uint32_t number, uint32_t which, uint32_t digest);

  [[nodiscard]] uint32_t find(uint32_t digest) const;  // the number, or kNone
  [[nodiscard]] PastRequest& operator[](uint32_t number) { return requests_[number]; }
  [[nodiscard]] std::span<const PastRequest> requests() const { return requests_; }
  [[nodiscard]] size_t memory_bytes() const;
  [[nodiscard]] bool consistent() const;  // every invariant, slow: for tests

 private:
  void forget_name(uint32_t number, uint32_t which);

  std::vector<PastRequest> requests_;
  uint32_t next_ = 0;
  SlotTable by_digest_;  // stands for request number * 2 + which
};

}  // namespace kvstore
