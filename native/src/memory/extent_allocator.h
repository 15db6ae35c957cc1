// Hands out extents of a linear space in O(1): two-level segregated fit (Masmano et al., "TLSF: a new dynamic memory
// allocator for real-time systems", ECRTS 2004), with all bookkeeping outside the space, so that the same code
// serves DRAM and a disk file.
//
// Sizes are rounded up to a granule (4 KiB). Free neighbours are always merged. Each power of two is split into 32
// size classes. A request first looks at a few extents of its own class, which is where a block of a size that was
// used before finds an exact fit, and else takes any extent of the next class up. So an allocation fails only when no
// free extent is at least 1/32 larger than asked, and what is handed out is never more than the rounded request.
// Bookkeeping is 24 bytes for each extent, free or in use; it grows by small blocks and never moves.
// Not thread-safe: the owner locks.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

namespace kvstore {

struct Extent {
  uint64_t offset = 0;  // bytes, a multiple of the granule
  uint32_t handle = 0;  // names the extent in `free`
};

class ExtentAllocator {
 public:
  static constexpr uint64_t kGranuleBytes = 4096;
  static constexpr uint64_t kMaxCapacityBytes = uint64_t{UINT32_MAX} * kGranuleBytes;  // 16 TiB less a granule

  // Manages [0, capacity_bytes), rounded down to the granule. Throws std::invalid_argument above kMaxCapacityBytes.
  explicit ExtentAllocator(uint64_t capacity_bytes);

  // nullopt when no free extent is large enough. `bytes` must be > 0.
  [[nodiscard]] std::optional<Extent> allocate(uint64_t bytes);
  // The extent that starts at `offset` (a multiple of the granule), for rebuilding a space from a list in ascending
  // order of offsets: nullopt unless everything from `offset` on is free and large enough.
  [[nodiscard]] std::optional<Extent> allocate_at(uint64_t offset, uint64_t bytes);
  // Aborts on a handle that is not in use: the caller has lost track of its space.
  void free(uint32_t handle);

  [[nodiscard]] uint64_t capacity_bytes() const { return capacity_granules_ * kGranuleBytes; }
  [[nodiscard]] uint64_t used_bytes() const { return used_granules_ * kGranuleBytes; }  // granules handed out, in bytes
  [[nodiscard]] uint64_t largest_free_bytes() const;  // length of the largest free extent; O(extents in its class)
  [[nodiscard]] uint64_t metadata_bytes() const;      // memory that the bookkeeping takes
  // Bytes that `allocate(bytes)` takes.
  [[nodiscard]] static constexpr uint64_t rounded(uint64_t bytes) { return granules_for(bytes) * kGranuleBytes; }
  [[nodiscard]] bool consistent() const;  // every invariant, O(extents): for tests

 private:
  static constexpr uint32_t kNone = UINT32_MAX;       // no extent
  static constexpr uint32_t kInUse = UINT32_MAX - 1;  // in previous_free: the extent is handed out
  static constexpr uint32_t kSplitBits = 5;
  static constexpr uint32_t kSplit = 1u << kSplitBits;      // classes in a power of two
  static constexpr uint32_t kPowers = 32 - kSplitBits + 1;  // below kSplit granules each size has a class of its own
  static constexpr uint32_t kNodesPerBlock = 4096;

  // One extent. Neighbours in the space are linked in address order, free extents of one class in a list of any order.
  // An unused node has granules == 0 and is linked through next_free.
  struct Node {
    uint32_t first_granule;
    uint32_t granules;
    uint32_t previous;
    uint32_t next;
    uint32_t previous_free;
    uint32_t next_free;
  };

  struct SizeClass {
    uint32_t power;
    uint32_t split;
  };

  static constexpr uint64_t granules_for(uint64_t bytes) {
    return bytes / kGranuleBytes + (bytes % kGranuleBytes != 0 ? 1 : 0);
  }
  static SizeClass class_of(uint32_t granules);
  static uint64_t round_up_to_class(uint32_t granules);

  Node& node(uint32_t handle) { return blocks_[handle / kNodesPerBlock][handle % kNodesPerBlock]; }
  [[nodiscard]] const Node& node(uint32_t handle) const {
    return blocks_[handle / kNodesPerBlock][handle % kNodesPerBlock];
  }
  [[nodiscard]] bool is_free(uint32_t handle) const { return node(handle).previous_free != kInUse; }
  [[nodiscard]] uint32_t find_free(uint32_t granules) const;
  uint32_t acquire_node();
  void release_node(uint32_t handle);
  void split(uint32_t handle, uint32_t granules, uint32_t rest);
  void merge_with_next(uint32_t handle);
  void link_free(uint32_t handle);
  void unlink_free(uint32_t handle);
  [[nodiscard]] bool space_consistent() const;
  [[nodiscard]] bool classes_consistent() const;

  uint64_t capacity_granules_;
  uint64_t used_granules_ = 0;
  std::vector<std::unique_ptr<Node[]>> blocks_;
  uint32_t last_ = kNone;                          // the extent with the highest offset
  uint32_t node_count_ = 0;                        // nodes ever taken; those beyond were never used
  uint32_t unused_head_ = kNone;                   // nodes given back
  uint32_t power_bitmap_ = 0;                      // powers with a free extent
  std::array<uint32_t, kPowers> split_bitmaps_{};  // classes with a free extent
  std::array<std::array<uint32_t, kSplit>, kPowers> heads_;
};

}  // namespace kvstore
