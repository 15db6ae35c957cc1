// Filling a block store with what lies in its space from an earlier run.
#include <algorithm>
#include <numeric>

#include "base/assert.h"
#include "store/block_store_impl.h"

namespace kvstore {

namespace {

template <class Before>
std::vector<uint32_t> order_of(std::span<const StoredBlock> blocks, Before before) {
  std::vector<uint32_t> order(blocks.size());
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) { return before(blocks[a], blocks[b]); });
  return order;
}

}  // namespace

void BlockStore::restore(std::span<const StoredBlock> blocks, std::span<const SpaceRange> excluded,
                         std::span<Status> statuses) {
  KVSTORE_ASSERT(statuses.size() == blocks.size());
  std::vector<uint32_t> slots(blocks.size(), Impl::kNone);
  impl_->place(blocks, excluded, slots, statuses);
  impl_->rank(blocks, slots);
}

// Extents in ascending order, each into its shard. One that overlaps another before it stays out; of two in one place,
// the earlier written.
void BlockStore::Impl::place(std::span<const StoredBlock> blocks, std::span<const SpaceRange> excluded,
                             std::span<uint32_t> slots, std::span<Status> statuses) {
  const auto lower = [](const StoredBlock& a, const StoredBlock& b) {
    return a.offset != b.offset ? a.offset < b.offset : a.stamp > b.stamp;
  };
  size_t next_excluded = 0;
  const auto exclude_until = [&](uint64_t offset) {
    for (; next_excluded < excluded.size() && excluded[next_excluded].offset <= offset; ++next_excluded) {
      KVSTORE_ASSERT(pool.exclude(excluded[next_excluded].offset, excluded[next_excluded].bytes));
    }
  };
  for (const uint32_t index : order_of(blocks, lower)) {
    const StoredBlock& stored = blocks[index];
    exclude_until(stored.offset);
    const uint64_t end = stored.offset + ExtentAllocator::rounded(stored.length);
    const bool crosses = next_excluded < excluded.size() && end > excluded[next_excluded].offset;
    const bool aligned = stored.length > 0 && stored.offset % ExtentAllocator::kGranuleBytes == 0;
    const uint32_t slot = aligned && !crosses ? pool.allocate_at(stored.offset, stored.length) : kNone;
    statuses[index] = slot == kNone ? Status::kInvalid : Status::kOk;
    if (slot == kNone) continue;
    Shard& shard = shard_of(stored.key);
    if (shard.table.find(tag_of(stored.key), [&](uint32_t other) { return pool[other].key == stored.key; }) != kNone) {
      statuses[index] = Status::kExists;
      pool.free(slot);
      continue;
    }
    Block& block = pool[slot];
    block.key = stored.key;
    block.crc = stored.crc;
    block.expires_ms = stored.expires_ms;
    block.life.set(BlockState::kVisible);
    shard.table.insert(tag_of(stored.key), slot);
    slots[index] = slot;
  }
  exclude_until(UINT64_MAX);
}

// The policy learns them as it did at first: request after request, the oldest first.
void BlockStore::Impl::rank(std::span<const StoredBlock> blocks, std::span<const uint32_t> slots) {
  const auto older = [](const StoredBlock& a, const StoredBlock& b) {
    return a.stamp != b.stamp ? a.stamp < b.stamp : a.depth < b.depth;
  };
  std::vector<TouchedBlock> request;
  Stamp stamp{};
  uint64_t restored = 0;
  const std::lock_guard lock(policy_mutex);
  const auto insert_request = [&] {
    if (!request.empty()) policy->on_insert(stamp, request);
    request.clear();
  };
  for (const uint32_t index : order_of(blocks, older)) {
    if (slots[index] == kNone) continue;
    if (blocks[index].stamp != stamp) insert_request();
    stamp = blocks[index].stamp;
    request.push_back({slots[index], blocks[index].depth});
    ++restored;
  }
  insert_request();
  stamps.continue_after(stamp);
  visible_blocks.fetch_add(restored);
  idle_blocks.fetch_add(static_cast<int64_t>(restored));
}

}  // namespace kvstore
