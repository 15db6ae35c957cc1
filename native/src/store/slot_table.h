// A hash table of slot numbers: open addressing with linear probing, 8 bytes a bucket.
//
// A bucket holds 32 bits of the key's hash (the tag) beside the slot. The home of a key is the low bits of its tag, so
// growing needs no key, and a probe that meets another key knows it by its tag, without looking at what the slot stands
// for. Erasing shifts the followers back and leaves no tombstones. Load is at most 3/4.
//
// Not thread-safe: the owner locks.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "store/prefetch.h"

namespace kvstore {

class SlotTable {
 public:
  static constexpr uint32_t kNone = UINT32_MAX;

  SlotTable();

  // The slot under `tag` that `is_wanted(slot)` accepts, or kNone.
  template <class IsWanted>
  [[nodiscard]] uint32_t find(uint32_t tag, IsWanted&& is_wanted) const {
    for (uint32_t at = tag & mask_;; at = (at + 1) & mask_) {
      const Bucket& bucket = buckets_[at];
      if (bucket.slot == kNone) return kNone;
      if (bucket.tag == tag && is_wanted(bucket.slot)) return bucket.slot;
    }
  }
  // The first slot under `tag`, whatever its key: what a batch prefetches before it compares keys.
  [[nodiscard]] uint32_t likely(uint32_t tag) const {
    return find(tag, [](uint32_t) { return true; });
  }
  void prefetch_home(uint32_t tag) const { prefetch(&buckets_[tag & mask_]); }

  void insert(uint32_t tag, uint32_t slot);  // the slot must not be in the table
  void erase(uint32_t tag, uint32_t slot);   // the slot must be in the table

  [[nodiscard]] uint32_t size() const { return size_; }
  [[nodiscard]] uint32_t bucket_count() const { return mask_ + 1; }
  [[nodiscard]] uint32_t slot_in_bucket(uint32_t bucket) const { return buckets_[bucket].slot; }  // or kNone
  [[nodiscard]] size_t memory_bytes() const { return bucket_count() * sizeof(Bucket); }
  [[nodiscard]] bool consistent() const;  // every invariant, O(buckets): for tests

 private:
  struct Bucket {
    uint32_t tag = 0;
    uint32_t slot = kNone;
  };

  void place(uint32_t tag, uint32_t slot);
  void grow();

  std::unique_ptr<Bucket[]> buckets_;
  uint32_t mask_;
  uint32_t size_ = 0;
};

}  // namespace kvstore
