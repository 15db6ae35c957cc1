// Everything at once, from several threads, on small tiers; then the end comes while all are busy. What a reader gets
// is checked to the byte; ThreadSanitizer and AddressSanitizer tell the rest.
#include <random>

#include "check.h"
#include "tier_fixture.h"

using namespace kvstore;
using namespace kvstore::test;

namespace {

constexpr uint64_t kKeys = 120;
constexpr uint32_t kThreads = 4;

class Hammer {
 public:
  Hammer(TierFixture& fixture, uint64_t seed) : fixture_(fixture), random_(seed) {}

  void run(uint32_t steps) {
    for (uint32_t step = 0; step < steps; ++step) {
      const uint64_t number = random_() % kKeys;
      const uint64_t verb = random_() % 100;
      if (verb < 35)
        put(number);
      else if (verb < 75)
        (void)fixture_.get(number);
      else if (verb < 85)
        (void)fixture_.erase(number);
      else if (verb < 89)
        (void)fixture_.touch(number, random_() % 2 == 0 ? 0 : 1 + random_() % 2'000);
      else if (verb < 93)
        (void)fixture_.store().match(keys_from(number, 8), fixture_.store().next_stamp(), 0);
      else
        upkeep(verb);
    }
  }

 private:
  // All threads write the same bytes under a name, as those who know a block by its content do.
  void put(uint64_t number) {
    const bool durable = random_() % 4 == 0;
    const Status status = fixture_.put(number, 1, random_() % 3 == 0 ? 1 + random_() % 2'000 : 0, durable);
    CHECK(status == Status::kOk || status == Status::kExists || status == Status::kBusy);
    if (durable && status == Status::kOk) (void)fixture_.store().make_durable(key_of(number));
  }
  void upkeep(uint64_t verb) {
    if (verb == 93) fixture_.clock().advance_ms(random_() % 50);
    if (verb == 94) fixture_.store().evict(256 << 10);
    if (verb == 95) fixture_.store().sweep_expired(64);
    if (verb == 96) (void)fixture_.flush(milliseconds(5));
    if (verb == 97) (void)fixture_.stat("nvme_blocks");
    if (verb == 98) fixture_.disk(0).memory.fail_next(static_cast<DiskVerb>(random_() % 3), 1, EIO);
    if (verb == 99) fixture_.clock().advance_ms(1'000);
  }

  TierFixture& fixture_;
  std::mt19937_64 random_;
};

TierOptions small_tiers() {
  TierOptions options;
  options.arena_bytes = 2 << 20;
  options.disk_bytes = {2 << 20, 1 << 20};
  return options;
}

// Returns what the first of them that failed says.
std::string hammer(TierFixture& fixture, uint32_t steps, uint64_t seed) {
  std::mutex mutex;
  std::string failure;
  std::vector<std::thread> threads;
  for (uint32_t number = 0; number < kThreads; ++number) {
    threads.emplace_back([&, number] {
      try {
        Hammer(fixture, seed * kThreads + number).run(steps);
      } catch (const std::exception& error) {
        const std::lock_guard lock(mutex);
        if (failure.empty()) failure = error.what();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  return failure;
}

}  // namespace

TEST(tiered_threads, everything_at_once) {
  TierFixture fixture(small_tiers());
  for (uint64_t round = 0; round < 3; ++round) {
    CHECK_EQ(hammer(fixture, 1'500, round), "");
    fixture.disk(0).memory.heal();
    TierFixture::wait_until([&] {
      fixture.clock().advance_ms(1'000);
      return fixture.flush(milliseconds(500)) && fixture.stat("nvme_disks_in_trouble") == 0;
    });
    for (uint64_t number = 0; number < kKeys; ++number) {
      const Status status = fixture.put_patiently(number);
      CHECK(status == Status::kOk || status == Status::kExists);
    }
    CHECK(fixture.flush());
    fixture.check_idle();
    std::vector<uint64_t> on_disk;
    for (uint64_t number = 0; number < kKeys; ++number) {
      if (fixture.on_disk(number)) on_disk.push_back(number);
    }
    CHECK(on_disk.size() > 10);
    fixture.crash(round + 1);
    for (const uint64_t number : on_disk) CHECK(fixture.get(number).has_value());
  }
}

// Blocks are in flight, in the queue and in a commit, and reads are under way, when the store goes.
TEST(tiered_threads, it_ends_while_busy) {
  for (uint64_t round = 1; round <= 10; ++round) {
    TierFixture fixture(small_tiers());
    fixture.disk(0).memory.delay(milliseconds(1));
    CHECK_EQ(hammer(fixture, 150, 100 + round), "");
    for (uint64_t number = 0; number < kKeys; ++number) (void)fixture.put(number);
    std::vector<std::future<std::pair<Status, Lease>>> reads(kKeys);
    for (uint64_t number = 0; number < kKeys; ++number) (void)fixture.start_fetch(number, &reads[number]);
    fixture.crash(round);
    for (uint64_t number = 0; number < kKeys; ++number) (void)fixture.get(number);
  }
}

// Erasing and writing the same few blocks from all sides: whatever the order, both tiers agree in the end, and what was
// said to be durable is.
TEST(tiered_threads, a_few_names_fought_over) {
  TierFixture fixture(small_tiers());
  constexpr uint64_t kNames = 3;
  std::vector<std::thread> threads;
  for (uint64_t thread = 0; thread < kThreads; ++thread) {
    threads.emplace_back([&, thread] {
      std::mt19937_64 random(thread);
      for (int step = 0; step < 2'000; ++step) {
        const uint64_t number = random() % kNames;
        switch (random() % 4) {
          case 0:
            (void)fixture.erase(number);
            break;
          case 1:
            fixture.store().evict(64 << 10);
            break;
          case 2:
            (void)fixture.get(number);
            break;
          default:
            (void)fixture.put(number, 1, 0, true);
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(fixture.flush());
  fixture.check_idle();
  for (uint64_t number = 0; number < kNames; ++number) {
    const Status status = fixture.put_durable(number, 1);
    CHECK(status == Status::kOk);
  }
  fixture.crash(1);
  for (uint64_t number = 0; number < kNames; ++number) CHECK(fixture.get(number).has_value());
}

// Deletion races with every step of the way to the disk; what comes out is always: gone. One batch with many names that
// nobody knows takes long enough for blocks to arrive in the middle of it.
TEST(tiered_threads, erased_at_any_moment_is_erased) {
  TierFixture fixture;
  std::mt19937_64 random(1);
  constexpr size_t kBlocks = 30;
  for (uint64_t round = 0; round < 100; ++round) {
    std::vector<Key> keys = keys_from(round * kBlocks, kBlocks);
    for (size_t block = 0; block < kBlocks; ++block) {
      CHECK(fixture.put_patiently(round * kBlocks + block) == Status::kOk);
    }
    const auto until = std::chrono::steady_clock::now() + std::chrono::microseconds(random() % 500);
    while (std::chrono::steady_clock::now() < until) {
    }
    for (uint64_t unknown = 0; unknown < 3'000; ++unknown) keys.push_back(key_of((1 << 20) + unknown));
    std::vector<Status> statuses(keys.size());
    fixture.store().erase(keys, statuses);
    CHECK_EQ(std::ranges::count(statuses, Status::kOk), static_cast<ptrdiff_t>(kBlocks));
    CHECK(fixture.flush());
    for (size_t block = 0; block < kBlocks; ++block) CHECK(!fixture.contains(round * kBlocks + block));
  }
  CHECK_EQ(fixture.catalog().size(), 0u);
  fixture.check_idle();
}
