// The catalog's side of a disk tier: groups of rows, and what follows when they are committed.
#include <cstring>

#include "base/assert.h"
#include "base/failpoint.h"
#include "memory/extent_allocator.h"
#include "store/disk_tier.h"

namespace kvstore {

namespace {

// Not a block and not a pin: committed when there is nothing else, to find out whether trouble is over.
constexpr const char* kProbeKey = "m:probe";

constexpr std::chrono::milliseconds kShortestWait{1};

}  // namespace

// With the shard of the block locked.
void DiskTier::on_removed(const Key& key, const Lease& lease, Removal reason) {
  Operation operation{{catalog_key_of_block(key), std::nullopt}, key, lease.offset, lease, std::nullopt, false};
  operation.keep_space = reason == Removal::kQuarantined;
  if (operation.keep_space) counters_.quarantined_bytes += ExtentAllocator::rounded(lease.length);
  push_operation(std::move(operation));
}

void DiskTier::push_operation(Operation operation) {
  {
    const std::lock_guard lock(mutex_);
    if (operation.frees && !operation.keep_space) freeing_bytes_ += ExtentAllocator::rounded(operation.frees->length);
    if (operation.undoes) freeing_bytes_ += ExtentAllocator::rounded(operation.undoes->length);
    operations_.push_back(std::move(operation));
    ++operations_made_;
  }
  changed_.notify_all();
}

void DiskTier::commit_also(CatalogOperation operation) { push_operation({std::move(operation)}); }

// Like `on_removed` under the block's shard, so that the rows come in the order of what happened to the block.
void DiskTier::on_new_expiry(const StoredBlock& block) { push_operation({row_of(block), block.key, block.offset}); }

CatalogOperation DiskTier::row_of(const StoredBlock& block) const {
  CatalogEntry entry = encode(BlockRow{block.key, block.offset, block.length, block.crc, block.depth,
                                       static_cast<uint64_t>(block.stamp), to_unix_ms(block.expires_ms)});
  return {std::move(entry.key), std::move(entry.value)};
}

void DiskTier::hurry() {
  {
    const std::lock_guard lock(mutex_);
    hurried_ = true;
  }
  changed_.notify_all();
}

bool DiskTier::wait_committed(std::chrono::milliseconds timeout) {
  hurry();
  std::unique_lock lock(mutex_);
  const uint64_t last = operations_made_;
  changed_.wait_for(lock, timeout, [&] { return stopping_ || operations_done_ >= last; });
  return operations_done_ >= last;
}

bool DiskTier::due() const {
  const uint64_t now_ns = clock_.now_ns();
  if (!trouble_.empty()) return now_ns >= retry_ns_ && (now_ns >= probe_ns_ || !written_.empty());
  const bool any = !operations_.empty() || !written_.empty();
  return any && (hurried_ || now_ns - committed_ns_ >= nanoseconds(options_.commit_interval));
}

// Waits until there is something to commit, and takes it: what came first, and operations before rows.
bool DiskTier::take_group(std::chrono::milliseconds timeout) {
  std::unique_lock lock(mutex_);
  KVSTORE_ASSERT(commit_id_ == 0);
  const auto until = std::chrono::steady_clock::now() + timeout;
  while (!stopping_ && !due()) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(until - std::chrono::steady_clock::now());
    if (left.count() <= 0) return false;
    const bool any = !operations_.empty() || !written_.empty() || !trouble_.empty();
    changed_.wait_for(lock, any ? std::min(left, std::max(options_.commit_interval, kShortestWait)) : left);
  }
  if (stopping_ && operations_.empty() && written_.empty()) return false;
  hurried_ = false;

  const auto operations = static_cast<ptrdiff_t>(std::min(operations_.size(), kOperationsMax));
  committing_operations_.assign(std::make_move_iterator(operations_.begin()),
                                std::make_move_iterator(operations_.begin() + operations));
  operations_.erase(operations_.begin(), operations_.begin() + operations);
  const auto blocks =
      static_cast<ptrdiff_t>(std::min(written_.size(), kOperationsMax - static_cast<size_t>(operations)));
  committing_written_.assign(written_.begin(), written_.begin() + blocks);
  written_.erase(written_.begin(), written_.begin() + blocks);
  commit_id_ = next_commit_id_++;
  return true;
}

std::optional<Commit> DiskTier::next_commit(std::chrono::milliseconds timeout) {
  if (!take_group(timeout)) return std::nullopt;
  std::erase_if(committing_written_, [this](const Written& written) { return drop(written); });
  const bool probes = !healthy();
  const bool blocks = !committing_written_.empty();
  if (const int error = blocks || probes ? disk_.sync() : 0; error != 0) {
    ++counters_.sync_errors;
    {
      const std::lock_guard lock(mutex_);
      ++failed_syncs_;
    }
    finish_commit(commit_id_, false, std::string("the disk cannot be synced: ") + std::strerror(error));
    return std::nullopt;
  }
  if (blocks) KVSTORE_FAILPOINT("write-back.synced");
  if (!committing_operations_.empty()) KVSTORE_FAILPOINT("free.before-commit");
  Commit commit{commit_id_, {}};
  for (const Operation& operation : committing_operations_) {
    if (still_holds(operation)) commit.operations.push_back(operation.catalog);
  }
  for (Written& written : committing_written_) {
    written.block.lease.expires_ms = expiry_in_dram(written.block);
    commit.operations.push_back(row_of(written.stored(written.block.lease.expires_ms)));
  }
  if (probes) commit.operations.push_back({kProbeKey, ""});
  KVSTORE_FAILPOINT("catalog.before-commit");
  return commit;
}

// What shall have no row: bytes that a failed sync may have swept away (they are written again), a block that is
// not wanted any more, and one whose key the disk has already, so that no row of a visible block is ever overwritten.
bool DiskTier::drop(const Written& written) {
  const auto& [block, space, failed_syncs] = written;
  if (failed_syncs != failed_syncs_) {
    index_.abort(space);
    queue_.put_back(block);
    return true;
  }
  BlockInfo visible;
  if (queue_.is_wanted(block) && !index_.find(block.key, &visible)) return false;
  index_.abort(space);
  queue_.settle(block, [](bool) {});
  end_way(block);
  return true;
}

// Blocks come and go while their operations wait. What the catalog says of a visible block stays: its row was committed
// before it became visible, and later than the deletion that another block of its key may have left here.
bool DiskTier::still_holds(const Operation& operation) {
  if (!operation.block) return true;
  Lease visible;
  const bool is_visible = index_.look(*operation.block, &visible);
  const bool deletes = !operation.catalog.value;
  return deletes ? !is_visible : is_visible && visible.offset == operation.offset;
}

// The block may have been touched since it was sent. 0, long over, when it is not there any more.
uint64_t DiskTier::expiry_in_dram(const DirtyBlock& block) const {
  Lease now;
  return dram_.look(block.key, &now) && now.is_of_same_block(block.lease) ? now.expires_ms : 0;
}

void DiskTier::finish_commit(uint64_t id, bool committed, const std::string& error) {
  std::vector<Operation> operations;
  std::vector<Written> written;
  {
    const std::lock_guard lock(mutex_);
    if (id != commit_id_ || id == 0) return;
    commit_id_ = 0;
    committed_ns_ = clock_.now_ns();
    operations.swap(committing_operations_);
    written.swap(committing_written_);
    if (!committed) {
      operations_.insert(operations_.begin(), std::make_move_iterator(operations.begin()),
                         std::make_move_iterator(operations.end()));
    }
  }
  if (!committed) {
    ++counters_.commit_errors;
    fail(error);
    for (const Written& one : written) {
      take_back(one);
      queue_.put_back(one.block);
    }
    return;
  }
  ++counters_.commits;
  KVSTORE_FAILPOINT("catalog.after-commit");
  for (const Written& one : written) publish(one);
  if (!written.empty()) KVSTORE_FAILPOINT("write-back.published");
  free_space(operations);
  if (!healthy()) heal();
  if (!written.empty() && room_listener_) room_listener_();
}

// The block is on disk from here on, unless it was deleted on its way.
void DiskTier::publish(const Written& written) {
  queue_.settle(written.block, [&](bool wanted) { wanted ? make_visible(written) : take_back(written); });
  end_way(written.block);
}

void DiskTier::make_visible(const Written& written) {
  const DirtyBlock& block = written.block;
  uint64_t expires_ms = expiry_in_dram(block);
  const Status status = index_.adopt(written.space, block.lease.crc, expires_ms, nullptr);
  KVSTORE_ASSERT(status == Status::kOk);       // `drop` saw that there is no other, and blocks appear here alone
  if (expires_ms != block.lease.expires_ms) {  // touched after its row was made
    on_new_expiry(written.stored(expires_ms));
  }
  // A touch looks into DRAM first: one that came too early to find the block here is seen there now.
  uint64_t now_ms = expiry_in_dram(block);
  for (; now_ms != expires_ms; now_ms = expiry_in_dram(block)) {
    expires_ms = now_ms;
    index_.set_expiry(block.key, expires_ms, block.stamp, block.depth);
  }
}

// The catalog has the block's row, or may have it: the space must not be used before that is gone.
void DiskTier::take_back(const Written& written) {
  push_operation({{catalog_key_of_block(written.block.key), std::nullopt},
                  written.block.key,
                  written.space.offset,
                  std::nullopt,
                  written.space});
}

void DiskTier::free_space(const std::vector<Operation>& operations) {
  if (!operations.empty()) KVSTORE_FAILPOINT("free.after-commit");
  uint64_t freed_bytes = 0;
  for (const Operation& operation : operations) {
    if (operation.frees && !operation.keep_space) {
      freed_bytes += ExtentAllocator::rounded(operation.frees->length);
      index_.release(*operation.frees);
    }
    if (operation.undoes) {
      freed_bytes += ExtentAllocator::rounded(operation.undoes->length);
      index_.abort(*operation.undoes);
    }
  }
  {
    const std::lock_guard lock(mutex_);
    freeing_bytes_ -= freed_bytes;
    operations_done_ += operations.size();
  }
  changed_.notify_all();
}

}  // namespace kvstore
