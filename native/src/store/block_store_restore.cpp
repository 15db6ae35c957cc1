// Filling a block store with what lies in its space from an earlier run.
#include <algorithm>
#include <utility>

#include "base/assert.h"
#include "store/block_store_impl.h"

namespace kvstore {

namespace {

// What a block is sorted by, copied beside its number: sorting a million blocks from afar would be cache misses only.
struct Ranked {
  uint64_t first;
  uint64_t second;
  uint32_t index;

  bool operator<(const Ranked& other) const {
    return first != other.first ? first < other.first : second < other.second;
  }
};

template <class Rank>
std::vector<Ranked> sorted_by(std::span<const StoredBlock> blocks, Rank rank) {
  std::vector<Ranked> order(blocks.size());
  for (uint32_t index = 0; index < blocks.size(); ++index) {
    const auto [first, second] = rank(blocks[index]);
    order[index] = {first, second, index};
  }
  std::sort(order.begin(), order.end());
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
  const auto place_and_age = [](const StoredBlock& block) {
    return std::pair(block.offset, UINT64_MAX - static_cast<uint64_t>(block.stamp));
  };
  size_t next_excluded = 0;
  const auto exclude_until = [&](uint64_t offset) {
    for (; next_excluded < excluded.size() && excluded[next_excluded].offset <= offset; ++next_excluded) {
      KVSTORE_ASSERT(pool.exclude(excluded[next_excluded].offset, excluded[next_excluded].bytes));
    }
  };
  for (const auto& [offset, age, index] : sorted_by(blocks, place_and_age)) {
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
  const auto stamp_and_depth = [](const StoredBlock& block) {
    return std::pair(static_cast<uint64_t>(block.stamp), uint64_t{block.depth});
  };
  std::vector<TouchedBlock> request;
  Stamp stamp{};
  uint64_t restored = 0;
  const std::lock_guard lock(policy_mutex);
  const auto insert_request = [&] {
    if (!request.empty()) policy->on_insert(stamp, request);
    request.clear();
  };
  for (const auto& [request_stamp, depth, index] : sorted_by(blocks, stamp_and_depth)) {
    if (slots[index] == kNone) continue;
    if (Stamp{request_stamp} != stamp) insert_request();
    stamp = Stamp{request_stamp};
    request.push_back({slots[index], static_cast<uint32_t>(depth), tag_of(blocks[index].key)});
    ++restored;
  }
  insert_request();
  stamps.continue_after(stamp);
  visible_blocks.fetch_add(restored);
  idle_blocks.fetch_add(static_cast<int64_t>(restored));
}

}  // namespace kvstore
