// A seeded random walk over the verbs of the block store beside an oracle: a std::map of what must be there.
//
// The oracle does not know what the store evicts. It learns the number from the counters and, after each eviction,
// looks for the blocks that went: exactly as many as were counted may be missing, and none of them leased.
#include <algorithm>
#include <map>
#include <random>

#include "block_store_fixture.h"
#include "check.h"

using namespace kvstore;
using namespace kvstore::test;

namespace {

constexpr uint64_t kKeys = 300;
constexpr uint32_t kMaxGranules = 12;  // about three times the arena, were all keys present

struct Expected {
  uint32_t length;
  uint32_t crc;
  uint64_t expires_ms;
  uint64_t serial;  // tells a block from an earlier one of the same name
};

struct Held {
  Lease lease;
  uint64_t serial;
};

class Model {
 public:
  explicit Model(uint64_t seed) : random_(seed) {}

  void step() {
    hoarding_ = steps_++ % 1000 >= 600;
    const uint64_t verb = pick(12);
    if (verb < 4)
      put();
    else if (verb < 6)
      acquire();
    else if (verb < 8)
      hoarding_ ? acquire() : release();
    else if (verb == 8)
      touch();
    else if (verb == 9)
      erase();
    else if (verb == 10)
      upkeep();
    else
      match();
    find_evicted();
    CHECK(fixture_.store.stats().used_bytes <= fixture_.store.stats().capacity_bytes);
  }

  void check_all() {
    const std::vector<Key> keys = keys_from(0, kKeys);
    std::vector<Status> statuses(kKeys);
    fixture_.store.contains(keys, statuses);
    for (uint64_t number = 0; number < kKeys; ++number) CHECK_EQ(statuses[number] == Status::kOk, live(number));
    CHECK(fixture_.store.consistent());
    CHECK_EQ(fixture_.store.stats().leases, held_.size());
  }

  void finish() {
    while (!held_.empty()) release();
    std::vector<Status> statuses(kKeys);
    fixture_.store.erase(keys_from(0, kKeys), statuses);
    const StoreStats stats = fixture_.store.stats();
    CHECK_EQ(stats.used_bytes + stats.leased_bytes + stats.reserved_bytes + stats.blocks, 0u);
    CHECK(stats.evicted_blocks > 300 && stats.expired_blocks > 100 && stats.put_conflicts > 10 && stats.put_busy > 100);
    CHECK(fixture_.store.consistent());
  }

 private:
  uint64_t pick(uint64_t bound) { return random_() % bound; }
  uint64_t some_number() { return std::min(pick(kKeys), pick(kKeys)); }  // some are asked for more than others
  uint64_t now_ms() const { return fixture_.clock.now_ms(); }

  bool live(uint64_t number) const {
    const auto block = expected_.find(number);
    return block != expected_.end() && now_ms() < block->second.expires_ms;
  }

  uint64_t expiry(uint64_t ttl_ms) const { return ttl_ms == 0 ? UINT64_MAX : now_ms() + ttl_ms; }
  uint64_t some_ttl_ms() { return pick(3) == 0 ? 1 + pick(200) : 0; }

  void put() {
    const uint64_t number = some_number();
    const auto length = static_cast<uint32_t>(1 + mixed(number) % (kMaxGranules * kGranule));
    Reservation reservation;
    const Stamp stamp = fixture_.stamps.next();
    const Status reserved = fixture_.store.reserve(key_of(number), length, stamp, 0, &reservation);
    find_evicted();
    if (reserved != Status::kOk) {
      CHECK(reserved == Status::kBusy && !held_.empty());
      return;
    }
    if (pick(10) == 0) return fixture_.store.abort(reservation);
    const uint32_t crc = StoreFixture::crc_of(number) + (pick(20) == 0 ? 1 : 0);
    const uint64_t ttl_ms = some_ttl_ms();
    const Status status = fixture_.store.publish(reservation, crc, ttl_ms);
    if (live(number)) {
      CHECK(status == (expected_[number].crc == crc ? Status::kExists : Status::kConflict));
    } else {
      CHECK(status == Status::kOk);
      expected_[number] = {length, crc, expiry(ttl_ms), ++serial_};
    }
  }

  void acquire() {
    const size_t count = 1 + pick(hoarding_ ? 60 : 8);
    const uint64_t first = some_number();
    std::vector<Lease> leases(count);
    std::vector<Status> statuses(count);
    fixture_.store.acquire(keys_from(first, count), fixture_.stamps.next(), 0, leases, statuses);
    for (size_t index = 0; index < count; ++index) {
      const uint64_t number = first + index;
      CHECK(statuses[index] == (live(number) ? Status::kOk : Status::kMiss));
      if (statuses[index] != Status::kOk) continue;
      CHECK_EQ(leases[index].length, expected_[number].length);
      CHECK_EQ(leases[index].crc, expected_[number].crc);
      held_.push_back({leases[index], expected_[number].serial});
    }
  }

  void release() {
    for (size_t count = std::min<size_t>(held_.size(), 1 + pick(20)); count > 0; --count) {
      std::swap(held_[pick(held_.size())], held_.back());
      fixture_.store.release(held_.back().lease);
      held_.pop_back();
    }
  }

  void touch() {
    const uint64_t number = some_number();
    const uint64_t ttl_ms = pick(2) == 0 ? BlockStore::kKeepExpiry : some_ttl_ms();
    const Status status = fixture_.touch(number, ttl_ms);
    CHECK(status == (live(number) ? Status::kOk : Status::kMiss));
    if (live(number) && ttl_ms != BlockStore::kKeepExpiry) expected_[number].expires_ms = expiry(ttl_ms);
  }

  void erase() {
    const uint64_t number = some_number();
    if (pick(2) == 0) {
      CHECK(fixture_.erase(number) == (live(number) ? Status::kOk : Status::kMiss));
      expected_.erase(number);
    } else {
      const uint32_t crc = StoreFixture::crc_of(number);
      fixture_.store.quarantine(key_of(number), crc);
      if (live(number) && expected_[number].crc == crc) expected_.erase(number);
    }
  }

  void upkeep() {
    fixture_.clock.advance_ms(pick(20));
    fixture_.store.sweep_expired(static_cast<uint32_t>(pick(100)));
    if (pick(8) == 0) fixture_.store.evict(pick(20 * kGranule));
  }

  void match() {
    const uint64_t first = some_number();
    uint32_t leading = 0;
    while (live(first + leading)) ++leading;
    CHECK_EQ(fixture_.match(first, 40), std::min(leading, 40u));
  }

  void find_evicted() {
    const uint64_t evicted = fixture_.store.stats().evicted_blocks;
    if (evicted == evicted_) return;
    // The store may also have evicted blocks that had expired, which the oracle keeps until they are looked for.
    uint64_t missing = 0;
    uint64_t expired = 0;
    for (auto block = expected_.begin(); block != expected_.end();) {
      const bool gone = !fixture_.has(block->first);
      const bool was_live = live(block->first);
      CHECK(!gone || !was_live || !leased(block->first));
      missing += gone && was_live;
      expired += gone && !was_live;
      block = gone ? expected_.erase(block) : std::next(block);
    }
    CHECK(missing <= evicted - evicted_ && evicted - evicted_ <= missing + expired);
    evicted_ = evicted;
  }

  bool leased(uint64_t number) const {
    const uint64_t serial = expected_.at(number).serial;
    return std::any_of(held_.begin(), held_.end(), [&](const Held& held) { return held.serial == serial; });
  }

  std::mt19937_64 random_;
  StoreFixture fixture_;
  std::map<uint64_t, Expected> expected_;
  std::vector<Held> held_;
  uint64_t steps_ = 0;
  bool hoarding_ = false;  // readers hold on to everything, until nothing can be evicted
  uint64_t serial_ = 0;
  uint64_t evicted_ = 0;
};

}  // namespace

TEST(block_store_model, agrees_with_a_map) {
  for (uint64_t seed = 1; seed <= 3; ++seed) {
    Model model(seed);
    for (int step = 0; step < 10'000; ++step) {
      model.step();
      if (step % 50 == 0) model.check_all();
    }
    model.finish();
  }
}

// The hard budget: whatever is asked, the space in use never exceeds the arena, and nothing is lost but by eviction.
TEST(block_store_model, the_budget_holds_under_any_load) {
  StoreFixture fixture;
  std::mt19937_64 random(11);
  std::vector<Reservation> pending;
  for (uint64_t step = 0; step < 20'000; ++step) {
    Reservation reservation;
    const auto length = static_cast<uint32_t>(1 + random() % (random() % 4 == 0 ? 64 * kGranule : kGranule));
    if (fixture.store.reserve(key_of(step), length, fixture.stamps.next(), 0, &reservation) == Status::kOk) {
      pending.push_back(reservation);
    }
    const StoreStats stats = fixture.store.stats();
    CHECK(stats.used_bytes <= stats.capacity_bytes);
    CHECK_EQ(stats.capacity_bytes, kSmallArena);
    CHECK_EQ(stats.blocks, stats.puts - stats.evicted_blocks);
    if (pending.size() < 8) continue;
    std::swap(pending[random() % pending.size()], pending.back());
    if (step % 9 == 0) {
      fixture.store.abort(pending.back());
    } else {
      CHECK(fixture.store.publish(pending.back(), 0, 0) == Status::kOk);
    }
    pending.pop_back();
    if (step % 500 == 0) CHECK(fixture.store.consistent());
  }
  CHECK(fixture.store.stats().evicted_blocks > 1000);
}
