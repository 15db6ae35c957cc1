#include "store/write_queue.h"

#include "base/assert.h"
#include "memory/extent_allocator.h"

namespace kvstore {

bool WriteQueue::push(const DirtyBlock& block) {
  {
    const std::lock_guard lock(mutex_);
    if (!is_current(block.key, block.lease)) return false;
    const auto [entry, is_new] = known_.try_emplace(block.key);
    OnItsWay& first = entry->second;
    if (!is_new) {
      if (first.lease.is_of_same_block(block.lease)) return false;
      if (first.successor && first.successor->block.lease.is_of_same_block(block.lease)) return false;
      drop_successor(first);
      first.successor = Waiting{block, count_in(block.lease)};
      return true;
    }
    first.lease = block.lease;
    first.number = count_in(block.lease);
    line_.push_back(block);
  }
  arrived_.notify_one();
  return true;
}

bool WriteQueue::is_current(const Key& key, const Lease& lease) const {
  Lease visible;
  return dram_.look(key, &visible) && visible.is_of_same_block(lease);
}

uint64_t WriteQueue::count_in(const Lease& lease) {
  bytes_.fetch_add(ExtentAllocator::rounded(lease.length), std::memory_order_relaxed);
  pushed_ns_.emplace_hint(pushed_ns_.end(), next_number_, clock_.now_ns());
  return next_number_++;
}

void WriteQueue::count_out(const Lease& lease, uint64_t number) {
  bytes_.fetch_sub(ExtentAllocator::rounded(lease.length), std::memory_order_relaxed);
  pushed_ns_.erase(number);
  settled_.notify_all();
}

void WriteQueue::drop_successor(OnItsWay& first) {
  if (!first.successor) return;
  count_out(first.successor->block.lease, first.successor->number);
  dram_.release(first.successor->block.lease);
  first.successor.reset();
}

std::optional<DirtyBlock> WriteQueue::pop(std::chrono::milliseconds wait) {
  std::unique_lock lock(mutex_);
  if (!arrived_.wait_for(lock, wait, [this] { return !line_.empty(); })) return std::nullopt;
  const DirtyBlock block = line_.front();
  line_.pop_front();
  return block;
}

void WriteQueue::put_back(const DirtyBlock& block) {
  {
    const std::lock_guard lock(mutex_);
    line_.push_front(block);
  }
  arrived_.notify_one();
}

void WriteQueue::settle(const DirtyBlock& block, const std::function<void(bool wanted)>& last_step) {
  {
    const std::lock_guard lock(mutex_);
    const auto entry = known_.find(block.key);
    KVSTORE_ASSERT(entry != known_.end());
    OnItsWay& first = entry->second;
    last_step(is_wanted(block));
    count_out(first.lease, first.number);
    if (first.successor) {
      const Waiting next = *first.successor;
      first = {next.block.lease, next.number, std::nullopt};
      line_.push_back(next.block);
    } else {
      known_.erase(entry);
    }
  }
  arrived_.notify_one();
}

void WriteQueue::cancel(const Key& key) {
  const std::lock_guard lock(mutex_);
  const auto entry = known_.find(key);
  if (entry == known_.end()) return;
  OnItsWay& first = entry->second;
  if (first.successor && !is_current(key, first.successor->block.lease)) drop_successor(first);
}

bool WriteQueue::contains(const Key& key) const {
  const std::lock_guard lock(mutex_);
  return known_.contains(key);
}

uint64_t WriteQueue::blocks() const {
  const std::lock_guard lock(mutex_);
  return known_.size();
}

uint64_t WriteQueue::lag_ms() const {
  const std::lock_guard lock(mutex_);
  return pushed_ns_.empty() ? 0 : (clock_.now_ns() - pushed_ns_.begin()->second) / 1'000'000;
}

bool WriteQueue::wait_settled(std::chrono::milliseconds timeout) const {
  std::unique_lock lock(mutex_);
  const uint64_t last = next_number_ - 1;
  const auto settled = [&] { return pushed_ns_.empty() || pushed_ns_.begin()->first > last; };
  settled_.wait_for(lock, timeout, [&] { return closed_ || settled(); });
  return settled();
}

void WriteQueue::close() {
  {
    const std::lock_guard lock(mutex_);
    closed_ = true;
  }
  settled_.notify_all();
}

}  // namespace kvstore
