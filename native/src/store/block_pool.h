// The blocks of a store as memory: one entry for each block that holds space, and the extents of the arena.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>

#include "base/key.h"
#include "memory/extent_allocator.h"
#include "store/chunked_array.h"

namespace kvstore {

enum class BlockState : uint8_t {
  kFree,      // holds no space
  kReserved,  // being written, in no index
  kVisible,   // in the index
  kRemoved,   // out of the index, its space held by leases alone
};

// How many references readers hold and what state the block is in, in one atomic word: of the remover and the last
// reader, exactly one finds that nobody is left.
class BlockLife {
 public:
  [[nodiscard]] BlockState state() const { return static_cast<BlockState>(word_.load() >> kStateShift); }
  [[nodiscard]] uint32_t leases() const { return word_.load() & kLeaseMask; }

  void set(BlockState state) { word_.store(static_cast<uint32_t>(state) << kStateShift); }
  // Under the lock of the block's shard. True for the first lease.
  bool lease() { return (word_.fetch_add(1) & kLeaseMask) == 0; }
  enum class Released : uint8_t { kOthersHold, kIdle, kGone };  // kGone: removed, and the caller frees the space
  Released release();
  // From visible to removed, under the lock of the block's shard. True when the caller frees the space.
  bool remove() { return (word_.fetch_or(kRemovedBits) & kLeaseMask) == 0; }

 private:
  static constexpr uint32_t kStateShift = 30;
  static constexpr uint32_t kLeaseMask = (1u << kStateShift) - 1;
  static constexpr uint32_t kRemovedBits = static_cast<uint32_t>(BlockState::kRemoved) << kStateShift;

  std::atomic<uint32_t> word_{0};
};

// One cache line. A visible block's fields change only under the lock of its shard; those of a reserved block belong to
// its writer.
struct alignas(64) Block {
  static constexpr uint64_t kNeverExpires = UINT64_MAX;

  Key key{};
  uint64_t expires_ms = kNeverExpires;  // the first millisecond at which the block is a miss
  uint32_t first_granule = 0;
  uint32_t extent = 0;  // the allocator's handle; of a free entry, the next free slot
  uint32_t length = 0;
  uint32_t crc = 0;
  std::atomic<uint32_t> generation{0};  // counts the uses of this entry
  BlockLife life;

  [[nodiscard]] uint64_t offset() const { return first_granule * ExtentAllocator::kGranuleBytes; }
  [[nodiscard]] uint64_t space_bytes() const { return ExtentAllocator::rounded(length); }
};
static_assert(sizeof(Block) == 64);

// Thread-safe. Entries never move, and one thread may use an entry while others allocate.
class BlockPool {
 public:
  static constexpr uint32_t kNone = UINT32_MAX;

  explicit BlockPool(uint64_t capacity_bytes);

  // A reserved block with an extent of `length` bytes, or kNone when no free extent is large enough.
  [[nodiscard]] uint32_t allocate(uint32_t length);
  // The same at a given place, for rebuilding: see ExtentAllocator::allocate_at.
  [[nodiscard]] uint32_t allocate_at(uint64_t offset, uint32_t length);
  // Takes a range out of the space for ever; before anything behind it is allocated. False where that cannot be.
  [[nodiscard]] bool exclude(uint64_t offset, uint64_t bytes);
  void free(uint32_t slot);

  [[nodiscard]] Block& operator[](uint32_t slot) { return blocks_[slot]; }
  [[nodiscard]] const Block& operator[](uint32_t slot) const { return blocks_[slot]; }

  [[nodiscard]] uint64_t capacity_bytes() const { return extents_.capacity_bytes(); }
  [[nodiscard]] uint64_t used_bytes() const;
  [[nodiscard]] size_t memory_bytes() const;
  [[nodiscard]] uint32_t slots() const;  // slots ever used: every block's number is below
  // The allocator's invariants and: blocks that are not free hold just the bytes the allocator handed out.
  [[nodiscard]] bool consistent() const;

 private:
  uint32_t take_slot(const Extent& extent, uint32_t length);

  mutable std::mutex mutex_;
  ExtentAllocator extents_;
  ChunkedArray<Block> blocks_;
  uint64_t excluded_bytes_ = 0;
  uint32_t slots_ = 0;
  uint32_t free_head_ = kNone;
};

}  // namespace kvstore
