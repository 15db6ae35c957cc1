// A disk in memory that fails, stalls, lies and loses power when a test tells it to.
//
// What it keeps beside the live bytes is what a power loss would leave: the bytes of the last sync that succeeded.
// Operations end one after another, on a thread of its own, in the order in which they were asked for. Thread-safe.
#pragma once

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <mutex>
#include <random>
#include <set>
#include <thread>
#include <utility>
#include <vector>

#include "base/assert.h"
#include "disk/disk.h"

namespace kvstore::test {

enum class DiskVerb { kRead, kWrite, kSync };

class MemoryDisk final : public Disk {
 public:
  explicit MemoryDisk(uint64_t capacity_bytes, std::vector<DiskRange> reserved = {})
      : reserved_(std::move(reserved)), live_(capacity_bytes), durable_(capacity_bytes) {
    KVSTORE_ASSERT(capacity_bytes % kDiskGranuleBytes == 0);
    thread_ = std::thread([this] { serve(); });
  }
  // Ends what is held, too.
  ~MemoryDisk() override {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
      held_ = false;
    }
    changed_.notify_all();
    thread_.join();
  }

  // ---- the disk

  void read(uint64_t offset, std::byte* data, uint32_t bytes, Done done) override {
    push({DiskVerb::kRead, offset, data, bytes, std::move(done)});
  }
  void write(uint64_t offset, const std::byte* data, uint32_t bytes, Done done) override {
    push({DiskVerb::kWrite, offset, const_cast<std::byte*>(data), bytes, std::move(done)});
  }
  // What is unsynced when it fails stays so whatever later calls answer, until it is written again: as with a real
  // disk.
  [[nodiscard]] int sync() override {
    const std::lock_guard lock(mutex_);
    if (const int error = faults_[2].next(); error != 0) {
      doubtful_.merge(unsynced_);
      unsynced_.clear();
      return error;
    }
    for (const uint64_t granule : unsynced_) copy_granule(live_, granule, &durable_);
    unsynced_.clear();
    ++syncs_;
    return 0;
  }
  [[nodiscard]] uint64_t capacity_bytes() const override { return live_.size(); }
  [[nodiscard]] std::vector<DiskRange> reserved() const override { return reserved_; }

  // ---- faults

  // The next `count` operations of this kind end with `error` and do nothing.
  void fail_next(DiskVerb verb, uint32_t count, int error) {
    const std::lock_guard lock(mutex_);
    faults_[static_cast<size_t>(verb)] = {error, count};
  }
  // All of them, until `heal`.
  void fail_all(DiskVerb verb, int error) { fail_next(verb, UINT32_MAX, error); }
  void heal() {
    const std::lock_guard lock(mutex_);
    for (Fault& fault : faults_) fault = {};
  }
  // Reads and writes take this long each.
  void delay(std::chrono::milliseconds delay) {
    const std::lock_guard lock(mutex_);
    delay_ = delay;
  }
  // Reads and writes do not end any more, until `release`.
  void hold() { set_held(true); }
  void release() { set_held(false); }
  // For good: on the medium.
  void flip_bit(uint64_t offset, int bit) {
    const std::lock_guard lock(mutex_);
    live_[offset] ^= std::byte{1} << bit;
    durable_[offset] ^= std::byte{1} << bit;
  }
  // What has not ended yet ends with EIO. Each granule written since it was last synced turns out old, new or torn
  // (sectors of either kind), as the seed decides. The disk then works on with these bytes, as after a restart.
  void lose_power(uint64_t seed) {
    std::deque<Request> cut_off;
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [this] { return !busy_; });
      std::swap(cut_off, requests_);
      for (const Request& request : cut_off) {
        if (request.verb == DiskVerb::kWrite) apply_write(request);
      }
      unsynced_.merge(doubtful_);
      doubtful_.clear();
      std::mt19937_64 random(seed);
      for (const uint64_t granule : unsynced_) settle_granule(granule, random);
      unsynced_.clear();
      durable_ = live_;
    }
    for (const Request& request : cut_off) request.done(EIO);
  }

  // ---- what happened

  [[nodiscard]] uint64_t reads() const { return count(&MemoryDisk::reads_); }  // ended well
  [[nodiscard]] uint64_t writes() const { return count(&MemoryDisk::writes_); }
  [[nodiscard]] uint64_t syncs() const { return count(&MemoryDisk::syncs_); }
  // Asked for and not ended.
  [[nodiscard]] size_t waiting() const {
    const std::lock_guard lock(mutex_);
    return requests_.size() + (busy_ ? 1 : 0);
  }

 private:
  static constexpr uint64_t kSectorBytes = 512;

  struct Request {
    DiskVerb verb{};
    uint64_t offset = 0;
    std::byte* data = nullptr;
    uint32_t bytes = 0;
    Done done;
  };
  struct Fault {
    int error = 0;
    uint32_t left = 0;
    int next() {
      if (left == 0) return 0;
      if (left != UINT32_MAX) --left;
      return error;
    }
  };

  void push(Request request) {
    KVSTORE_ASSERT(request.offset % kDiskGranuleBytes == 0 && request.bytes % kDiskGranuleBytes == 0);
    KVSTORE_ASSERT(request.bytes > 0 && reinterpret_cast<uintptr_t>(request.data) % kDiskGranuleBytes == 0);
    KVSTORE_ASSERT(request.offset < live_.size() && request.bytes <= live_.size() - request.offset);
    for (const DiskRange& range : reserved_) {
      KVSTORE_ASSERT(request.offset + request.bytes <= range.offset || range.offset + range.bytes <= request.offset);
    }
    {
      const std::lock_guard lock(mutex_);
      requests_.push_back(std::move(request));
    }
    changed_.notify_all();
  }

  void serve() {
    std::unique_lock lock(mutex_);
    while (true) {
      changed_.wait(lock, [this] { return (!held_ && !requests_.empty()) || (stopping_ && requests_.empty()); });
      if (requests_.empty()) return;
      const Request request = std::move(requests_.front());
      requests_.pop_front();
      busy_ = true;
      changed_.wait_for(lock, delay_, [this] { return stopping_; });
      const int error = execute(request);
      lock.unlock();
      request.done(error);
      lock.lock();
      busy_ = false;
      changed_.notify_all();
    }
  }

  int execute(const Request& request) {
    if (const int error = faults_[static_cast<size_t>(request.verb)].next(); error != 0) return error;
    if (request.verb == DiskVerb::kRead) {
      std::memcpy(request.data, live_.data() + request.offset, request.bytes);
      ++reads_;
    } else {
      apply_write(request);
      ++writes_;
    }
    return 0;
  }

  void apply_write(const Request& request) {
    std::memcpy(live_.data() + request.offset, request.data, request.bytes);
    const uint64_t first = request.offset / kDiskGranuleBytes;
    for (uint64_t granule = first; granule < first + request.bytes / kDiskGranuleBytes; ++granule) {
      doubtful_.erase(granule);
      unsynced_.insert(granule);
    }
  }

  void settle_granule(uint64_t granule, std::mt19937_64& random) {
    switch (random() % 3) {
      case 0:
        return copy_granule(durable_, granule, &live_);
      case 1:
        return;
      default:
        for (uint64_t at = 0; at < kDiskGranuleBytes; at += kSectorBytes) {
          if (random() % 2 == 0) continue;
          const uint64_t offset = granule * kDiskGranuleBytes + at;
          std::memcpy(live_.data() + offset, durable_.data() + offset, kSectorBytes);
        }
    }
  }

  static void copy_granule(const std::vector<std::byte>& from, uint64_t granule, std::vector<std::byte>* to) {
    const uint64_t offset = granule * kDiskGranuleBytes;
    std::memcpy(to->data() + offset, from.data() + offset, kDiskGranuleBytes);
  }

  void set_held(bool held) {
    {
      const std::lock_guard lock(mutex_);
      held_ = held;
    }
    changed_.notify_all();
  }

  uint64_t count(uint64_t MemoryDisk::* counter) const {
    const std::lock_guard lock(mutex_);
    return this->*counter;
  }

  const std::vector<DiskRange> reserved_;
  mutable std::mutex mutex_;  // guards all that follows
  std::condition_variable changed_;
  std::deque<Request> requests_;
  bool busy_ = false;  // one is being carried out
  bool held_ = false;
  bool stopping_ = false;
  std::chrono::milliseconds delay_{0};
  Fault faults_[3];
  uint64_t reads_ = 0;
  uint64_t writes_ = 0;
  uint64_t syncs_ = 0;
  std::vector<std::byte> live_;
  std::vector<std::byte> durable_;
  std::set<uint64_t> unsynced_;  // granules
  std::set<uint64_t> doubtful_;  // granules that were unsynced when a sync failed
  std::thread thread_;
};

}  // namespace kvstore::test
