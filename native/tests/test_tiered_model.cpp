// A seeded random walk over a tiered store with small tiers, bad disks and crashes, beside an oracle that knows what
// each block may be. The oracle does not know what is evicted: a miss is always allowed, except for what a disk's index
// had when the store crashed. Bytes are checked whenever a block is read.
#include <random>

#include "check.h"
#include "tier_fixture.h"

using namespace kvstore;
using namespace kvstore::test;

namespace {

constexpr uint64_t kKeys = 150;
constexpr uint64_t kNoExpiry = UINT64_MAX;

// What a block may be: this version until this time of the calendar.
struct Candidate {
  uint64_t version;
  uint64_t expires_unix_ms;
};

struct Expected {
  std::vector<Candidate> now;          // more than one only where a crash left it open
  std::vector<Candidate> after_crash;  // what is on disk, or may be
};

TierOptions small_tiers(uint64_t seed) {
  TierOptions options;
  options.arena_bytes = 2 << 20;
  options.disk_bytes.assign(1 + seed % 3, 2 << 20);
  options.reserved = {{0, 4096}, {1 << 20, 8192}};
  options.store.admission = seed % 5 == 4 ? Admission::kAfterFirstReuse : Admission::kEager;
  return options;
}

class Model {
 public:
  explicit Model(uint64_t seed) : random_(seed), fixture_(small_tiers(seed)) {}

  void step() {
    const uint64_t verb = pick(1000);
    if (verb < 350)
      put(pick(4) == 0);
    else if (verb < 650)
      get();
    else if (verb < 750)
      erase();
    else if (verb < 830)
      touch();
    else if (verb < 900)
      look();
    else if (verb < 940)
      fixture_.clock().advance_ms(pick(500));
    else if (verb < 960)
      fixture_.store().evict(pick(1 << 20));
    else if (verb < 970)
      fixture_.store().sweep_expired(100);
    else if (verb < 985)
      change_faults();
    else if (verb < 993)
      flush();
    else if (verb < 997)
      flip_bit();
    else
      crash();
  }

  void finish() {
    heal();
    CHECK(settled_flush());
    fixture_.check_idle();
    crash();
    for (uint64_t number = 0; number < kKeys; ++number) check_get(number);
    CHECK(settled_flush());
    fixture_.check_idle();
  }

  uint64_t reads = 0;
  uint64_t durables = 0;
  uint64_t crashes = 0;

 private:
  uint64_t pick(uint64_t bound) { return random_() % bound; }
  uint64_t some_number() { return std::min(pick(kKeys), pick(kKeys)); }
  uint64_t now() { return fixture_.clock().unix_ms(); }
  uint64_t some_ttl_ms() { return pick(3) == 0 ? 1 + pick(5'000) : 0; }
  uint64_t expiry(uint64_t ttl_ms) { return ttl_ms == 0 ? kNoExpiry : now() + ttl_ms; }

  bool alive(const Candidate& candidate) { return now() < candidate.expires_unix_ms; }
  bool may_be_there(uint64_t number) {
    return std::ranges::any_of(expected_[number].now, [&](const Candidate& one) { return alive(one); });
  }

  void put(bool durable) {
    const uint64_t number = some_number();
    const uint64_t ttl_ms = some_ttl_ms();
    const Status status = fixture_.put(number, ++version_, ttl_ms, durable);
    Expected& expected = expected_[number];
    if (status == Status::kConflict) {
      CHECK(may_be_there(number));
    } else if (status == Status::kOk) {
      expected.now = {{version_, expiry(ttl_ms)}};
      expected.after_crash.push_back(expected.now.front());
    } else {
      CHECK(status == Status::kBusy);
    }
    if (status == Status::kOk && durable && !faulty_) wait_durable(number);
  }

  // Whatever is said to be durable is what is there now, and nothing else.
  void wait_durable(uint64_t number) {
    const Status status = fixture_.durable(number);
    if (status != Status::kOk) {
      CHECK(status == Status::kNotDurable);
      return;
    }
    ++durables;
    expected_[number].after_crash = expected_[number].now;
  }

  void get() { check_get(some_number()); }
  void check_get(uint64_t number) {
    const std::optional<uint64_t> version = fixture_.get(number);
    if (!version) return;
    ++reads;
    std::vector<Candidate>& candidates = expected_[number].now;
    std::erase_if(candidates, [&](const Candidate& one) { return one.version != *version || !alive(one); });
    CHECK(!candidates.empty());
  }

  void erase() {
    const uint64_t number = some_number();
    if (fixture_.erase(number) == Status::kOk) CHECK(may_be_there(number));
    expected_[number].now.clear();
  }

  void touch() {
    const uint64_t number = some_number();
    const uint64_t ttl_ms = some_ttl_ms();
    const bool could_be_there = may_be_there(number);
    if (fixture_.touch(number, ttl_ms) != Status::kOk) return;
    CHECK(could_be_there);
    Expected& expected = expected_[number];
    std::erase_if(expected.now, [&](const Candidate& one) { return !alive(one); });
    for (Candidate& candidate : expected.now) {
      candidate.expires_unix_ms = expiry(ttl_ms);
      expected.after_crash.push_back(candidate);
    }
  }

  void look() {
    const uint64_t first = some_number();
    const uint32_t matched = fixture_.store().match(keys_from(first, 20), fixture_.store().next_stamp(), 0);
    for (uint64_t number = first; number < first + matched; ++number) CHECK(may_be_there(number));
    const uint64_t number = some_number();
    if (fixture_.contains(number)) CHECK(may_be_there(number));
  }

  void change_faults() {
    if (faulty_) return heal();
    const size_t disk = pick(fixture_.disks());
    MemoryDisk& memory = fixture_.disk(disk).memory;
    const uint32_t count = pick(2) == 0 ? 1 : UINT32_MAX;
    switch (pick(5)) {
      case 0:
        return fault([&] { memory.fail_next(DiskVerb::kWrite, count, EIO); });
      case 1:
        return fault([&] { memory.fail_next(DiskVerb::kSync, count, EIO); });
      case 2:
        return fault([&] { memory.fail_next(DiskVerb::kRead, 1, EIO); });
      case 3:
        return fault([&] { fixture_.catalog(disk).fail_with(MemoryCatalog::Fault::kNotApplied); });
      default:
        return fault([&] { fixture_.catalog(disk).fail_with(MemoryCatalog::Fault::kAppliedAllTheSame); });
    }
  }
  template <class Cause>
  void fault(Cause cause) {
    faulty_ = true;
    unreadable_ += fixture_.disks() * 4;  // reads that fail take their blocks out of the store
    cause();
  }
  void heal() {
    for (size_t disk = 0; disk < fixture_.disks(); ++disk) {
      fixture_.disk(disk).memory.heal();
      fixture_.catalog(disk).fail_with(MemoryCatalog::Fault::kNone);
    }
    faulty_ = false;
    // The disks find out at their next try.
    TierFixture::wait_until([&] {
      fixture_.clock().advance_ms(1'000);
      return fixture_.stat("nvme_disks_in_trouble") == 0;
    });
  }

  bool settled_flush() {
    bool flushed = false;
    TierFixture::wait_until([&] {
      fixture_.clock().advance_ms(1'000);  // a fault that strikes once may not have been found yet
      return flushed = fixture_.flush(milliseconds(500));
    });
    return flushed;
  }

  void flush() {
    if (!fixture_.flush(milliseconds(faulty_ ? 20 : 2'000))) return;
    for (auto& [number, expected] : expected_) expected.after_crash = expected.now;
    if (!faulty_) fixture_.check_idle();
  }

  void flip_bit() {
    const size_t disk = pick(fixture_.disks());
    fixture_.disk(disk).memory.flip_bit(pick(2 << 20), static_cast<int>(pick(8)));
    ++unreadable_;
  }

  // What a disk's index has is in its catalog, and its bytes are on the medium.
  void crash() {
    ++crashes;
    std::vector<uint64_t> on_disk;
    for (uint64_t number = 0; number < kKeys; ++number) {
      if (fixture_.on_disk(number)) on_disk.push_back(number);
    }
    fixture_.end(pick(2) == 0 ? random_() | 1 : 0);
    if (pick(3) == 0) fixture_.clock().advance_ms(pick(2'000));
    fixture_.start();
    faulty_ = false;
    for (auto& [number, expected] : expected_) expected.now = expected.after_crash;
    uint64_t missing = 0;
    for (const uint64_t number : on_disk) {
      Status status;
      const std::vector<Candidate> candidates = expected_[number].now;
      const bool surely_there = std::ranges::all_of(candidates, [&](const Candidate& one) { return alive(one); });
      missing += !fixture_.get(number, &status) && surely_there ? 1 : 0;
      CHECK(status == Status::kOk || status == Status::kMiss);
    }
    CHECK(missing <= unreadable_);
  }

  std::mt19937_64 random_;
  TierFixture fixture_;
  std::map<uint64_t, Expected> expected_;
  uint64_t version_ = 0;
  uint64_t unreadable_ = 0;  // blocks at most that bad media may have taken
  bool faulty_ = false;
};

}  // namespace

TEST(tiered_model, agrees_with_what_may_be) {
  uint64_t reads = 0;
  uint64_t durables = 0;
  uint64_t crashes = 0;
  for (uint64_t seed = 4; seed <= 9; ++seed) {
    try {
      Model model(seed);
      for (int step = 0; step < 3'000; ++step) model.step();
      model.finish();
      reads += model.reads;
      durables += model.durables;
      crashes += model.crashes;
    } catch (const Failure& failure) {
      throw Failure("seed " + std::to_string(seed) + ": " + failure.what());
    }
  }
  CHECK(reads > 1'000 && durables > 100 && crashes > 20);
}
