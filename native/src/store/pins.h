// Pins: blocks that an owner wants kept until a time. A pin holds a lease on the block in the tier that keeps it
// longest (a disk where there is one, DRAM otherwise), so no policy can evict it. It does not hold against deletion or
// the block's own TTL. What all pins hold together is bounded by a share of the tier.
//
// On disk a pin is a row of the catalog and survives a restart. Thread-safe.
#pragma once

#include <map>
#include <mutex>
#include <string>
#include <unordered_map>

#include "store/disk_tier.h"

namespace kvstore {

struct PinStats {
  uint64_t blocks = 0;
  uint64_t bytes = 0;
  uint64_t bytes_max = 0;
};

class Pins {
 public:
  Pins(const Clock& clock, uint64_t bytes_max) : clock_(clock), bytes_max_(bytes_max) {}

  // Pins a block of `tier` (which is `disk`'s index, or DRAM's with a null `disk`) until `expires_ms` on the clock; a
  // pin of this owner that is there already gets the new time. kOk, kMiss, or kBusy where the share is used up.
  Status pin(BlockStore& tier, DiskTier* disk, const Key& key, const std::string& owner, uint64_t expires_ms);
  // kOk, or kMiss where the owner has no pin on the block.
  Status unpin(const Key& key, const std::string& owner);
  // A pin from the catalog.
  void restore(DiskTier& disk, const PinRow& row);
  // Ends all pins on the blocks, which are about to be deleted.
  void drop(std::span<const Key> keys);
  // Ends the pins whose time is over or whose block is gone.
  void sweep();

  [[nodiscard]] PinStats stats() const;

 private:
  struct Pinned {
    BlockStore* tier = nullptr;
    DiskTier* disk = nullptr;
    Lease lease;
    std::map<std::string, uint64_t> owners;  // and until when, on the clock
  };
  using Blocks = std::unordered_map<Key, Pinned, KeyHash>;

  void write_row(const Pinned& pinned, const Key& key, const std::string& owner, uint64_t expires_ms) const;
  void erase_row(const Pinned& pinned, const Key& key, const std::string& owner) const;
  Blocks::iterator end(Blocks::iterator block);
  [[nodiscard]] static bool is_there(const Key& key, const Pinned& pinned);

  const Clock& clock_;
  const uint64_t bytes_max_;
  mutable std::mutex mutex_;  // comes before the locks of the stores
  Blocks blocks_;
  uint64_t bytes_ = 0;
};

}  // namespace kvstore
