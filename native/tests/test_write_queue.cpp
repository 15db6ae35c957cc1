// The line of blocks to the disks, on its own.
#include "store/write_queue.h"

#include <thread>

#include "block_store_fixture.h"
#include "check.h"

using namespace kvstore;
using namespace kvstore::test;

namespace {

constexpr std::chrono::milliseconds kNow{0};

struct QueueFixture : StoreFixture {
  // A block as it is visible now, leased.
  DirtyBlock visible(uint64_t number) {
    DirtyBlock block{key_of(number), {}, 0, stamps.next()};
    CHECK(store.hold(block.key, &block.lease));
    return block;
  }
  DirtyBlock put_block(uint64_t number) {
    CHECK(put(number) == Status::kOk);
    return visible(number);
  }
  DirtyBlock pop() {
    const std::optional<DirtyBlock> block = queue.pop(kNow);
    CHECK(block.has_value());
    return *block;
  }
  // Ends the way of a block; whether it was wanted.
  bool settle(const DirtyBlock& block) {
    bool wanted = false;
    queue.settle(block, [&](bool is_wanted) { wanted = is_wanted; });
    store.release(block.lease);
    return wanted;
  }
  uint64_t leases() const { return store.stats().leases; }

  WriteQueue queue{store, clock};
};

}  // namespace

TEST(write_queue, goes_in_order_and_counts) {
  QueueFixture fixture;
  WriteQueue& queue = fixture.queue;
  CHECK(queue.push(fixture.put_block(1)));
  fixture.clock.advance_ms(40);
  CHECK(queue.push(fixture.put_block(2)));
  CHECK_EQ(queue.blocks(), 2u);
  CHECK_EQ(queue.bytes(), 2 * kGranule);
  CHECK_EQ(queue.lag_ms(), 40u);
  const DirtyBlock first = fixture.pop();
  CHECK(first.key == key_of(1));
  queue.put_back(first);
  CHECK(fixture.pop().key == key_of(1));
  const DirtyBlock second = fixture.pop();
  CHECK(!queue.pop(kNow));
  CHECK(queue.contains(key_of(1)) && queue.contains(key_of(2)));
  CHECK(fixture.settle(second));
  CHECK_EQ(queue.lag_ms(), 40u);
  CHECK(fixture.settle(first));
  CHECK(!queue.contains(key_of(1)));
  CHECK_EQ(queue.bytes() + queue.blocks() + queue.lag_ms() + fixture.leases(), 0u);
}

TEST(write_queue, a_block_goes_once) {
  QueueFixture fixture;
  const DirtyBlock block = fixture.put_block(1);
  CHECK(fixture.queue.push(block));
  const DirtyBlock again = fixture.visible(1);
  CHECK(!fixture.queue.push(again));
  fixture.store.release(again.lease);
  CHECK(fixture.settle(fixture.pop()));
  CHECK(!fixture.queue.pop(kNow));
}

TEST(write_queue, what_is_gone_from_dram_is_not_taken) {
  QueueFixture fixture;
  const DirtyBlock block = fixture.put_block(1);
  fixture.erase(1);
  CHECK(!fixture.queue.push(block));
  fixture.put(1);  // another block of this key
  CHECK(!fixture.queue.push(block));
  fixture.store.release(block.lease);
}

TEST(write_queue, what_was_deleted_on_its_way_is_not_wanted) {
  QueueFixture fixture;
  CHECK(fixture.queue.push(fixture.put_block(1)));
  const DirtyBlock block = fixture.pop();
  CHECK(fixture.queue.is_wanted(block));
  fixture.erase(1);
  CHECK(!fixture.queue.is_wanted(block));
  CHECK(!fixture.settle(block));
  fixture.queue.cancel(key_of(1));  // unknown by now
}

TEST(write_queue, what_was_touched_and_has_expired_on_its_way_is_not_wanted) {
  QueueFixture fixture;
  CHECK(fixture.queue.push(fixture.put_block(1)));
  fixture.touch(1, 100);
  fixture.clock.advance_ms(100);
  CHECK(!fixture.settle(fixture.pop()));
}

TEST(write_queue, a_deletion_that_comes_late_leaves_the_next_block_alone) {
  QueueFixture fixture;
  fixture.put(1);
  fixture.erase(1);
  CHECK(fixture.queue.push(fixture.put_block(1)));
  fixture.queue.cancel(key_of(1));
  CHECK(fixture.settle(fixture.pop()));
}

TEST(write_queue, a_block_written_again_follows_the_first) {
  QueueFixture fixture;
  WriteQueue& queue = fixture.queue;
  CHECK(queue.push(fixture.put_block(1)));
  const DirtyBlock first = fixture.pop();
  fixture.erase(1);
  CHECK(queue.push(fixture.put_block(1)));
  CHECK_EQ(queue.bytes(), 2 * kGranule);
  CHECK(!queue.pop(kNow));
  CHECK(!fixture.settle(first));
  const DirtyBlock second = fixture.pop();
  CHECK(!second.lease.is_of_same_block(first.lease));
  CHECK(fixture.settle(second));
  CHECK_EQ(queue.bytes() + fixture.leases(), 0u);
}

TEST(write_queue, only_the_last_of_many_follows) {
  QueueFixture fixture;
  WriteQueue& queue = fixture.queue;
  CHECK(queue.push(fixture.put_block(1)));
  const DirtyBlock first = fixture.pop();
  for (int version = 0; version < 5; ++version) {
    fixture.erase(1);
    if (version % 2 == 0) queue.cancel(key_of(1));
    CHECK(queue.push(fixture.put_block(1)));
    CHECK_EQ(queue.bytes(), 2 * kGranule);
    CHECK_EQ(fixture.leases(), 2u);
  }
  fixture.erase(1);
  queue.cancel(key_of(1));
  CHECK_EQ(fixture.leases(), 1u);  // the first one's
  CHECK(!fixture.settle(first));
  CHECK(!queue.pop(kNow));
  CHECK_EQ(queue.bytes() + queue.lag_ms() + fixture.leases(), 0u);
}

TEST(write_queue, waiting_includes_what_follows) {
  QueueFixture fixture;
  WriteQueue& queue = fixture.queue;
  CHECK(queue.wait_settled(kNow));
  CHECK(queue.push(fixture.put_block(1)));
  const DirtyBlock first = fixture.pop();
  fixture.erase(1);
  CHECK(queue.push(fixture.put_block(1)));
  bool settled = false;
  std::thread waiter([&] { settled = queue.wait_settled(std::chrono::seconds(20)); });
  CHECK(!fixture.settle(first));
  const DirtyBlock second = fixture.pop();
  CHECK(!queue.wait_settled(kNow));
  CHECK(fixture.settle(second));
  waiter.join();
  CHECK(settled);
}

TEST(write_queue, waiting_does_not_include_what_comes_later) {
  QueueFixture fixture;
  WriteQueue& queue = fixture.queue;
  CHECK(queue.push(fixture.put_block(1)));
  std::atomic<bool> settled{false};
  std::thread waiter([&] { settled = queue.wait_settled(std::chrono::seconds(20)); });
  const DirtyBlock first = fixture.pop();
  // Until the waiter is surely waiting it may take later blocks for its own: then it ends with those.
  CHECK(fixture.settle(first));
  waiter.join();
  CHECK(settled.load());
  CHECK(queue.push(fixture.put_block(2)));
  CHECK(!queue.wait_settled(kNow));
  CHECK(fixture.settle(fixture.pop()));
}
