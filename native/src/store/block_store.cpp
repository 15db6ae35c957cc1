// The verbs of the block store.
//
// Lock order, outermost first; at most one of each kind is held:
//   sweep_mutex    the place where the next sweep goes on
//   Shard::mutex   the shard's index, and every change of a visible block: publishing, leasing, new expiry, removal
//   policy_mutex   the eviction policy; a slot it holds is a visible block, so its key does not change under this lock
//   BlockPool      free slots and free extents
// Without a lock: `release` (BlockLife decides who frees) and all counters. The listener is called with no lock held.
#include "store/block_store.h"

#include "base/assert.h"
#include "store/block_store_impl.h"

namespace kvstore {

namespace {

// `match` looks at this many keys first and at four times as many each time all were there, so a chain that is missing
// from its start costs little.
constexpr size_t kFirstMatchKeys = 16;

// Buckets that a sweep looks at under one hold of a shard's lock.
constexpr uint32_t kSweptPerLock = 64;

uint64_t expiry_after(uint64_t now_ms, uint64_t ttl_ms) {
  const bool never = ttl_ms == 0 || ttl_ms >= Block::kNeverExpires - now_ms;
  return never ? Block::kNeverExpires : now_ms + ttl_ms;
}

}  // namespace

BlockStore::BlockStore(uint64_t capacity_bytes, StoreOptions options, const Clock& clock, Stamps& stamps,
                       std::unique_ptr<EvictionPolicy> policy)
    : impl_(std::make_unique<Impl>(capacity_bytes, options, clock, stamps, std::move(policy))) {}

BlockStore::~BlockStore() = default;

void BlockStore::acquire(std::span<const Key> keys, Stamp stamp, uint32_t first_depth, std::span<Lease> leases,
                         std::span<Status> statuses) {
  KVSTORE_ASSERT(leases.size() == keys.size() && statuses.size() == keys.size());
  const uint64_t now_ms = impl_->clock.now_ms();
  uint64_t hits = 0;
  uint64_t newly_leased = 0;
  uint64_t newly_leased_bytes = 0;
  std::ranges::fill(statuses, Status::kMiss);
  for (size_t start = 0; start < keys.size(); start += Impl::kBatchKeys) {
    const auto batch = keys.subspan(start, std::min<size_t>(Impl::kBatchKeys, keys.size() - start));
    Impl::FoundStorage storage;
    const auto found = Impl::nothing_found(storage, batch.size());
    impl_->visit(batch, now_ms, [&](size_t index, uint32_t slot) {
      Block& block = impl_->pool[slot];
      if (block.life.lease()) {
        ++newly_leased;
        newly_leased_bytes += block.space_bytes();
      }
      ++hits;
      const uint32_t generation = block.generation.load(std::memory_order_relaxed);
      found[index] = {slot, generation};
      leases[start + index] = {slot, generation, block.offset(), block.length, block.crc, block.expires_ms};
      statuses[start + index] = Status::kOk;
    });
    impl_->touch(stamp, first_depth + static_cast<uint32_t>(start), found);
  }
  Impl::Counters& counters = impl_->counters;
  counters.hits.fetch_add(hits);
  counters.misses.fetch_add(keys.size() - hits);
  counters.leases.fetch_add(hits);
  counters.leased_bytes.fetch_add(newly_leased_bytes);
  impl_->idle_blocks.fetch_sub(static_cast<int64_t>(newly_leased));
}

void BlockStore::release(const Lease& lease) {
  KVSTORE_ASSERT(lease.slot != Impl::kNone);
  Block& block = impl_->pool[lease.slot];
  KVSTORE_ASSERT(block.generation.load(std::memory_order_relaxed) == lease.generation);
  const uint64_t bytes = block.space_bytes();  // now: once released, the entry may be another block's
  impl_->counters.leases.fetch_sub(1);
  const BlockLife::Released released = block.life.release();
  if (released == BlockLife::Released::kOthersHold) return;
  impl_->counters.leased_bytes.fetch_sub(bytes);
  if (released == BlockLife::Released::kIdle) {
    impl_->idle_blocks.fetch_add(1);
  } else {
    impl_->pool.free(lease.slot);
  }
}

bool BlockStore::hold(const Key& key, Lease* lease) {
  return impl_->visit_one(key, [&](uint32_t slot) { *lease = impl_->lease(slot); });
}

bool BlockStore::look(const Key& key, Lease* lease) const {
  return impl_->visit_one(key, [&](uint32_t slot) { *lease = impl_->unleased(slot); });
}

Lease BlockStore::share(const Lease& lease) {
  // Leased, so neither the state nor the count is about to reach its end: no lock is needed.
  KVSTORE_ASSERT(impl_->pool[lease.slot].life.leases() > 0);
  impl_->pool[lease.slot].life.lease();
  impl_->counters.leases.fetch_add(1);
  return lease;
}

uint32_t BlockStore::match(std::span<const Key> keys, Stamp stamp, uint32_t first_depth) {
  const uint64_t now_ms = impl_->clock.now_ms();
  uint32_t matched = 0;
  size_t step = kFirstMatchKeys;
  while (matched < keys.size()) {
    const auto batch = keys.subspan(matched, std::min(step, keys.size() - matched));
    Impl::FoundStorage storage;
    const auto found = Impl::nothing_found(storage, batch.size());
    impl_->visit(batch, now_ms, [&](size_t index, uint32_t slot) {
      found[index] = {slot, impl_->pool[slot].generation.load(std::memory_order_relaxed)};
    });
    uint32_t leading = 0;
    while (leading < batch.size() && found[leading].slot != Impl::kNone) ++leading;
    impl_->touch(stamp, first_depth + matched, found.first(leading));
    matched += leading;
    if (leading < batch.size()) break;
    step = std::min<size_t>(step * 4, Impl::kBatchKeys);
  }
  return matched;
}

void BlockStore::contains(std::span<const Key> keys, std::span<Status> statuses) const {
  KVSTORE_ASSERT(statuses.size() == keys.size());
  const uint64_t now_ms = impl_->clock.now_ms();
  std::ranges::fill(statuses, Status::kMiss);
  for (size_t start = 0; start < keys.size(); start += Impl::kBatchKeys) {
    const auto batch = keys.subspan(start, std::min<size_t>(Impl::kBatchKeys, keys.size() - start));
    impl_->visit(batch, now_ms, [&](size_t index, uint32_t) { statuses[start + index] = Status::kOk; });
  }
}

bool BlockStore::find(const Key& key, BlockInfo* info) const {
  return impl_->visit_one(key, [&](uint32_t slot) { *info = {impl_->pool[slot].length, impl_->pool[slot].crc}; });
}

Status BlockStore::reserve(const Key& key, uint32_t length, Stamp stamp, uint32_t depth, Reservation* reservation) {
  if (length == 0) return Status::kInvalid;
  const uint64_t space_bytes = ExtentAllocator::rounded(length);
  if (length > impl_->options.max_block_bytes || space_bytes > impl_->pool.capacity_bytes()) {
    impl_->counters.put_too_large.fetch_add(1);
    return Status::kTooLarge;
  }
  uint64_t looks_left = impl_->looks_allowed();
  uint32_t slot = impl_->pool.allocate(length);
  while (slot == Impl::kNone) {
    if (!impl_->options.evict_to_reserve || impl_->evict_one(&looks_left) == 0) {
      impl_->counters.put_busy.fetch_add(1);
      return Status::kBusy;
    }
    slot = impl_->pool.allocate(length);
  }
  Block& block = impl_->pool[slot];
  block.key = key;
  impl_->counters.reserved_bytes.fetch_add(space_bytes);
  *reservation = {slot, block.generation.load(std::memory_order_relaxed), block.offset(), length, depth, stamp};
  return Status::kOk;
}

uint64_t BlockStore::reserved_bytes() const { return impl_->counters.reserved_bytes; }

uint64_t BlockStore::used_bytes() const { return impl_->pool.used_bytes(); }

uint64_t BlockStore::expiry_ms(uint64_t ttl_ms) const { return expiry_after(impl_->clock.now_ms(), ttl_ms); }

Status BlockStore::publish(const Reservation& reservation, uint32_t crc, uint64_t ttl_ms) {
  return publish_until(reservation, crc, expiry_ms(ttl_ms), nullptr);
}

Status BlockStore::publish_until(const Reservation& reservation, uint32_t crc, uint64_t expires_ms, Lease* lease) {
  const Key key = impl_->reserved_block(reservation).key;  // a copy for the listener: the block may be gone by then
  const Status status = adopt(reservation, crc, expires_ms, lease);
  if (status == Status::kOk) {
    impl_->counters.puts.fetch_add(1);
    if (impl_->listener) impl_->listener(key);
  } else {
    status == Status::kExists ? count_exists() : count_conflict();
  }
  return status;
}

Status BlockStore::adopt(const Reservation& reservation, uint32_t crc, uint64_t expires_ms, Lease* lease) {
  Block& block = impl_->reserved_block(reservation);
  block.crc = crc;
  block.expires_ms = expires_ms;
  Status status = Status::kOk;
  {
    Impl::Shard& shard = impl_->shard_of(block.key);
    const std::lock_guard lock(shard.mutex);
    const uint32_t slot = impl_->find_live(shard, block.key, impl_->clock.now_ms());
    if (slot == Impl::kNone) {
      impl_->insert(shard, reservation);
      if (lease != nullptr) *lease = impl_->lease(reservation.slot);
      return Status::kOk;
    }
    const Block& first = impl_->pool[slot];
    status = first.length == block.length && first.crc == crc ? Status::kExists : Status::kConflict;
    const Impl::Found found{slot, first.generation.load(std::memory_order_relaxed)};
    impl_->touch(reservation.stamp, reservation.depth, {&found, 1});
    if (lease != nullptr && status == Status::kExists) *lease = impl_->lease(slot);
  }
  impl_->give_back(reservation);
  return status;
}

void BlockStore::abort(const Reservation& reservation) {
  withdraw(reservation);
  impl_->counters.put_aborted.fetch_add(1);
}

void BlockStore::withdraw(const Reservation& reservation) {
  impl_->reserved_block(reservation);
  impl_->give_back(reservation);
}

void BlockStore::count_busy() { impl_->counters.put_busy.fetch_add(1); }

void BlockStore::count_conflict() { impl_->counters.put_conflicts.fetch_add(1); }

void BlockStore::count_exists() { impl_->counters.put_exists.fetch_add(1); }

void BlockStore::touch(std::span<const Key> keys, Stamp stamp, uint32_t first_depth, uint64_t ttl_ms,
                       std::span<Status> statuses) {
  KVSTORE_ASSERT(statuses.size() == keys.size());
  const uint64_t now_ms = impl_->clock.now_ms();
  std::ranges::fill(statuses, Status::kMiss);
  for (size_t start = 0; start < keys.size(); start += Impl::kBatchKeys) {
    const auto batch = keys.subspan(start, std::min<size_t>(Impl::kBatchKeys, keys.size() - start));
    Impl::FoundStorage storage;
    const auto found = Impl::nothing_found(storage, batch.size());
    impl_->visit(batch, now_ms, [&](size_t index, uint32_t slot) {
      const Block& block = impl_->pool[slot];
      const uint32_t depth = first_depth + static_cast<uint32_t>(start + index);
      if (ttl_ms != kKeepExpiry) impl_->set_expiry(slot, expiry_after(now_ms, ttl_ms), stamp, depth);
      found[index] = {slot, block.generation.load(std::memory_order_relaxed)};
      statuses[start + index] = Status::kOk;
    });
    impl_->touch(stamp, first_depth + static_cast<uint32_t>(start), found);
  }
}

void BlockStore::set_expiry(const Key& key, uint64_t expires_ms, Stamp stamp, uint32_t depth) {
  (void)impl_->visit_one(key, [&](uint32_t slot) { impl_->set_expiry(slot, expires_ms, stamp, depth); });
}

void BlockStore::erase(std::span<const Key> keys, std::span<Status> statuses) {
  KVSTORE_ASSERT(statuses.size() == keys.size());
  const uint64_t now_ms = impl_->clock.now_ms();
  for (size_t index = 0; index < keys.size(); ++index) {
    Impl::Shard& shard = impl_->shard_of(keys[index]);
    const std::lock_guard lock(shard.mutex);
    const uint32_t slot = impl_->find_live(shard, keys[index], now_ms);
    statuses[index] = slot == Impl::kNone ? Status::kMiss : Status::kOk;
    if (slot != Impl::kNone) impl_->remove(shard, slot, Removal::kDeleted);
  }
}

void BlockStore::quarantine(const Key& key, uint32_t crc) {
  Impl::Shard& shard = impl_->shard_of(key);
  const std::lock_guard lock(shard.mutex);
  const uint32_t slot = impl_->find_live(shard, key, impl_->clock.now_ms());
  if (slot == Impl::kNone || impl_->pool[slot].crc != crc) return;
  impl_->remove(shard, slot, Removal::kQuarantined);
}

uint64_t BlockStore::evict(uint64_t bytes) {
  uint64_t looks_left = impl_->looks_allowed();
  uint64_t freed = 0;
  while (freed < bytes) {
    const uint64_t one = impl_->evict_one(&looks_left);
    if (one == 0) break;
    freed += one;
  }
  return freed;
}

void BlockStore::sweep_expired(uint32_t limit) {
  const uint64_t now_ms = impl_->clock.now_ms();
  const std::lock_guard sweep_lock(impl_->sweep_mutex);
  size_t finished_shards = 0;
  while (limit > 0 && finished_shards <= impl_->shards.size()) {
    Impl::Shard& shard = impl_->shards[impl_->sweep_shard];
    const std::lock_guard lock(shard.mutex);
    uint32_t& bucket = impl_->sweep_bucket;
    for (uint32_t looks = std::min(limit, kSweptPerLock); looks > 0 && bucket < shard.table.bucket_count(); --looks) {
      --limit;
      const uint32_t slot = shard.table.slot_in_bucket(bucket);
      if (slot != Impl::kNone && now_ms >= impl_->pool[slot].expires_ms) {
        impl_->remove(shard, slot, Removal::kExpired);  // may move another block into this bucket: stay
      } else {
        ++bucket;
      }
    }
    if (bucket < shard.table.bucket_count()) continue;
    bucket = 0;
    ++finished_shards;
    impl_->sweep_shard = (impl_->sweep_shard + 1) % impl_->shards.size();
  }
}

uint32_t BlockStore::shards() const { return static_cast<uint32_t>(impl_->shards.size()); }

void BlockStore::keys_of_shard(uint32_t number, std::vector<Key>* keys) const {
  Impl::Shard& shard = impl_->shards[number];
  const std::lock_guard lock(shard.mutex);
  for (uint32_t bucket = 0; bucket < shard.table.bucket_count(); ++bucket) {
    const uint32_t slot = shard.table.slot_in_bucket(bucket);
    if (slot != Impl::kNone) keys->push_back(impl_->pool[slot].key);
  }
}

void BlockStore::on_remove(OnRemove listener) { impl_->remove_listener = std::move(listener); }

void BlockStore::on_new_expiry(std::function<void(const StoredBlock&)> listener) {
  impl_->expiry_listener = std::move(listener);
}

void BlockStore::on_publish(std::function<void(const Key&)> listener) { impl_->listener = std::move(listener); }

StoreStats BlockStore::stats() const {
  const Impl::Counters& counters = impl_->counters;
  StoreStats stats{};
  stats.capacity_bytes = impl_->pool.capacity_bytes();
  stats.used_bytes = impl_->pool.used_bytes();
  stats.reserved_bytes = counters.reserved_bytes;
  stats.leased_bytes = counters.leased_bytes;
  stats.blocks = impl_->visible_blocks;
  stats.leases = counters.leases;
  stats.index_bytes = impl_->memory_bytes();
  stats.hits = counters.hits;
  stats.misses = counters.misses;
  stats.puts = counters.puts;
  stats.put_exists = counters.put_exists;
  stats.put_conflicts = counters.put_conflicts;
  stats.put_busy = counters.put_busy;
  stats.put_too_large = counters.put_too_large;
  stats.put_aborted = counters.put_aborted;
  stats.evicted_blocks = counters.of(Removal::kEvicted);
  stats.evicted_bytes = counters.evicted_bytes;
  stats.expired_blocks = counters.of(Removal::kExpired);
  stats.deleted_blocks = counters.of(Removal::kDeleted);
  stats.quarantined_blocks = counters.of(Removal::kQuarantined);
  return stats;
}

bool BlockStore::consistent() const { return impl_->consistent(); }

}  // namespace kvstore
