// Rebuilding the index of a disk from its catalog.
#include <algorithm>

#include "base/failpoint.h"
#include "store/disk_tier.h"

namespace kvstore {

void DiskTier::recover(std::string_view catalog_key, std::string_view value) {
  KVSTORE_FAILPOINT("recovery.row");
  if (const std::optional<BlockRow> row = decode_block(catalog_key, value)) {
    recovered_.push_back({row->key, row->offset, row->length, row->crc, row->depth, Stamp{row->stamp},
                          from_unix_ms(row->expires_unix_ms)});
  } else if (std::optional<PinRow> pin = decode_pin(catalog_key, value)) {
    recovered_pins_.push_back(std::move(*pin));
  } else if (!catalog_key.starts_with('m')) {
    unusable_.push_back({"malformed", std::string(catalog_key)});
  }
}

std::vector<UnusableRow> DiskTier::finish_recovery(std::span<const DiskRange> lost) {
  const uint64_t now_ms = clock_.now_ms();
  const auto refuse = [&](const StoredBlock& block, const char* why) {
    unusable_.push_back({why, catalog_key_of_block(block.key)});
  };
  const auto is_lost = [&](const StoredBlock& block) {
    return std::ranges::any_of(lost, [&](const DiskRange& range) {
      return block.offset < range.offset + range.bytes && range.offset < block.offset + block.length;
    });
  };
  std::erase_if(recovered_, [&](const StoredBlock& block) {
    const bool outside = block.offset > disk_.capacity_bytes() || block.length == 0 ||
                         block.length > disk_.capacity_bytes() - block.offset;
    const char* why = outside ? "outside" : block.expires_ms <= now_ms ? "expired" : is_lost(block) ? "lost" : nullptr;
    if (why != nullptr) refuse(block, why);
    return why != nullptr;
  });
  std::vector<SpaceRange> excluded;
  for (const DiskRange& range : disk_.reserved()) excluded.push_back({range.offset, range.bytes});
  std::vector<Status> statuses(recovered_.size());
  index_.restore(recovered_, excluded, statuses);
  size_t restored = 0;
  for (size_t i = 0; i < recovered_.size(); ++i) {
    if (statuses[i] == Status::kOk) {
      recovered_[restored++] = recovered_[i];
    } else {
      refuse(recovered_[i], statuses[i] == Status::kExists ? "duplicate" : "overlaps");
    }
  }
  recovered_.resize(restored);
  KVSTORE_FAILPOINT("recovery.done");
  return std::move(unusable_);
}

void DiskTier::end_recovery(std::span<const std::unique_ptr<DiskTier>> disks) {
  LatestBlocks latest = keys_on_several(disks);
  const auto visit_shared = [&](auto visit) {
    for (const auto& disk : disks) {
      for (const StoredBlock& block : disk->recovered_) {
        const auto found = latest.find(block.key);
        if (found != latest.end()) visit(*disk, block, found->second);
      }
    }
  };
  if (!latest.empty()) {
    visit_shared([](DiskTier& disk, const StoredBlock& block, Latest& one) {
      if (one.disk == nullptr || block.stamp > one.stamp) one = {&disk, block.stamp};
    });
    visit_shared([](DiskTier& disk, const StoredBlock& block, const Latest& one) {
      Status status;
      if (one.disk != &disk) disk.index_.erase({&block.key, 1}, {&status, 1});
    });
  }
  for (const auto& disk : disks) std::vector<StoredBlock>().swap(disk->recovered_);  // assigning {} keeps the memory
}

DiskTier::LatestBlocks DiskTier::keys_on_several(std::span<const std::unique_ptr<DiskTier>> disks) {
  LatestBlocks several;
  for (size_t later = 1; later < disks.size(); ++later) {
    std::vector<Key> keys;
    for (const StoredBlock& block : disks[later]->recovered_) keys.push_back(block.key);
    std::vector<Status> statuses(keys.size());
    for (size_t earlier = 0; earlier < later; ++earlier) {
      disks[earlier]->index_.contains(keys, statuses);
      for (size_t i = 0; i < keys.size(); ++i) {
        if (statuses[i] == Status::kOk) several.try_emplace(keys[i]);
      }
    }
  }
  return several;
}

}  // namespace kvstore
