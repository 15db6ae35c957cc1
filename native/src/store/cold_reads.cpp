// Lock order: mutex_ comes before the locks of the stores (a block is published under it, so that no cancellation comes
// between the look at `cancelled` and the publication).
#include "store/cold_reads.h"

#include "base/checksum.h"
#include "base/failpoint.h"
#include "memory/extent_allocator.h"

namespace kvstore {

Status ColdReads::fetch(const Key& key, Stamp stamp, uint32_t depth, uint32_t length, uint32_t* found_length,
                        FetchDone done) {
  const auto read = std::make_shared<Read>();
  read->key = key;
  read->disk = find(key, stamp, depth, &read->on_disk);
  if (read->disk == nullptr) {
    ++counters_.missed;
    return Status::kMiss;
  }
  BlockStore& index = read->disk->index();
  *found_length = read->on_disk.length;
  if (length != 0 && length != read->on_disk.length) {
    index.release(read->on_disk);
    return Status::kWrongSize;
  }
  {
    const std::lock_guard lock(mutex_);
    if (join(*read, done)) {
      index.release(read->on_disk);
      return Status::kOk;
    }
  }
  const Status reserved = dram_.reserve(key, read->on_disk.length, stamp, depth, &read->room);
  if (reserved != Status::kOk) {
    index.release(read->on_disk);
    ++counters_.busy;
    return reserved == Status::kBusy ? Status::kBusy : Status::kMiss;
  }
  {
    const std::lock_guard lock(mutex_);
    if (join(*read, done)) {  // another thread was faster
      dram_.withdraw(read->room);
      index.release(read->on_disk);
      return Status::kOk;
    }
    read->waiting.push_back(std::move(done));
    open_[key] = read;
    ++active_;
  }
  start(read);
  return Status::kOk;
}

DiskTier* ColdReads::find(const Key& key, Stamp stamp, uint32_t depth, Lease* lease) const {
  for (const auto& disk : disks_) {
    Status status = Status::kMiss;
    disk->index().acquire({&key, 1}, stamp, depth, {lease, 1}, {&status, 1});
    if (status == Status::kOk) return disk.get();
  }
  return nullptr;
}

bool ColdReads::join(const Read& read, FetchDone& done) {
  const auto open = open_.find(read.key);
  if (open == open_.end()) return false;
  Read& first = *open->second;
  if (first.disk != read.disk || !first.on_disk.is_of_same_block(read.on_disk)) return false;
  first.waiting.push_back(std::move(done));
  ++counters_.joined;
  return true;
}

void ColdReads::start(const std::shared_ptr<Read>& read) {
  KVSTORE_FAILPOINT("read.before");
  const auto bytes = static_cast<uint32_t>(ExtentAllocator::rounded(read->on_disk.length));
  read->disk->disk().read(read->on_disk.offset, arena_ + read->room.offset, bytes,
                          [this, read](int error) { on_read(read, error); });
}

void ColdReads::on_read(const std::shared_ptr<Read>& read, int error) {
  KVSTORE_FAILPOINT("read.after");
  BlockStore& index = read->disk->index();
  DiskTierCounters& counters = read->disk->counters();
  const bool intact = error == 0 && crc32c(arena_ + read->room.offset, read->on_disk.length) == read->on_disk.crc;
  if (error != 0) ++counters.read_errors;
  if (error == 0 && !intact) ++counters_.wrong_checksums;
  Lease now;
  if (!intact && find_on_disk(*read, &now)) index.quarantine(read->key, read->on_disk.crc);
  ++counters.read_blocks;
  counters.read_bytes += ExtentAllocator::rounded(read->on_disk.length);

  Lease lease;
  bool leased = false;
  {
    const std::lock_guard lock(mutex_);
    leased = intact && adopt(*read, &lease);
    if (!intact) dram_.withdraw(read->room);
    const auto open = open_.find(read->key);
    if (open != open_.end() && open->second == read) open_.erase(open);
  }
  index.release(read->on_disk);
  // Nobody joins any more. The last one gets the lease itself: once all are told, all leases are theirs.
  for (size_t i = 0; i < read->waiting.size(); ++i) {
    const bool last = i + 1 == read->waiting.size();
    leased ? read->waiting[i](Status::kOk, last ? lease : dram_.share(lease)) : read->waiting[i](Status::kMiss, {});
  }
  // Notified under the lock: `drain` may let all this be destroyed.
  const std::lock_guard lock(mutex_);
  --active_;
  ended_.notify_all();
}

bool ColdReads::adopt(const Read& read, Lease* lease) {
  // It may have been deleted between the look into the index and the entry in `open_`.
  Lease on_disk;
  if (read.cancelled || !find_on_disk(read, &on_disk)) {
    ++counters_.cancelled;
    dram_.withdraw(read.room);
    return false;
  }
  if (dram_.adopt(read.room, on_disk.crc, on_disk.expires_ms, lease) == Status::kConflict) return false;
  // A touch that came too early to find the block in DRAM is seen on disk now.
  Lease now;
  while (find_on_disk(read, &now) && now.expires_ms != on_disk.expires_ms) {
    on_disk = now;
    dram_.set_expiry(read.key, now.expires_ms, read.room.stamp, read.room.depth);
  }
  return true;
}

// Whether the disk still has the block that was read, with what it says of it now.
bool ColdReads::find_on_disk(const Read& read, Lease* now) {
  return read.disk->index().look(read.key, now) && now->is_of_same_block(read.on_disk);
}

void ColdReads::cancel(const Key& key) {
  const std::lock_guard lock(mutex_);
  const auto open = open_.find(key);
  if (open == open_.end()) return;
  open->second->cancelled = true;
  open_.erase(open);
}

void ColdReads::drain() {
  std::unique_lock lock(mutex_);
  ended_.wait(lock, [this] { return active_ == 0; });
}

}  // namespace kvstore
