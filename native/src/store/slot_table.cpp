#include "store/slot_table.h"

#include <utility>

#include "base/assert.h"

namespace kvstore {

namespace {

constexpr uint32_t kFirstBuckets = 16;

}  // namespace

SlotTable::SlotTable() : buckets_(std::make_unique<Bucket[]>(kFirstBuckets)), mask_(kFirstBuckets - 1) {}

void SlotTable::insert(uint32_t tag, uint32_t slot) {
  if ((size_ + 1) * uint64_t{4} > bucket_count() * uint64_t{3}) grow();
  place(tag, slot);
  ++size_;
}

void SlotTable::place(uint32_t tag, uint32_t slot) {
  uint32_t at = tag & mask_;
  while (buckets_[at].slot != kNone) at = (at + 1) & mask_;
  buckets_[at] = {tag, slot};
}

void SlotTable::grow() {
  const uint32_t old_count = bucket_count();
  KVSTORE_ASSERT(old_count <= UINT32_MAX / 2);
  const std::unique_ptr<Bucket[]> old = std::exchange(buckets_, std::make_unique<Bucket[]>(uint64_t{old_count} * 2));
  mask_ = old_count * 2 - 1;
  for (uint32_t at = 0; at < old_count; ++at) {
    if (old[at].slot != kNone) place(old[at].tag, old[at].slot);
  }
}

void SlotTable::erase(uint32_t tag, uint32_t slot) {
  uint32_t hole = tag & mask_;
  while (buckets_[hole].slot != slot) {
    KVSTORE_ASSERT(buckets_[hole].slot != kNone);
    hole = (hole + 1) & mask_;
  }
  // A follower may fill the hole unless that would put it before its home.
  for (uint32_t at = (hole + 1) & mask_; buckets_[at].slot != kNone; at = (at + 1) & mask_) {
    const uint32_t from_home = (at - buckets_[at].tag) & mask_;
    const uint32_t from_hole = (at - hole) & mask_;
    if (from_home < from_hole) continue;
    buckets_[hole] = buckets_[at];
    hole = at;
  }
  buckets_[hole] = {};
  --size_;
}

bool SlotTable::consistent() const {
  uint32_t occupied = 0;
  for (uint32_t at = 0; at <= mask_; ++at) {
    if (buckets_[at].slot == kNone) continue;
    ++occupied;
    for (uint32_t probe = buckets_[at].tag & mask_; probe != at; probe = (probe + 1) & mask_) {
      if (buckets_[probe].slot == kNone) return false;
    }
  }
  return occupied == size_ && size_ * uint64_t{4} <= bucket_count() * uint64_t{3};
}

}  // namespace kvstore
