#include "store/tiered_store.h"

#include <algorithm>

namespace kvstore {

namespace {

// `match` looks past what DRAM has in steps of so many keys.
constexpr size_t kMatchStep = 256;

constexpr uint64_t kPinSweepMs = 1'000;

// One timeout for several waits in a row.
class Deadline {
 public:
  explicit Deadline(std::chrono::milliseconds timeout) : until_(std::chrono::steady_clock::now() + timeout) {}

  [[nodiscard]] std::chrono::milliseconds left() const {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(until_ - std::chrono::steady_clock::now());
    return std::max(left, std::chrono::milliseconds(0));
  }

 private:
  const std::chrono::steady_clock::time_point until_;
};

// What one of several places says of a batch's blocks, put to what the others have said: kOk wins.
void add_ok(std::span<const Status> here, std::span<Status> statuses) {
  for (size_t i = 0; i < here.size(); ++i) {
    if (here[i] == Status::kOk) statuses[i] = Status::kOk;
  }
}

// Of the tier that keeps blocks longest.
uint64_t capacity_of_longest(uint64_t arena_bytes, std::span<const std::unique_ptr<Disk>> disks) {
  uint64_t bytes = 0;
  for (const auto& disk : disks) bytes += disk->capacity_bytes();
  return disks.empty() ? arena_bytes : bytes;
}

}  // namespace

TieredStore::TieredStore(std::byte* arena, uint64_t arena_bytes, std::span<const std::unique_ptr<Disk>> disks,
                         const Clock& clock, TieredStoreOptions options)
    : options_(options),
      clock_(clock),
      dirty_bytes_max_(arena_bytes / 2),
      dram_(arena_bytes, {.max_block_bytes = options.max_block_bytes}, clock, stamps_, make_reuse_policy()),
      queue_(dram_, clock),
      cold_(arena, dram_, disks_),
      pins_(clock, capacity_of_longest(arena_bytes, disks) / 100 * options.pin_share_percent) {
  options.disk.max_block_bytes = options.max_block_bytes;
  for (const auto& disk : disks) {
    disks_.push_back(
        std::make_unique<DiskTier>(*disk, arena, dram_, queue_, clock, stamps_, make_reuse_policy(), options.disk));
    disks_.back()->on_healed([this] {
      if (options_.admission == Admission::kEager) save_all();
    });
    durable_bytes_max_ = std::min(durable_bytes_max_, disks_.back()->largest_block_bytes());
  }
}

TieredStore::~TieredStore() { stop(); }

void TieredStore::start() {
  DiskTier::end_recovery(disks_);
  for (const auto& disk : disks_) {
    for (const PinRow& row : disk->take_recovered_pins()) pins_.restore(*disk, row);
    disk->start();
  }
}

void TieredStore::stop() {
  queue_.close();
  cold_.drain();
  for (const auto& disk : disks_) disk->stop();
}

void TieredStore::on_durable(std::function<void(const Key&)> listener) {
  for (const auto& disk : disks_) disk->on_durable(listener);
}

void TieredStore::on_room(const std::function<void()>& listener) {
  for (const auto& disk : disks_) disk->on_room(listener);
}

uint64_t TieredStore::overflow_bytes() const {
  uint64_t bytes = 0;
  for (const auto& disk : disks_) bytes += disk->disk().capacity_bytes();
  return options_.admission == Admission::kEager ? bytes : 0;
}

bool TieredStore::any_healthy() const {
  return std::ranges::any_of(disks_, [](const auto& disk) { return disk->healthy(); });
}

bool TieredStore::on_disk(const Key& key) const {
  BlockInfo info;
  return find_on_disk(key, &info);
}

// ---- readers

void TieredStore::acquire(std::span<const Key> keys, Stamp stamp, uint32_t first_depth, std::span<Lease> leases,
                          std::span<Status> statuses) {
  dram_.acquire(keys, stamp, first_depth, leases, statuses);
  if (!has_disks()) return;
  for (size_t start = 0; start < keys.size();) {
    const auto is_hit = [&](size_t i) { return statuses[i] == Status::kOk; };
    size_t end = start;
    while (end < keys.size() && is_hit(end)) ++end;
    if (end > start) on_reuse(keys.subspan(start, end - start), stamp, first_depth + static_cast<uint32_t>(start));
    start = end + 1;
  }
}

Status TieredStore::fetch(const Key& key, Stamp stamp, uint32_t depth, uint32_t length, uint32_t* found_length,
                          FetchDone done) {
  if (!has_disks()) return Status::kMiss;
  return cold_.fetch(key, stamp, depth, length, found_length, std::move(done));
}

uint32_t TieredStore::match(std::span<const Key> keys, Stamp stamp, uint32_t first_depth) {
  uint32_t matched = dram_.match(keys, stamp, first_depth);
  if (!has_disks()) return matched;
  if (matched > 0) on_reuse(keys.first(matched), stamp, first_depth);
  std::vector<Status> statuses;
  while (matched < keys.size()) {
    const auto step = keys.subspan(matched, std::min(kMatchStep, keys.size() - matched));
    statuses.resize(step.size());
    contains(step, statuses);
    const auto present = static_cast<uint32_t>(
        std::ranges::find_if(statuses, [](Status s) { return s != Status::kOk; }) - statuses.begin());
    const auto found = step.first(present);
    const std::span<Status> touched = std::span(statuses).first(present);
    dram_.touch(found, stamp, first_depth + matched, BlockStore::kKeepExpiry, touched);
    touch_disks(found, stamp, first_depth + matched);
    matched += present;
    if (present < step.size()) break;
  }
  return matched;
}

void TieredStore::contains(std::span<const Key> keys, std::span<Status> statuses) const {
  dram_.contains(keys, statuses);
  for (const auto& disk : disks_) {
    if (std::ranges::find(statuses, Status::kMiss) == statuses.end()) return;
    std::vector<Status> here(keys.size());
    disk->index().contains(keys, here);
    add_ok(here, statuses);
  }
}

bool TieredStore::find(const Key& key, BlockInfo* info) const {
  if (dram_.find(key, info)) return true;
  return find_on_disk(key, info);
}

bool TieredStore::find_on_disk(const Key& key, BlockInfo* info) const {
  return std::ranges::any_of(disks_, [&](const auto& disk) { return disk->index().find(key, info); });
}

void TieredStore::touch_disks(std::span<const Key> keys, Stamp stamp, uint32_t first_depth) {
  std::vector<Status> statuses(keys.size());
  for (const auto& disk : disks_) disk->index().touch(keys, stamp, first_depth, BlockStore::kKeepExpiry, statuses);
}

// What DRAM served ages on disk as well; a block that waited for its first reuse goes there now.
void TieredStore::on_reuse(std::span<const Key> keys, Stamp stamp, uint32_t first_depth) {
  touch_disks(keys, stamp, first_depth);
  if (options_.admission != Admission::kAfterFirstReuse) return;
  for (size_t i = 0; i < keys.size(); ++i) save(keys[i], first_depth + static_cast<uint32_t>(i), stamp);
}

// ---- writers

bool TieredStore::may_write(uint64_t bytes) const {
  const uint64_t dirty = dirty_bytes();
  return !any_healthy() || dirty == 0 || dirty + bytes <= dirty_bytes_max_;
}

Status TieredStore::publish(const Key& key, const Reservation& reservation, uint32_t crc, uint64_t ttl_ms,
                            bool durable) {
  // A writer that began before another one's block went to disk, and from DRAM, learns of it here.
  BlockInfo first;
  if (find_on_disk(key, &first)) return give_up(reservation, crc, first);
  const bool wanted = durable || options_.admission == Admission::kEager;
  if (!wanted || !can_save(reservation.length)) {
    const Status status = dram_.publish(reservation, crc, ttl_ms);
    unsaved_ = true;
    // The disk may have healed since the look above, and before the block and the mark were there to be found.
    if (wanted && status == Status::kOk) save(key, reservation.depth, reservation.stamp);
    return status;
  }
  Lease lease;
  const Status status = dram_.publish_until(reservation, crc, dram_.expiry_ms(ttl_ms), &lease);
  if (status == Status::kExists) dram_.release(lease);
  if (status == Status::kOk) send_to_disk(key, lease, reservation.depth, reservation.stamp);
  return status;
}

void TieredStore::send_to_disk(const Key& key, const Lease& lease, uint32_t depth, Stamp stamp) {
  if (!queue_.push({key, lease, depth, stamp})) dram_.release(lease);
}

bool TieredStore::can_save(uint32_t length) const { return any_healthy() && length <= durable_bytes_max_; }

Status TieredStore::give_up(const Reservation& reservation, uint32_t crc, const BlockInfo& first) {
  const bool same = first.length == reservation.length && first.crc == crc;
  dram_.withdraw(reservation);
  same ? dram_.count_exists() : dram_.count_conflict();
  return same ? Status::kExists : Status::kConflict;
}

bool TieredStore::save(const Key& key, uint32_t depth, Stamp stamp) {
  if (!any_healthy() || queue_.contains(key) || on_disk(key)) return false;
  Lease lease;
  if (!dram_.hold(key, &lease)) return false;
  if (lease.length > durable_bytes_max_) {
    dram_.release(lease);
    return false;
  }
  send_to_disk(key, lease, depth, stamp);
  return true;
}

Status TieredStore::make_durable(const Key& key) {
  if (on_disk(key)) return Status::kOk;
  if (!has_disks() || !any_healthy()) return Status::kNotDurable;
  const bool on_its_way = queue_.contains(key) || save(key, 0, next_stamp());
  if (!on_its_way) return on_disk(key) ? Status::kOk : Status::kNotDurable;
  for (const auto& disk : disks_) disk->hurry();
  return Status::kBusy;
}

void TieredStore::save_all() {
  // Who finds nothing to do has seen the end of the walk of whoever did it.
  const std::lock_guard lock(save_mutex_);
  if (!any_healthy() || !unsaved_.exchange(false)) return;
  std::vector<Key> keys;
  for (uint32_t shard = 0; shard < dram_.shards(); ++shard) {
    keys.clear();
    dram_.keys_of_shard(shard, &keys);
    for (const Key& key : keys) save(key, 0, next_stamp());
  }
  if (!any_healthy()) unsaved_ = true;
}

bool TieredStore::flush(std::chrono::milliseconds timeout) {
  if (!has_disks()) return false;
  const Deadline deadline(timeout);
  save_all();
  for (const auto& disk : disks_) disk->hurry();
  if (!any_healthy() || !queue_.wait_settled(deadline.left())) return false;
  return std::ranges::all_of(disks_, [&](const auto& disk) { return disk->wait_committed(deadline.left()); });
}

void TieredStore::pin(std::span<const Key> keys, const std::string& owner, uint64_t ttl_ms,
                      std::chrono::milliseconds timeout, std::span<Status> statuses) {
  const Deadline deadline(timeout);
  if (ttl_ms == 0) {
    for (size_t i = 0; i < keys.size(); ++i) statuses[i] = pins_.unpin(keys[i], owner);
  } else {
    // All are sent to disk before the first is waited for.
    if (has_disks()) {
      for (const Key& key : keys) (void)make_durable(key);
      (void)queue_.wait_settled(deadline.left());
    }
    const uint64_t expires_ms = dram_.expiry_ms(ttl_ms);
    for (size_t i = 0; i < keys.size(); ++i) statuses[i] = pin_one(keys[i], owner, expires_ms);
  }
  for (const auto& disk : disks_) {
    if (disk->wait_committed(deadline.left())) continue;
    std::ranges::replace(statuses, Status::kOk, Status::kNotDurable);
  }
}

Status TieredStore::pin_one(const Key& key, const std::string& owner, uint64_t expires_ms) {
  if (!has_disks()) return pins_.pin(dram_, nullptr, key, owner, expires_ms);
  for (const auto& disk : disks_) {
    const Status status = pins_.pin(disk->index(), disk.get(), key, owner, expires_ms);
    if (status != Status::kMiss) return status;
  }
  Status in_dram = Status::kMiss;
  dram_.contains({&key, 1}, {&in_dram, 1});
  return in_dram == Status::kOk ? Status::kNotDurable : Status::kMiss;
}

// ---- upkeep

void TieredStore::touch(std::span<const Key> keys, Stamp stamp, uint32_t first_depth, uint64_t ttl_ms,
                        std::span<Status> statuses) {
  dram_.touch(keys, stamp, first_depth, ttl_ms, statuses);
  std::vector<Status> here(keys.size());
  for (const auto& disk : disks_) {
    disk->index().touch(keys, stamp, first_depth, ttl_ms, here);
    add_ok(here, statuses);
  }
}

// In this order nothing can bring the block back: a read that has not been cancelled by then starts too late to find
// the block on disk, and one that ended before brought it to DRAM, from where it goes now; so with writes, the other
// way.
void TieredStore::erase(std::span<const Key> keys, std::span<Status> statuses) {
  pins_.drop(keys);
  if (!has_disks()) return dram_.erase(keys, statuses);
  std::vector<Status> on_disks(keys.size(), Status::kMiss);
  erase_on_disks(keys, on_disks);
  for (const Key& key : keys) cold_.cancel(key);
  dram_.erase(keys, statuses);
  for (const Key& key : keys) queue_.cancel(key);
  erase_on_disks(keys, on_disks);
  add_ok(on_disks, statuses);
}

void TieredStore::erase_on_disks(std::span<const Key> keys, std::span<Status> statuses) {
  std::vector<Status> here(keys.size());
  for (const auto& disk : disks_) {
    disk->index().erase(keys, here);
    add_ok(here, statuses);
  }
}

void TieredStore::quarantine(const Key& key, uint32_t crc) {
  dram_.quarantine(key, crc);
  queue_.cancel(key);
}

void TieredStore::sweep_expired(uint32_t limit) {
  dram_.sweep_expired(limit);
  for (const auto& disk : disks_) disk->index().sweep_expired(limit);
  const uint64_t now_ms = clock_.now_ms();
  uint64_t swept_ms = pins_swept_ms_.load();
  if (now_ms < swept_ms + kPinSweepMs || !pins_swept_ms_.compare_exchange_strong(swept_ms, now_ms)) return;
  pins_.sweep();
}

}  // namespace kvstore
