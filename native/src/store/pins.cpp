#include "store/pins.h"

#include "memory/extent_allocator.h"

namespace kvstore {

Status Pins::pin(BlockStore& tier, DiskTier* disk, const Key& key, const std::string& owner, uint64_t expires_ms) {
  const std::lock_guard lock(mutex_);
  const auto [block, is_new] = blocks_.try_emplace(key);
  Pinned& pinned = block->second;
  if (!is_new && !is_there(key, pinned)) {
    end(block);
  } else if (!is_new) {
    pinned.owners[owner] = expires_ms;
    write_row(pinned, key, owner, expires_ms);
    return Status::kOk;
  }
  Lease lease;
  if (!tier.hold(key, &lease)) {
    blocks_.erase(key);
    return Status::kMiss;
  }
  const uint64_t bytes = ExtentAllocator::rounded(lease.length);
  if (bytes_ + bytes > bytes_max_) {
    tier.release(lease);
    blocks_.erase(key);
    return Status::kBusy;
  }
  bytes_ += bytes;
  Pinned& added = blocks_[key];
  added = {&tier, disk, lease, {{owner, expires_ms}}};
  write_row(added, key, owner, expires_ms);
  return Status::kOk;
}

Status Pins::unpin(const Key& key, const std::string& owner) {
  const std::lock_guard lock(mutex_);
  const auto block = blocks_.find(key);
  if (block == blocks_.end() || block->second.owners.erase(owner) == 0) return Status::kMiss;
  erase_row(block->second, key, owner);
  if (block->second.owners.empty()) end(block);
  return Status::kOk;
}

void Pins::restore(DiskTier& disk, const PinRow& row) {
  const uint64_t expires_ms = disk.from_unix_ms(row.expires_unix_ms);
  const bool over = expires_ms <= clock_.now_ms();
  if (!over && pin(disk.index(), &disk, row.key, row.owner, expires_ms) == Status::kOk) return;
  disk.commit_also({catalog_key_of_pin(row.key, row.owner), std::nullopt});
}

void Pins::drop(std::span<const Key> keys) {
  const std::lock_guard lock(mutex_);
  for (const Key& key : keys) {
    const auto block = blocks_.find(key);
    if (block != blocks_.end()) end(block);
  }
}

void Pins::sweep() {
  const uint64_t now_ms = clock_.now_ms();
  const std::lock_guard lock(mutex_);
  for (auto block = blocks_.begin(); block != blocks_.end();) {
    auto& [key, pinned] = *block;
    const bool gone = !is_there(key, pinned);
    std::erase_if(pinned.owners, [&](const auto& owner) {
      const bool over = gone || owner.second <= now_ms;
      if (over) erase_row(pinned, key, owner.first);
      return over;
    });
    block = pinned.owners.empty() ? end(block) : std::next(block);
  }
}

PinStats Pins::stats() const {
  const std::lock_guard lock(mutex_);
  return {blocks_.size(), bytes_, bytes_max_};
}

void Pins::write_row(const Pinned& pinned, const Key& key, const std::string& owner, uint64_t expires_ms) const {
  if (pinned.disk == nullptr) return;
  CatalogEntry entry = encode(PinRow{key, owner, pinned.disk->to_unix_ms(expires_ms)});
  pinned.disk->commit_also({std::move(entry.key), std::move(entry.value)});
}

void Pins::erase_row(const Pinned& pinned, const Key& key, const std::string& owner) const {
  if (pinned.disk != nullptr) pinned.disk->commit_also({catalog_key_of_pin(key, owner), std::nullopt});
}

Pins::Blocks::iterator Pins::end(Blocks::iterator block) {
  const Pinned& pinned = block->second;
  for (const auto& [owner, expires_ms] : pinned.owners) erase_row(pinned, block->first, owner);
  bytes_ -= ExtentAllocator::rounded(pinned.lease.length);
  pinned.tier->release(pinned.lease);
  return blocks_.erase(block);
}

bool Pins::is_there(const Key& key, const Pinned& pinned) {
  Lease now;
  return pinned.tier->look(key, &now) && now.is_of_same_block(pinned.lease);
}

}  // namespace kvstore
