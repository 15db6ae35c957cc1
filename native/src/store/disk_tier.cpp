// Write-back of one disk. disk_commit.cpp has the catalog's side, disk_recovery.cpp the start.
//
// Lock order: the index's locks come before mutex_ (`on_removed` is called under a shard's lock); the queue's lock
// comes before the index's (`settle` publishes under it). Nothing is called with mutex_ held.
#include "store/disk_tier.h"

#include <algorithm>
#include <cstring>

#include "base/assert.h"
#include "base/failpoint.h"
#include "memory/extent_allocator.h"

namespace kvstore {

namespace {

constexpr std::chrono::milliseconds kIdleWait{100};

// Space kept free ahead of the writer, because what is evicted comes back only after a commit: enough for some commits'
// worth of blocks, and never much of a small disk.
constexpr uint64_t kHeadroomBytesMax = 512ull << 20;
constexpr uint64_t kHeadroomShare = 16;

// Of space between what is reserved.
uint64_t largest_run(const Disk& disk) {
  uint64_t largest = 0;
  uint64_t start = 0;
  for (const DiskRange& range : disk.reserved()) {
    largest = std::max(largest, range.offset - start);
    start = range.offset + range.bytes;
  }
  return std::max(largest, disk.capacity_bytes() - start);
}

}  // namespace

DiskTier::DiskTier(Disk& disk, const std::byte* arena, BlockStore& dram, WriteQueue& queue, const Clock& clock,
                   Stamps& stamps, std::unique_ptr<EvictionPolicy> policy, Options options)
    : disk_(disk),
      arena_(arena),
      dram_(dram),
      queue_(queue),
      clock_(clock),
      options_(options),
      largest_block_bytes_(largest_run(disk)),
      index_(disk.capacity_bytes(), {.max_block_bytes = options.max_block_bytes, .evict_to_reserve = false}, clock,
             stamps, std::move(policy)) {
  index_.on_remove([this](const Key& key, const Lease& lease, Removal reason) { on_removed(key, lease, reason); });
  index_.on_new_expiry([this](const StoredBlock& block) { on_new_expiry(block); });
}

DiskTier::~DiskTier() { stop(); }

void DiskTier::start() {
  writer_ = std::thread([this] { write_loop(); });
}

void DiskTier::stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  turn_.notify_all();
  if (writer_.joinable()) writer_.join();
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return in_flight_ == 0; });
}

// ---- writing

void DiskTier::write_loop() {
  while (wait_for_turn()) {
    const std::optional<DirtyBlock> block = queue_.pop(kIdleWait);
    if (!block) continue;
    if (!queue_.is_wanted(*block)) {
      queue_.settle(*block, [](bool) {});
      end_way(*block);
      continue;
    }
    Reservation space;
    if (has_turn() && make_room(*block, &space)) {  // trouble may have come while it waited for a block
      KVSTORE_FAILPOINT("write-back.reserved");
      start_write(*block, space);
    } else {
      queue_.put_back(*block);
    }
  }
}

bool DiskTier::wait_for_turn() {
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    if (may_write()) return true;
    turn_.wait_for(lock, kIdleWait);
  }
  return false;
}

bool DiskTier::has_turn() const {
  const std::lock_guard lock(mutex_);
  return may_write();
}

// In trouble a disk leaves the blocks to the others. Whether commits work again the catalog's thread finds out alone;
// whether writes do, one block at a time.
bool DiskTier::may_write() const {
  if (!trouble_.empty()) {
    const bool trying = in_flight_ > 0 || !written_.empty() || commit_id_ != 0;
    return write_failed_ && !trying && clock_.now_ns() >= retry_ns_;
  }
  if (in_flight_ == 0) return true;
  return in_flight_ < options_.writes_in_flight && in_flight_bytes_ < options_.write_bytes_in_flight;
}

bool DiskTier::make_room(const DirtyBlock& block, Reservation* space) {
  while (true) {
    evict_ahead();
    const Status status = index_.reserve(block.key, block.lease.length, block.stamp, block.depth, space);
    if (status == Status::kOk) return true;
    // No free extent is large enough. Evict as much as is needed, then wait for the commit that gives it back.
    if (freeing_bytes() == 0) index_.evict(ExtentAllocator::rounded(block.lease.length));
    const uint64_t awaited_bytes = freeing_bytes();
    hurry();
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, kIdleWait, [&] { return stopping_ || freeing_bytes_ < awaited_bytes; });
    if (stopping_ || awaited_bytes == 0) return false;
  }
}

void DiskTier::evict_ahead() {
  const uint64_t capacity = disk_.capacity_bytes();
  const uint64_t headroom = std::min(capacity / kHeadroomShare, kHeadroomBytesMax);
  const uint64_t taken = index_.used_bytes();
  const uint64_t used = taken - std::min(taken, freeing_bytes());
  if (used + headroom > capacity) index_.evict(used + headroom - capacity);
}

uint64_t DiskTier::freeing_bytes() const {
  const std::lock_guard lock(mutex_);
  return freeing_bytes_;
}

void DiskTier::start_write(const DirtyBlock& block, const Reservation& space) {
  Written written{block, space};
  {
    const std::lock_guard lock(mutex_);
    ++in_flight_;
    in_flight_bytes_ += block.lease.length;
    written.failed_syncs = failed_syncs_;
  }
  // Whole granules: in DRAM, too, the block's extent ends at one.
  const auto bytes = static_cast<uint32_t>(ExtentAllocator::rounded(block.lease.length));
  disk_.write(space.offset, arena_ + block.lease.offset, bytes,
              [this, written](int error) { on_written(written, error); });
}

void DiskTier::on_written(const Written& written, int error) {
  if (error != 0) {
    ++counters_.write_errors;
    fail(std::string("a block cannot be written: ") + std::strerror(error));
  } else {
    KVSTORE_FAILPOINT("write-back.written");
    ++counters_.written_blocks;
    counters_.written_bytes += ExtentAllocator::rounded(written.block.lease.length);
  }
  const bool kept = error == 0 && may_commit();
  if (!kept) {
    index_.abort(written.space);
    queue_.put_back(written.block);
  }
  // Notified under the lock: `stop` may let the tier be destroyed as soon as nothing is in flight.
  const std::lock_guard lock(mutex_);
  // Who commits waits for the first of a group; it looks at the clock for the rest.
  const bool news = written_.empty() || !kept || stopping_;
  if (kept) written_.push_back(written);
  write_failed_ = error != 0;
  --in_flight_;
  in_flight_bytes_ -= written.block.lease.length;
  if (news) changed_.notify_all();
  turn_.notify_one();
}

// Not while commits fail: another disk may take the block meanwhile.
bool DiskTier::may_commit() const {
  const std::lock_guard lock(mutex_);
  return trouble_.empty() || write_failed_;
}

// Not on its way any more, whatever has become of it.
void DiskTier::end_way(const DirtyBlock& block) {
  dram_.release(block.lease);
  if (durable_listener_) durable_listener_(block.key);
}

// ---- trouble

void DiskTier::fail(const std::string& what) {
  ++counters_.troubles;
  const std::lock_guard lock(mutex_);
  trouble_ = what;
  troubled_ = true;
  retry_ns_ = probe_ns_ = clock_.now_ns() + nanoseconds(options_.retry_interval);
}

// After a commit. Where the last write failed it takes more than that, unless there is nothing to try a write with.
void DiskTier::heal() {
  const bool can_try_a_write = queue_.blocks() > 0;
  {
    const std::lock_guard lock(mutex_);
    if (write_failed_ && can_try_a_write) {
      probe_ns_ = clock_.now_ns() + nanoseconds(options_.retry_interval);
      return;
    }
    write_failed_ = false;
    trouble_.clear();
    troubled_ = false;
  }
  changed_.notify_all();
  turn_.notify_all();
  if (healed_listener_) healed_listener_();
}

std::string DiskTier::trouble() const {
  const std::lock_guard lock(mutex_);
  return trouble_;
}

// ---- time

uint64_t DiskTier::to_unix_ms(uint64_t expires_ms) const {
  if (expires_ms == kNever) return kNever;
  const uint64_t now_ms = clock_.now_ms();
  return expires_ms > now_ms ? clock_.unix_ms() + (expires_ms - now_ms) : clock_.unix_ms() - (now_ms - expires_ms);
}

uint64_t DiskTier::from_unix_ms(uint64_t expires_unix_ms) const {
  if (expires_unix_ms == kNever) return kNever;
  const uint64_t unix_ms = clock_.unix_ms();
  return expires_unix_ms > unix_ms ? clock_.now_ms() + (expires_unix_ms - unix_ms) : 0;
}

}  // namespace kvstore
