// One call of the user: a verb on many keys, its buffers, and what became of each.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/key.h"
#include "base/status.h"
#include "wire/frame.h"

namespace kvstore {

enum class Verb : uint8_t { kGet, kPut, kMatch, kExists, kTouch, kDelete, kBorrow };

// A run of the caller's memory.
struct Piece {
  std::byte* data = nullptr;  // a put only reads it
  size_t bytes = 0;
};

// The pieces that make up one block, as a range of Batch::pieces.
struct BlockPieces {
  uint32_t first = 0;
  uint32_t count = 0;
  uint32_t bytes = 0;  // of all of them
};

// What the views of a borrow stand on: the mapped arena and leases in it, or memory of their own. The memory stays for
// as long as anybody looks at a view; `release` ends the leases, after which the arena may be written again.
class BorrowedBlocks {
 public:
  virtual ~BorrowedBlocks() = default;
  virtual void release() {}
};

// Neighbouring keys of a batch.
struct KeyRange {
  uint32_t first = 0;
  uint32_t count = 0;
};

struct Batch {
  Verb verb{};
  std::vector<Key> keys;
  std::vector<Piece> pieces;
  std::vector<BlockPieces> blocks;  // get and put: one for each key
  uint32_t number = 0;              // names the batch to the node, once it was started
  uint32_t first_depth = 0;
  uint32_t wait_ms = 0;
  uint64_t ttl_ms = 0;
  bool durable = false;  // put: done only when every block would survive the death of the node
  uint32_t timeout_ms = 0;
  uint64_t deadline_ns = 0;

  // Keeps the caller's objects alive while native code may still look at their memory.
  std::shared_ptr<void> keep_alive;

  // Results, valid once `done`.
  std::vector<Status> statuses;
  uint32_t matched = 0;
  std::vector<std::span<const std::byte>> views;          // borrow: one for each key, empty where not kOk
  std::vector<std::shared_ptr<BorrowedBlocks>> borrowed;  // borrow: one for each kKeysMax keys, null if none is kOk

  uint32_t transfers_open = 0;    // parts of the batch still under way
  std::vector<KeyRange> stalled;  // parts without room, which wait for another one to give its own back
  uint64_t ticket = 0;            // 0: somebody waits for it; otherwise it goes to the completion queue
  std::atomic<bool> done{false};
};

}  // namespace kvstore
