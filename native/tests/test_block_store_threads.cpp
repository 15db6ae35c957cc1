// Readers, writers, deleters and evictors on one small store. A block's bytes follow from its name, so a reader can
// tell under its lease whether anybody wrote to what it holds; ThreadSanitizer tells the rest.
#include <algorithm>
#include <atomic>
#include <random>
#include <thread>

#include "block_store_fixture.h"
#include "check.h"

using namespace kvstore;
using namespace kvstore::test;

namespace {

constexpr uint64_t kChains = 40;
constexpr uint32_t kChainBlocks = 16;
constexpr uint32_t kThreads = 4;
constexpr uint32_t kStepsPerThread = 4000;

// Between half a granule and two granules, in words: all chains together are about twice the arena.
size_t words_of(uint64_t number) { return 256 + mixed(number) % 768; }

struct Shared {
  StoreFixture fixture;
  std::atomic<uint64_t> blocks_verified{0};
  std::atomic<uint64_t> wrong_bytes{0};
};

class Worker {
 public:
  Worker(Shared& shared, uint64_t seed) : shared_(shared), store_(shared.fixture.store), random_(seed) {}

  void run() {
    for (uint32_t step = 0; step < kStepsPerThread; ++step) {
      const uint64_t verb = random_() % 20;
      if (verb < 8)
        read_chain();
      else if (verb < 14)
        put_chain();
      else if (verb < 16)
        release_some(4);
      else
        upkeep(verb);
    }
    release_some(held_.size());
  }

 private:
  struct Held {
    Lease lease;
    uint64_t number;
  };

  uint64_t some_chain() { return random_() % kChains * kChainBlocks; }

  void read_chain() {
    const uint64_t first = some_chain();
    std::array<Lease, kChainBlocks> leases;
    std::array<Status, kChainBlocks> statuses;
    const std::vector<Key> keys = keys_from(first, kChainBlocks);
    const Stamp stamp = shared_.fixture.stamps.next();
    const uint32_t matched = store_.match(keys, stamp, 0);
    store_.acquire(std::span(keys).first(matched), stamp, 0, std::span(leases).first(matched),
                   std::span(statuses).first(matched));
    for (uint32_t index = 0; index < matched; ++index) {
      if (statuses[index] != Status::kOk) continue;
      held_.push_back({leases[index], first + index});
      verify(held_.back());
    }
    // Some are held on to, across whatever the others do meanwhile.
    if (held_.size() > 24) release_some(held_.size() - 8);
  }

  void verify(const Held& held) {
    const std::byte* bytes = shared_.fixture.arena.data() + held.lease.offset;
    bool right = held.lease.length == words_of(held.number) * 8 && held.lease.crc == StoreFixture::crc_of(held.number);
    for (size_t word = 0; right && word < words_of(held.number); ++word) {
      uint64_t value;
      std::memcpy(&value, bytes + word * 8, 8);
      right = value == mixed(held.number) + word;
    }
    if (!right) ++shared_.wrong_bytes;
    ++shared_.blocks_verified;
  }

  void release_some(size_t count) {
    for (; count > 0 && !held_.empty(); --count) {
      std::swap(held_[random_() % held_.size()], held_.back());
      verify(held_.back());
      store_.release(held_.back().lease);
      held_.pop_back();
    }
  }

  void put_chain() {
    const uint64_t first = some_chain();
    const Stamp stamp = shared_.fixture.stamps.next();
    for (uint32_t depth = 0; depth < kChainBlocks; ++depth) {
      const uint64_t number = first + depth;
      const size_t words = words_of(number);
      Reservation reservation;
      const auto length = static_cast<uint32_t>(words * 8);
      if (store_.reserve(key_of(number), length, stamp, depth, &reservation) != Status::kOk) return;
      std::byte* bytes = shared_.fixture.arena.data() + reservation.offset;
      for (size_t word = 0; word < words; ++word) {
        const uint64_t value = mixed(number) + word;
        std::memcpy(bytes + word * 8, &value, 8);
      }
      if (random_() % 16 == 0) {
        store_.abort(reservation);
      } else {
        store_.publish(reservation, StoreFixture::crc_of(number), random_() % 4 == 0 ? 5 : 0);
      }
    }
  }

  void upkeep(uint64_t verb) {
    const std::vector<Key> keys = keys_from(some_chain() + 8, 8);
    std::array<Status, 8> statuses;
    if (verb == 16) store_.erase(keys, statuses);
    if (verb == 17) store_.evict(random_() % (32 * kGranule));
    if (verb == 18) store_.touch(keys, shared_.fixture.stamps.next(), 8, random_() % 2 == 0 ? 10 : 0, statuses);
    if (verb == 19) {
      shared_.fixture.clock.advance_ms(1);
      store_.sweep_expired(200);
      if (store_.stats().used_bytes > kSmallArena) ++shared_.wrong_bytes;
    }
  }

  Shared& shared_;
  BlockStore& store_;
  std::mt19937_64 random_;
  std::vector<Held> held_;
};

}  // namespace

TEST(block_store_threads, readers_never_see_bytes_change_under_a_lease) {
  Shared shared;
  std::vector<std::thread> threads;
  for (uint32_t thread = 0; thread < kThreads; ++thread) {
    threads.emplace_back([&shared, thread] { Worker(shared, 100 + thread).run(); });
  }
  for (std::thread& thread : threads) thread.join();

  CHECK_EQ(shared.wrong_bytes.load(), 0u);
  CHECK(shared.blocks_verified > 10'000);
  const StoreStats stats = shared.fixture.store.stats();
  CHECK(stats.evicted_blocks > 1000 && stats.deleted_blocks > 100 && stats.expired_blocks > 10);
  CHECK(stats.put_exists > 1000 && stats.put_aborted > 100);
  CHECK_EQ(stats.put_conflicts, 0u);
  CHECK_EQ(stats.leases, 0u);
  CHECK_EQ(stats.leased_bytes, 0u);
  CHECK_EQ(stats.reserved_bytes, 0u);
  CHECK(shared.fixture.store.consistent());
  shared.fixture.store.evict(UINT64_MAX);
  CHECK_EQ(shared.fixture.store.stats().used_bytes, 0u);
}
