#include "store/block_store_impl.h"

#include <bit>
#include <stdexcept>
#include <string>
#include <utility>

#include "base/assert.h"

namespace kvstore {

namespace {

// Candidates asked about under one hold of the policy's lock.
constexpr uint32_t kLooksPerLock = 256;
// Looks that a search may lose to other threads beside those at every block.
constexpr uint64_t kSpareLooks = 4 * kLooksPerLock;

StoreOptions checked(const StoreOptions& options, uint32_t max_shards) {
  if (std::has_single_bit(options.shards) && options.shards <= max_shards) return options;
  throw std::invalid_argument("a block store has a power of two of shards, at most " + std::to_string(max_shards) +
                              ", but " + std::to_string(options.shards) + " were asked for");
}

}  // namespace

BlockStore::Impl::Impl(uint64_t capacity_bytes, const StoreOptions& store_options, const Clock& store_clock,
                       Stamps& stamp_source, std::unique_ptr<EvictionPolicy> eviction_policy)
    : options(checked(store_options, kMaxShards)),
      clock(store_clock),
      stamps(stamp_source),
      pool(capacity_bytes),
      shards(options.shards),
      policy(std::move(eviction_policy)),
      evictable([this](uint32_t slot) { return pool[slot].life.leases() == 0; }) {}

uint32_t BlockStore::Impl::find_live(Shard& shard, const Key& key, uint64_t now_ms) {
  const uint32_t slot = shard.table.find(tag_of(key), [&](uint32_t candidate) { return pool[candidate].key == key; });
  if (slot == kNone || now_ms < pool[slot].expires_ms) return slot;
  remove(shard, slot, Removal::kExpired);
  return kNone;
}

void BlockStore::Impl::insert(Shard& shard, const Reservation& reservation) {
  Block& block = pool[reservation.slot];
  block.life.set(BlockState::kVisible);
  shard.table.insert(tag_of(block.key), reservation.slot);
  counters.reserved_bytes.fetch_sub(block.space_bytes());
  visible_blocks.fetch_add(1);
  idle_blocks.fetch_add(1);
  const TouchedBlock inserted{reservation.slot, reservation.depth, tag_of(block.key)};
  const std::lock_guard lock(policy_mutex);
  policy->on_insert(reservation.stamp, {&inserted, 1});
}

Lease BlockStore::Impl::lease(uint32_t slot) {
  Block& block = pool[slot];
  if (block.life.lease()) {
    idle_blocks.fetch_sub(1);
    counters.leased_bytes.fetch_add(block.space_bytes());
  }
  counters.leases.fetch_add(1);
  return unleased(slot);
}

Lease BlockStore::Impl::unleased(uint32_t slot) const {
  const Block& block = pool[slot];
  return {slot,           block.generation.load(std::memory_order_relaxed),
          block.offset(), block.length,
          block.crc,      block.expires_ms};
}

void BlockStore::Impl::set_expiry(uint32_t slot, uint64_t expires_ms, Stamp stamp, uint32_t depth) {
  Block& block = pool[slot];
  block.expires_ms = expires_ms;
  if (!expiry_listener) return;
  expiry_listener({block.key, block.offset(), block.length, block.crc, depth, stamp, expires_ms});
}

void BlockStore::Impl::remove(Shard& shard, uint32_t slot, Removal reason) {
  Block& block = pool[slot];
  shard.table.erase(tag_of(block.key), slot);
  visible_blocks.fetch_sub(1);
  counters.of(reason).fetch_add(1);
  {
    const std::lock_guard lock(policy_mutex);
    policy->on_remove(slot);
  }
  if (remove_listener) remove_listener(block.key, lease(slot), reason);
  if (!block.life.remove()) return;
  idle_blocks.fetch_sub(1);
  pool.free(slot);
}

// A counting sort: each shard is locked once a batch.
void BlockStore::Impl::group_by_shard(std::span<const Key> keys, std::span<uint16_t> order) {
  if (keys.size() == 1) {
    order[0] = 0;
    return;
  }
  std::array<uint16_t, kMaxShards> next{};
  const auto shard_index = [&](size_t key) { return static_cast<size_t>(&shard_of(keys[key]) - shards.data()); };
  for (size_t key = 0; key < keys.size(); ++key) ++next[shard_index(key)];
  uint16_t start = 0;
  for (size_t shard = 0; shard < shards.size(); ++shard) start += std::exchange(next[shard], start);
  for (size_t key = 0; key < keys.size(); ++key) order[next[shard_index(key)]++] = static_cast<uint16_t>(key);
}

void BlockStore::Impl::touch(Stamp stamp, uint32_t first_depth, std::span<const Found> found) {
  std::array<TouchedBlock, kBatchKeys> touched;
  size_t count = 0;
  const std::lock_guard lock(policy_mutex);
  for (uint32_t index = 0; index < found.size(); ++index) {
    const auto [slot, generation] = found[index];
    // A slot is given to another block only after the policy was told of the removal, under the lock held here.
    if (slot == kNone || pool[slot].generation.load(std::memory_order_relaxed) != generation) continue;
    if (!policy->contains(slot)) continue;  // removed: its key may be another's at any moment
    touched[count++] = {slot, first_depth + index, tag_of(pool[slot].key)};
  }
  policy->on_touch(stamp, std::span(touched).first(count));
}

uint64_t BlockStore::Impl::looks_allowed() const { return visible_blocks.load() + kSpareLooks; }

BlockStore::Impl::Found BlockStore::Impl::next_victim(uint32_t limit, Key* key) {
  const Stamp now = stamps.next();
  const std::lock_guard lock(policy_mutex);
  const uint32_t slot = policy->victim(now, evictable, limit);
  if (slot == kNone) return {kNone, 0};
  *key = pool[slot].key;  // as long as the policy holds the slot its key does not change
  return {slot, pool[slot].generation.load(std::memory_order_relaxed)};
}

// The policy names a victim under its own lock; the shard's lock comes before that, so it is taken afterwards and the
// block looked at again: another thread may have leased or removed it.
uint64_t BlockStore::Impl::evict_one(uint64_t* looks_left) {
  while (*looks_left > 0 && idle_blocks.load() > 0) {
    Key key;
    const uint32_t limit = static_cast<uint32_t>(std::min<uint64_t>(*looks_left, kLooksPerLock));
    const Found victim = next_victim(limit, &key);
    *looks_left -= victim.slot == kNone ? limit : 1;
    if (victim.slot == kNone) continue;

    Shard& shard = shard_of(key);
    const std::lock_guard lock(shard.mutex);
    const Block& block = pool[victim.slot];
    // State before generation: were the slot another block's by now, seeing that one visible implies seeing its number.
    if (block.life.state() != BlockState::kVisible || block.life.leases() > 0) continue;
    if (block.generation.load(std::memory_order_relaxed) != victim.generation) continue;
    const uint64_t bytes = block.space_bytes();
    remove(shard, victim.slot, Removal::kEvicted);
    counters.evicted_bytes.fetch_add(bytes);
    return bytes;
  }
  return 0;
}

Block& BlockStore::Impl::reserved_block(const Reservation& reservation) {
  KVSTORE_ASSERT(reservation.slot != kNone);
  Block& block = pool[reservation.slot];
  KVSTORE_ASSERT(block.generation.load(std::memory_order_relaxed) == reservation.generation);
  KVSTORE_ASSERT(block.life.state() == BlockState::kReserved);
  return block;
}

void BlockStore::Impl::give_back(const Reservation& reservation) {
  counters.reserved_bytes.fetch_sub(pool[reservation.slot].space_bytes());
  pool.free(reservation.slot);
}

}  // namespace kvstore
