// One disk tier on its own, with a queue that takes what TieredStore would keep from it: a block of a key that the disk
// has already, as two threads that save the same block at once can bring it about.
#include "store/disk_tier.h"

#include <optional>

#include "block_store_fixture.h"
#include "check.h"
#include "fake_disk.h"

using namespace kvstore;
using namespace kvstore::test;

namespace {

struct DiskTierFixture : StoreFixture {
  DiskTierFixture() { tier.start(); }

  // A new block of key 1 on its way.
  void send(uint64_t ttl_ms = 0) {
    erase(1);
    CHECK(put(1, kGranule, ttl_ms) == Status::kOk);
    DirtyBlock block{key_of(1), {}, 0, stamps.next()};
    CHECK(store.hold(block.key, &block.lease));
    CHECK(queue.push(block));
  }
  std::vector<CatalogOperation> commit() {
    std::optional<Commit> commit;
    for (int tries = 0; !commit && tries < 200; ++tries) {
      tier.hurry();
      commit = tier.next_commit(std::chrono::milliseconds(10));
    }
    CHECK(commit.has_value());
    tier.finish_commit(commit->id, true, "");
    return commit->operations;
  }
  bool on_disk() {
    BlockInfo info;
    return tier.index().find(key_of(1), &info);
  }

  MemoryDisk disk{1 << 20};
  WriteQueue queue{store, clock};
  DiskTier tier{disk,
                arena.data(),
                store,
                queue,
                clock,
                stamps,
                make_lru_policy(),
                {.commit_interval = std::chrono::milliseconds(0)}};
};

}  // namespace

TEST(disk_tier, a_block_that_the_disk_has_is_not_written_over) {
  DiskTierFixture fixture;
  fixture.send();
  CHECK_EQ(fixture.commit().size(), 1u);
  fixture.send();
  CHECK_EQ(fixture.commit().size(), 0u);  // no row: the first one's stays
  CHECK(fixture.on_disk());
  CHECK_EQ(fixture.queue.blocks(), 0u);
  CHECK_EQ(fixture.tier.index().used_bytes(), uint64_t{kGranule});
  CHECK_EQ(fixture.store.stats().leases, 0u);
}

// The first one has expired by the time of the second's row, and its deletion is still to be committed: were it simply
// carried out, it would take the row of the second.
TEST(disk_tier, a_late_deletion_spares_the_row_of_the_next_block) {
  DiskTierFixture fixture;
  fixture.send(1'000);
  CHECK_EQ(fixture.commit().size(), 1u);
  fixture.send();
  fixture.clock.advance_ms(1'000);
  const std::vector<CatalogOperation> second = fixture.commit();
  CHECK_EQ(second.size(), 1u);
  CHECK(second.front().value.has_value());
  CHECK(fixture.on_disk());
  CHECK_EQ(fixture.commit().size(), 0u);
  CHECK(fixture.on_disk());
  CHECK_EQ(fixture.tier.index().used_bytes(), uint64_t{kGranule});  // the first one's space is free all the same
}
