// A block store on a small arena with a clock that stands still, and shorthand for what most of its tests do.
#pragma once

#include <array>
#include <cstring>
#include <span>
#include <vector>

#include "base/clock.h"
#include "memory/arena.h"
#include "memory/extent_allocator.h"
#include "store/block_store.h"

namespace kvstore::test {

inline constexpr uint32_t kGranule = ExtentAllocator::kGranuleBytes;
inline constexpr uint64_t kSmallArena = 2ull << 20;  // the least an arena can have: 512 granules

// A 64-bit mixer (splitmix64): the same number gives the same word everywhere.
inline uint64_t mixed(uint64_t value) {
  value += 0x9e3779b97f4a7c15;
  value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9;
  value = (value ^ (value >> 27)) * 0x94d049bb133111eb;
  return value ^ (value >> 31);
}

// The `number`-th of a sequence of keys that look like hashes.
inline Key key_of(uint64_t number) {
  std::array<uint64_t, kKeyBytes / 8> words;
  for (size_t word = 0; word < words.size(); ++word) words[word] = mixed(number * words.size() + word);
  Key key;
  std::memcpy(key.bytes.data(), words.data(), kKeyBytes);
  return key;
}

inline std::vector<Key> keys_from(uint64_t first, size_t count) {
  std::vector<Key> keys(count);
  for (size_t index = 0; index < count; ++index) keys[index] = key_of(first + index);
  return keys;
}

struct StoreFixture {
  explicit StoreFixture(uint64_t bytes = kSmallArena, StoreOptions options = {})
      : arena(bytes), store(arena.bytes(), options, clock, stamps, make_lru_policy()) {}

  Reservation reserve(uint64_t number, uint32_t length = kGranule) {
    Reservation reservation;
    if (store.reserve(key_of(number), length, stamps.next(), 0, &reservation) != Status::kOk) {
      throw std::runtime_error("the fixture could not reserve space");
    }
    return reservation;
  }

  Status put(uint64_t number, uint32_t length = kGranule, uint64_t ttl_ms = 0) {
    return put_at(number, stamps.next(), 0, length, ttl_ms);
  }
  Status put_at(uint64_t number, Stamp stamp, uint32_t depth, uint32_t length = kGranule, uint64_t ttl_ms = 0) {
    Reservation reservation;
    const Status status = store.reserve(key_of(number), length, stamp, depth, &reservation);
    return status == Status::kOk ? store.publish(reservation, crc_of(number), ttl_ms) : status;
  }
  // A chain of one-granule blocks, as one request.
  void put_chain(uint64_t first, uint32_t blocks, uint32_t first_depth = 0) {
    const Stamp stamp = stamps.next();
    for (uint32_t index = 0; index < blocks; ++index) put_at(first + index, stamp, first_depth + index);
  }

  // Whether the block is there, without touching it.
  bool has(uint64_t number) const {
    BlockInfo info;
    return store.find(key_of(number), &info);
  }
  Status acquire(uint64_t number, Lease* lease) {
    const Key key = key_of(number);
    Status status;
    store.acquire({&key, 1}, stamps.next(), 0, {lease, 1}, {&status, 1});
    return status;
  }
  Status erase(uint64_t number) {
    const Key key = key_of(number);
    Status status;
    store.erase({&key, 1}, {&status, 1});
    return status;
  }
  Status touch(uint64_t number, uint64_t ttl_ms = BlockStore::kKeepExpiry) {
    const Key key = key_of(number);
    Status status;
    store.touch({&key, 1}, stamps.next(), 0, ttl_ms, {&status, 1});
    return status;
  }
  uint32_t match(uint64_t first, size_t count) { return store.match(keys_from(first, count), stamps.next(), 0); }

  static uint32_t crc_of(uint64_t number) { return static_cast<uint32_t>(mixed(~number)); }

  ManualClock clock;
  Stamps stamps;
  Arena arena;
  BlockStore store;
};

}  // namespace kvstore::test
