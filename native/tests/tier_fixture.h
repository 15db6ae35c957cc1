// A tiered store on disks in memory and catalogs in memory, which can crash, lose power and start again.
//
// The bytes of a block follow from its number and version, and say so: a reader knows whose bytes it got. Two rules of
// the order of writes are watched in every test: no row is committed before the bytes it names were synced, and nothing
// is written over bytes that a row still names.
#pragma once

#include <future>
#include <map>
#include <optional>
#include <string>

#include "base/checksum.h"
#include "block_store_fixture.h"
#include "check.h"
#include "fake_disk.h"
#include "store/tiered_store.h"

namespace kvstore::test {

using std::chrono::milliseconds;

inline constexpr milliseconds kLongWait{20'000};  // no test is meant to wait so long

// A disk's catalog: what a power loss leaves. A commit that was handed out and not acknowledged may be in it or not.
class MemoryCatalog {
 public:
  using Rows = std::map<std::string, std::string>;
  struct ByBytes {
    bool operator()(const Key& a, const Key& b) const { return a.bytes < b.bytes; }
  };
  using Blocks = std::map<Key, BlockRow, ByBytes>;
  enum class Fault { kNone, kNotApplied, kAppliedAllTheSame };

  [[nodiscard]] Rows rows() const {
    const std::lock_guard lock(mutex_);
    return rows_;
  }
  [[nodiscard]] size_t size() const { return rows().size(); }
  // The rows of blocks, decoded.
  [[nodiscard]] Blocks blocks() const {
    Blocks blocks;
    for (const auto& [key, value] : rows()) {
      if (const std::optional<BlockRow> row = decode_block(key, value)) blocks[row->key] = *row;
    }
    return blocks;
  }
  [[nodiscard]] bool has(uint64_t number) const { return rows().contains(catalog_key_of_block(key_of(number))); }
  // Whether a row names a byte of the range.
  [[nodiscard]] bool names(uint64_t offset, uint64_t bytes) const {
    const std::lock_guard lock(mutex_);
    const auto next = extents_.lower_bound(offset);
    if (next != extents_.end() && next->first < offset + bytes) return true;
    return next != extents_.begin() && std::prev(next)->first + std::prev(next)->second > offset;
  }

  void apply(const Commit& commit) {
    const std::lock_guard lock(mutex_);
    for (const CatalogOperation& operation : commit.operations) set(operation);
  }
  void erase(const std::string& key) {
    const std::lock_guard lock(mutex_);
    set({key, std::nullopt});
  }
  void fail_with(Fault fault) { fault_ = fault; }
  [[nodiscard]] Fault fault() const { return fault_; }

 private:
  void set(const CatalogOperation& operation) {
    const auto old = rows_.find(operation.key);
    if (old != rows_.end()) {
      if (const std::optional<BlockRow> row = decode_block(operation.key, old->second)) extents_.erase(row->offset);
      rows_.erase(old);
    }
    if (!operation.value) return;
    rows_[operation.key] = *operation.value;
    if (const std::optional<BlockRow> row = decode_block(operation.key, *operation.value)) {
      extents_[row->offset] = ExtentAllocator::rounded(row->length);
    }
  }

  mutable std::mutex mutex_;
  Rows rows_;
  std::map<uint64_t, uint64_t> extents_;  // offset and bytes of what rows name
  std::atomic<Fault> fault_{Fault::kNone};
};

// Watches the order of what is asked of a disk and its catalog.
class WatchedDisk final : public Disk {
 public:
  WatchedDisk(uint64_t capacity_bytes, std::vector<DiskRange> reserved) : memory(capacity_bytes, std::move(reserved)) {}

  void read(uint64_t offset, std::byte* data, uint32_t bytes, Done done) override {
    memory.read(offset, data, bytes, std::move(done));
  }
  void write(uint64_t offset, const std::byte* data, uint32_t bytes, Done done) override {
    if (catalog.names(offset, bytes)) ++overwritten;
    {
      const std::lock_guard lock(mutex_);
      unsynced_[offset] = UINT64_MAX;
    }
    memory.write(offset, data, bytes, [this, offset, done = std::move(done)](int error) {
      {
        const std::lock_guard lock(mutex_);
        if (error == 0) unsynced_[offset] = ++clock_;
      }
      done(error);
    });
  }
  [[nodiscard]] int sync() override {
    uint64_t now;
    {
      const std::lock_guard lock(mutex_);
      now = clock_;
    }
    const int error = memory.sync();
    const std::lock_guard lock(mutex_);
    // What a sync that fails should have saved is never saved by a later one.
    for (auto& [offset, written] : unsynced_) {
      if (error != 0) written = UINT64_MAX;
    }
    if (error == 0) std::erase_if(unsynced_, [&](const auto& write) { return write.second <= now; });
    return error;
  }
  [[nodiscard]] uint64_t capacity_bytes() const override { return memory.capacity_bytes(); }
  [[nodiscard]] std::vector<DiskRange> reserved() const override { return memory.reserved(); }

  // Brings a commit into the catalog.
  void commit(const Commit& commit) {
    catalog.apply(commit);
    const std::lock_guard lock(mutex_);
    for (const CatalogOperation& operation : commit.operations) {
      if (!operation.value) continue;
      const std::optional<BlockRow> row = decode_block(operation.key, *operation.value);
      if (row && unsynced_.contains(row->offset)) ++committed_unsynced;
    }
  }
  void forget_unsynced() {
    const std::lock_guard lock(mutex_);
    unsynced_.clear();
  }
  void check_order() const {
    CHECK_EQ(overwritten.load(), 0u);
    CHECK_EQ(committed_unsynced.load(), 0u);
  }

  MemoryCatalog catalog;
  std::atomic<uint64_t> overwritten{0};
  std::atomic<uint64_t> committed_unsynced{0};

 private:
  std::mutex mutex_;
  uint64_t clock_ = 0;
  std::map<uint64_t, uint64_t> unsynced_;  // offset of a write, and when it was done

 public:
  MemoryDisk memory;  // last: its thread ends before the rest
};

struct TierOptions {
  uint64_t arena_bytes = 4ull << 20;
  std::vector<uint64_t> disk_bytes{32ull << 20};
  std::vector<DiskRange> reserved{};
  TieredStoreOptions store{.max_block_bytes = 1ull << 20, .disk = {.commit_interval = milliseconds(0)}};
  bool commits_by_itself = true;  // else the test calls `commit`
};

// Between one granule less a bit and `granules` granules.
inline uint32_t length_of(uint64_t number, uint32_t granules = 16) {
  return static_cast<uint32_t>(1000 + mixed(number) % (granules * kGranule - 1000));
}

inline void fill(std::byte* bytes, uint32_t length, uint64_t number, uint64_t version) {
  const uint64_t head[2] = {number, version};
  std::memcpy(bytes, head, sizeof(head));
  uint64_t word = mixed(number ^ version << 40);
  for (uint32_t at = sizeof(head); at < length; at += 8) {
    word = word * 6364136223846793005 + 1442695040888963407;
    std::memcpy(bytes + at, &word, std::min<uint32_t>(8, length - at));
  }
}

// The version of the block whose bytes these are; fails when they are not this block's.
inline uint64_t version_in(const std::byte* bytes, uint32_t length, uint64_t number) {
  uint64_t head[2];
  std::memcpy(head, bytes, sizeof(head));
  CHECK_EQ(head[0], number);
  std::vector<std::byte> expected(length);
  fill(expected.data(), length, number, head[1]);
  CHECK(std::memcmp(expected.data(), bytes, length) == 0);
  return head[1];
}

class TierFixture {
 public:
  explicit TierFixture(TierOptions options = {}) : options_(std::move(options)) {
    for (const uint64_t bytes : options_.disk_bytes) {
      disks_.push_back(std::make_unique<WatchedDisk>(bytes, options_.reserved));
    }
    start();
  }
  ~TierFixture() noexcept(false) {
    const bool failed = std::uncaught_exceptions() > 0;
    try {
      end(0);
    } catch (const Failure&) {
      if (!failed) throw;  // else the first failure is the one to tell
    }
  }

  [[nodiscard]] TieredStore& store() { return *store_; }
  [[nodiscard]] DiskTier& tier(size_t number = 0) { return *store_->disks()[number]; }
  [[nodiscard]] WatchedDisk& disk(size_t number = 0) { return static_cast<WatchedDisk&>(*disks_[number]); }
  [[nodiscard]] MemoryCatalog& catalog(size_t number = 0) { return disk(number).catalog; }
  [[nodiscard]] size_t disks() const { return disks_.size(); }
  [[nodiscard]] ManualClock& clock() { return *clock_; }
  [[nodiscard]] Arena& arena() { return *arena_; }
  [[nodiscard]] uint64_t stat(const std::string& name) {
    for (const auto& [stat_name, value] : store_->stats()) {
      if (stat_name == name) return value;
    }
    throw Failure("no such counter: " + name);
  }

  // ---- verbs on one block

  Status put(uint64_t number, uint64_t version = 1, uint64_t ttl_ms = 0, bool durable = false) {
    Reservation reservation;
    const Status reserved = reserve(number, &reservation);
    return reserved == Status::kOk ? publish(reservation, number, version, ttl_ms, durable) : reserved;
  }
  Status reserve(uint64_t number, Reservation* reservation) {
    const uint32_t length = length_of(number);
    if (!store_->may_write(length)) return Status::kBusy;
    return store_->reserve(key_of(number), length, store_->next_stamp(), 0, reservation);
  }
  Status publish(const Reservation& reservation, uint64_t number, uint64_t version, uint64_t ttl_ms = 0,
                 bool durable = false) {
    std::byte* bytes = arena_->data() + reservation.offset;
    fill(bytes, reservation.length, number, version);
    return store_->publish(key_of(number), reservation, crc32c(bytes, reservation.length), ttl_ms, durable);
  }
  // As `put`, but waits for room.
  Status put_patiently(uint64_t number, uint64_t version = 1, uint64_t ttl_ms = 0, bool durable = false) {
    Status status = Status::kBusy;
    wait_until([&] { return (status = put(number, version, ttl_ms, durable)) != Status::kBusy; });
    return status;
  }
  // What has become of it, as a session that waits for it learns.
  Status durable(uint64_t number) {
    Status status = Status::kBusy;
    wait_until([&] { return (status = store_->make_durable(key_of(number))) != Status::kBusy; });
    return status;
  }
  Status put_durable(uint64_t number, uint64_t version = 1, uint64_t ttl_ms = 0) {
    const Status status = put_patiently(number, version, ttl_ms, true);
    return status == Status::kOk || status == Status::kExists ? durable(number) : status;
  }
  // The version that a reader gets, having checked every byte; nullopt: a miss.
  std::optional<uint64_t> get(uint64_t number, Status* status = nullptr) {
    const Key key = key_of(number);
    Lease lease;
    Status found = Status::kMiss;
    store_->acquire({&key, 1}, store_->next_stamp(), 0, {&lease, 1}, {&found, 1});
    if (found == Status::kMiss) found = fetch(number, &lease);
    if (status != nullptr) *status = found;
    return found == Status::kOk ? std::optional(verify_and_release(number, lease)) : std::nullopt;
  }
  uint64_t verify_and_release(uint64_t number, const Lease& lease) {
    CHECK_EQ(lease.length, length_of(number));
    const uint64_t version = version_in(arena_->data() + lease.offset, lease.length, number);
    store_->release(lease);
    return version;
  }
  // A cold read and its end.
  Status fetch(uint64_t number, Lease* lease) {
    std::future<std::pair<Status, Lease>> fetched;
    const Status started = start_fetch(number, &fetched);
    if (started != Status::kOk) return started;
    CHECK(fetched.wait_for(kLongWait) == std::future_status::ready);
    const auto [status, fetched_lease] = fetched.get();
    *lease = fetched_lease;
    return status;
  }
  Status start_fetch(uint64_t number, std::future<std::pair<Status, Lease>>* fetched) {
    auto promise = std::make_shared<std::promise<std::pair<Status, Lease>>>();
    *fetched = promise->get_future();
    uint32_t length = 0;
    return store_->fetch(key_of(number), store_->next_stamp(), 0, 0, &length,
                         [promise](Status status, const Lease& lease) { promise->set_value({status, lease}); });
  }
  bool contains(uint64_t number) {
    const Key key = key_of(number);
    Status status = Status::kMiss;
    store_->contains({&key, 1}, {&status, 1});
    return status == Status::kOk;
  }
  bool in_dram(uint64_t number) {
    BlockInfo info;
    return store_->dram().find(key_of(number), &info);
  }
  bool on_disk(uint64_t number) {
    BlockInfo info;
    return std::ranges::any_of(store_->disks(),
                               [&](const auto& tier) { return tier->index().find(key_of(number), &info); });
  }
  Status erase(uint64_t number) {
    const Key key = key_of(number);
    Status status = Status::kMiss;
    store_->erase({&key, 1}, {&status, 1});
    return status;
  }
  Status touch(uint64_t number, uint64_t ttl_ms) {
    const Key key = key_of(number);
    Status status = Status::kMiss;
    store_->touch({&key, 1}, store_->next_stamp(), 0, ttl_ms, {&status, 1});
    return status;
  }
  bool flush(milliseconds timeout = kLongWait) { return store_->flush(timeout); }
  // What is on disk goes; a thread that has just brought it there may be about to let go of it.
  void evict_dram() {
    wait_until([&] { return store_->dram().stats().leases == 0; });
    store_->evict(options_.arena_bytes);
  }

  // Waits for what other threads bring about.
  template <class Condition>
  static void wait_until(Condition condition) {
    const auto until = std::chrono::steady_clock::now() + kLongWait;
    while (!condition()) {
      CHECK(std::chrono::steady_clock::now() < until);
      std::this_thread::sleep_for(std::chrono::microseconds(200));
    }
  }

  // ---- the catalog, step by step

  // Takes one commit to its end. False when there is none to take.
  bool commit(size_t number = 0, const std::string& error = "") {
    const std::optional<Commit> commit = take_commit(number);
    if (!commit) return false;
    finish(*commit, number, error);
    return true;
  }
  std::optional<Commit> take_commit(size_t number = 0) {
    tier(number).hurry();
    return tier(number).next_commit(milliseconds(0));
  }
  void finish(const Commit& commit, size_t number = 0, const std::string& error = "") {
    if (error.empty()) disk(number).commit(commit);
    tier(number).finish_commit(commit.id, error.empty(), error);
  }
  // Commits until nothing is on its way any more.
  void commit_all(size_t number = 0) {
    wait_until([&] {
      const bool committed = commit(number);
      return !committed && stat("write_queue_blocks") == 0;
    });
  }

  // ---- the end and the beginning

  // The process ends here and now. With `power_seed` the machine goes with it.
  void crash(uint64_t power_seed = 0) {
    end(power_seed);
    start();
  }
  void end(uint64_t power_seed) {
    if (store_ == nullptr) return;
    crashed_ = true;
    for (std::thread& thread : committers_) thread.join();
    committers_.clear();
    for (size_t number = 0; number < disks(); ++number) disk(number).memory.release();
    store_.reset();
    for (size_t number = 0; number < disks(); ++number) {
      disk(number).memory.heal();
      disk(number).catalog.fail_with(MemoryCatalog::Fault::kNone);
      if (power_seed != 0) disk(number).memory.lose_power(power_seed + number);
      disk(number).forget_unsynced();
      disk(number).check_order();
    }
  }
  void start() {
    const uint64_t unix_ms = clock_ ? clock_->unix_ms() : 1'700'000'000'000;
    clock_ = std::make_unique<ManualClock>(unix_ms);
    arena_ = std::make_unique<Arena>(options_.arena_bytes);
    store_ = std::make_unique<TieredStore>(arena_->data(), arena_->bytes(), disks_, *clock_, options_.store);
    unusable.clear();
    for (size_t number = 0; number < disks(); ++number) {
      for (const auto& [key, value] : catalog(number).rows()) tier(number).recover(key, value);
    }
    for (size_t number = 0; number < disks(); ++number) {
      for (const UnusableRow& row : tier(number).finish_recovery({})) {
        unusable.emplace_back(row.why);
        catalog(number).erase(row.key);
      }
    }
    store_->start();
    crashed_ = false;
    if (!options_.commits_by_itself) return;
    for (size_t number = 0; number < disks(); ++number)
      committers_.emplace_back([this, number] { commit_loop(number); });
  }

  // Nothing under way: every index is consistent, the space is accounted for to the byte, and the catalogs say what the
  // indexes say. Needs a `flush` before.
  void check_idle() {
    wait_until([&] { return store_->dram().stats().leases == 0; });  // a thread may be about to give one back
    CHECK(store_->dram().consistent());
    CHECK_EQ(store_->dram().stats().reserved_bytes, 0u);
    CHECK_EQ(stat("write_queue_bytes"), 0u);
    for (size_t number = 0; number < disks(); ++number) check_disk_idle(number);
  }

  std::vector<std::string> unusable;  // why, of the rows that the last start refused

 private:
  void commit_loop(size_t number) {
    uint64_t state = number + 1;
    while (!crashed_) {
      const std::optional<Commit> commit = tier(number).next_commit(milliseconds(2));
      if (!commit) continue;
      state = mixed(state);
      if (crashed_) {  // handed out and never acknowledged
        if (state % 2 == 0) disk(number).commit(*commit);
        return;
      }
      const MemoryCatalog::Fault fault = catalog(number).fault();
      if (fault != MemoryCatalog::Fault::kNotApplied) disk(number).commit(*commit);
      const bool failed = fault != MemoryCatalog::Fault::kNone;
      tier(number).finish_commit(commit->id, !failed, failed ? "the catalog has no room" : "");
    }
  }

  void check_disk_idle(size_t number) {
    const BlockStore& index = tier(number).index();
    const MemoryCatalog::Blocks rows = catalog(number).blocks();
    CHECK(index.consistent());
    const StoreStats stats = index.stats();
    CHECK_EQ(stats.reserved_bytes, 0u);
    const uint64_t quarantined_bytes = tier(number).counters().quarantined_bytes;
    CHECK_EQ(stats.leased_bytes, quarantined_bytes);
    uint64_t bytes = quarantined_bytes;
    for (const DiskRange& range : disk(number).reserved()) bytes += range.bytes;
    std::vector<Key> keys;
    for (uint32_t shard = 0; shard < index.shards(); ++shard) index.keys_of_shard(shard, &keys);
    for (const Key& key : keys) {
      Lease lease;
      if (!tier(number).index().hold(key, &lease)) continue;  // it has expired, and went now
      tier(number).index().release(lease);
      bytes += ExtentAllocator::rounded(lease.length);
      const auto row = rows.find(key);
      CHECK(row != rows.end());
      CHECK_EQ(row->second.offset, lease.offset);
      CHECK_EQ(row->second.length, lease.length);
      CHECK_EQ(row->second.crc, lease.crc);
      const bool never = lease.expires_ms == kNever;
      CHECK_EQ(row->second.expires_unix_ms, never ? kNever : clock_->unix_ms() + lease.expires_ms - clock_->now_ms());
    }
    if (keys.size() == index.stats().blocks) {  // none has expired just now
      CHECK_EQ(rows.size(), keys.size());
      CHECK_EQ(bytes, stats.used_bytes);
    }
  }

  const TierOptions options_;
  std::unique_ptr<ManualClock> clock_;
  std::vector<std::unique_ptr<Disk>> disks_;
  std::unique_ptr<Arena> arena_;
  std::unique_ptr<TieredStore> store_;
  std::atomic<bool> crashed_{false};
  std::vector<std::thread> committers_;
};

}  // namespace kvstore::test
