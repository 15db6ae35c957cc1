#include "store/block_pool.h"

#include "base/assert.h"

namespace kvstore {

BlockLife::Released BlockLife::release() {
  const uint32_t before = word_.fetch_sub(1);
  KVSTORE_ASSERT((before & kLeaseMask) > 0);
  if ((before & kLeaseMask) > 1) return Released::kOthersHold;
  return (before >> kStateShift) == static_cast<uint32_t>(BlockState::kRemoved) ? Released::kGone : Released::kIdle;
}

// Every block holds a granule at least, so there are never more blocks than granules.
BlockPool::BlockPool(uint64_t capacity_bytes)
    : extents_(capacity_bytes), blocks_(capacity_bytes / ExtentAllocator::kGranuleBytes) {}

uint32_t BlockPool::allocate(uint32_t length) {
  const std::lock_guard lock(mutex_);
  const std::optional<Extent> extent = extents_.allocate(length);
  return extent ? take_slot(*extent, length) : kNone;
}

uint32_t BlockPool::allocate_at(uint64_t offset, uint32_t length) {
  const std::lock_guard lock(mutex_);
  const std::optional<Extent> extent = extents_.allocate_at(offset, length);
  return extent ? take_slot(*extent, length) : kNone;
}

bool BlockPool::exclude(uint64_t offset, uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  if (!extents_.allocate_at(offset, bytes)) return false;
  excluded_bytes_ += ExtentAllocator::rounded(bytes);
  return true;
}

uint32_t BlockPool::take_slot(const Extent& extent, uint32_t length) {
  uint32_t slot = free_head_;
  if (slot != kNone) {
    free_head_ = blocks_[slot].extent;
  } else {
    slot = slots_++;
    if (slot >= blocks_.size()) blocks_.grow();
  }
  Block& block = blocks_[slot];
  block.first_granule = static_cast<uint32_t>(extent.offset / ExtentAllocator::kGranuleBytes);
  block.extent = extent.handle;
  block.length = length;
  block.generation.fetch_add(1, std::memory_order_relaxed);
  block.life.set(BlockState::kReserved);
  return slot;
}

void BlockPool::free(uint32_t slot) {
  const std::lock_guard lock(mutex_);
  Block& block = blocks_[slot];
  KVSTORE_ASSERT(block.life.leases() == 0 && block.life.state() != BlockState::kFree);
  extents_.free(block.extent);
  block.life.set(BlockState::kFree);
  block.extent = free_head_;
  free_head_ = slot;
}

uint64_t BlockPool::used_bytes() const {
  const std::lock_guard lock(mutex_);
  return extents_.used_bytes();
}

size_t BlockPool::memory_bytes() const {
  const std::lock_guard lock(mutex_);
  return blocks_.memory_bytes() + extents_.metadata_bytes();
}

uint32_t BlockPool::slots() const {
  const std::lock_guard lock(mutex_);
  return slots_;
}

bool BlockPool::consistent() const {
  const std::lock_guard lock(mutex_);
  uint64_t held_bytes = 0;
  uint32_t free_blocks = 0;
  for (uint32_t slot = 0; slot < slots_; ++slot) {
    if (blocks_[slot].life.state() == BlockState::kFree) {
      ++free_blocks;
    } else {
      held_bytes += blocks_[slot].space_bytes();
    }
  }
  uint32_t listed = 0;
  for (uint32_t slot = free_head_; slot != kNone && listed <= free_blocks; slot = blocks_[slot].extent) ++listed;
  return listed == free_blocks && held_bytes + excluded_bytes_ == extents_.used_bytes() && extents_.consistent();
}

}  // namespace kvstore
