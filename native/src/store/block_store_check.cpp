// The invariants of a block store, for tests; and what it weighs.
#include "store/block_store_impl.h"

namespace kvstore {

size_t BlockStore::Impl::memory_bytes() {
  size_t bytes = sizeof(BlockStore) + sizeof(*this) + shards.capacity() * sizeof(Shard) + pool.memory_bytes();
  for (Shard& shard : shards) {
    const std::lock_guard lock(shard.mutex);
    bytes += shard.table.memory_bytes();
  }
  const std::lock_guard lock(policy_mutex);
  return bytes + policy->memory_bytes();
}

// Every slot in the shard's table is a visible block of this shard, found under its own key and held by the policy.
bool BlockStore::Impl::shard_consistent(Shard& shard) {
  const std::lock_guard lock(shard.mutex);
  if (!shard.table.consistent()) return false;
  for (uint32_t bucket = 0; bucket < shard.table.bucket_count(); ++bucket) {
    const uint32_t slot = shard.table.slot_in_bucket(bucket);
    if (slot == kNone) continue;
    const Block& block = pool[slot];
    const auto same_key = [&](uint32_t candidate) { return pool[candidate].key == block.key; };
    if (block.life.state() != BlockState::kVisible || &shard_of(block.key) != &shard) return false;
    if (shard.table.find(tag_of(block.key), same_key) != slot) return false;
    const std::lock_guard policy_lock(policy_mutex);
    if (!policy->contains(slot)) return false;
  }
  return true;
}

// The counters are what the blocks themselves add up to.
bool BlockStore::Impl::counters_consistent() {
  uint64_t visible = 0;
  uint64_t idle = 0;
  uint64_t leases = 0;
  uint64_t leased_bytes = 0;
  uint64_t reserved_bytes = 0;
  for (uint32_t slot = 0; slot < pool.slots(); ++slot) {
    const Block& block = pool[slot];
    const BlockState state = block.life.state();
    const uint32_t held = block.life.leases();
    if (state == BlockState::kRemoved ? held == 0 : state != BlockState::kVisible && held > 0) return false;
    visible += state == BlockState::kVisible;
    idle += state == BlockState::kVisible && held == 0;
    leases += held;
    leased_bytes += held > 0 ? block.space_bytes() : 0;
    reserved_bytes += state == BlockState::kReserved ? block.space_bytes() : 0;
  }
  return visible == visible_blocks && idle == static_cast<uint64_t>(idle_blocks.load()) && leases == counters.leases &&
         leased_bytes == counters.leased_bytes && reserved_bytes == counters.reserved_bytes;
}

bool BlockStore::Impl::consistent() {
  uint64_t indexed = 0;
  for (Shard& shard : shards) {
    if (!shard_consistent(shard)) return false;
    indexed += shard.table.size();
  }
  const std::lock_guard lock(policy_mutex);
  return indexed == visible_blocks && policy->size() == indexed && policy->consistent() && counters_consistent() &&
         pool.consistent();
}

}  // namespace kvstore
