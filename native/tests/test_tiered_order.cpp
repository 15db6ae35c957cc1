// The order in which things reach the catalog, step by step. The fixture itself watches two rules in every test: no row
// before its bytes are synced, no write over what a row still names.
#include "check.h"
#include "tier_fixture.h"

using namespace kvstore;
using namespace kvstore::test;

namespace {

// The next commit, whenever the writer has brought it about.
Commit next_commit(TierFixture& fixture) {
  std::optional<Commit> commit;
  TierFixture::wait_until([&] { return (commit = fixture.take_commit()).has_value(); });
  return *commit;
}

bool names_block(const Commit& commit, uint64_t number, bool deletes) {
  return std::ranges::any_of(commit.operations, [&](const CatalogOperation& operation) {
    return operation.key == catalog_key_of_block(key_of(number)) && !operation.value == deletes;
  });
}

}  // namespace

TEST(tiered_order, a_block_is_on_disk_when_its_row_is) {
  TierFixture fixture({.commits_by_itself = false});
  CHECK(fixture.put(1) == Status::kOk);
  const Commit commit = next_commit(fixture);
  CHECK(names_block(commit, 1, false));
  CHECK_EQ(fixture.disk().memory.syncs(), 1u);
  CHECK(!fixture.on_disk(1));
  CHECK(fixture.store().make_durable(key_of(1)) == Status::kBusy);
  CHECK(!fixture.flush(milliseconds(5)));
  fixture.finish(commit);
  CHECK(fixture.store().make_durable(key_of(1)) == Status::kOk);
  CHECK(fixture.flush());
}

TEST(tiered_order, space_is_free_when_the_deletion_is_committed) {
  TierFixture fixture({.commits_by_itself = false});
  CHECK(fixture.put(1) == Status::kOk);
  fixture.commit_all();
  const uint64_t used = fixture.stat("nvme_used_bytes");
  CHECK(fixture.erase(1) == Status::kOk);
  CHECK_EQ(fixture.stat("nvme_used_bytes"), used);
  const Commit commit = next_commit(fixture);
  CHECK(names_block(commit, 1, true));
  CHECK_EQ(fixture.stat("nvme_used_bytes"), used);
  fixture.finish(commit);
  CHECK_EQ(fixture.stat("nvme_used_bytes"), 0u);
}

// A commit that failed may have arrived: its rows' space waits until they are surely gone.
TEST(tiered_order, the_space_of_a_row_that_may_exist_is_not_used) {
  TierFixture fixture({.commits_by_itself = false});
  CHECK(fixture.put(1) == Status::kOk);
  const Commit commit = next_commit(fixture);
  fixture.disk().commit(commit);
  fixture.tier().finish_commit(commit.id, false, "nobody knows");
  CHECK(!fixture.store().any_healthy());
  CHECK_EQ(fixture.stat("nvme_used_bytes"), ExtentAllocator::rounded(length_of(1)));
  fixture.clock().advance_ms(1'000);
  const Commit deletion = next_commit(fixture);
  CHECK(!deletion.operations.front().value.has_value());
  CHECK_EQ(fixture.stat("nvme_used_bytes"), ExtentAllocator::rounded(length_of(1)));
  fixture.finish(deletion);
  CHECK_EQ(fixture.disk().overwritten.load(), 0u);
  TierFixture::wait_until([&] {
    fixture.clock().advance_ms(1'000);
    while (fixture.commit()) {
    }
    return fixture.on_disk(1);
  });
  fixture.commit_all();
  fixture.check_idle();
}

// Version 1 was erased on disk 0, and the process ended before that was committed; version 2 went to disk 1.
TEST(tiered_order, of_a_block_on_two_disks_the_latest_stays) {
  for (const bool older_first : {true, false}) {
    TierFixture fixture({.disk_bytes = {8 << 20, 8 << 20}});
    fixture.end(0);
    Arena bytes(kSmallArena);
    const auto place = [&](size_t disk, uint64_t version, uint64_t stamp) {
      fill(bytes.data(), length_of(1), 1, version);
      std::promise<int> written;
      fixture.disk(disk).memory.write(0, bytes.data(), static_cast<uint32_t>(ExtentAllocator::rounded(length_of(1))),
                                      [&](int error) { written.set_value(error); });
      CHECK_EQ(written.get_future().get(), 0);
      const uint32_t crc = crc32c(bytes.data(), length_of(1));
      const CatalogEntry entry = encode(BlockRow{key_of(1), 0, length_of(1), crc, 0, stamp, kNever});
      fixture.disk(disk).commit({1, {{entry.key, entry.value}}});
    };
    place(older_first ? 0 : 1, 1, 5);
    place(older_first ? 1 : 0, 2, 6);
    fixture.start();
    CHECK(fixture.get(1) == std::optional<uint64_t>(2));
    CHECK(fixture.flush());
    fixture.check_idle();
    CHECK_EQ(fixture.stat("nvme_blocks"), 1u);
    CHECK_EQ(fixture.catalog(0).size() + fixture.catalog(1).size(), 1u);
  }
}

TEST(tiered_order, a_great_many_operations_go_in_groups) {
  TierFixture fixture({.commits_by_itself = false});
  for (int i = 0; i < 5'000; ++i) fixture.tier().commit_also({"m" + std::to_string(i), ""});
  CHECK(fixture.put(1) == Status::kOk);
  const Commit first = next_commit(fixture);
  CHECK_EQ(first.operations.size(), 4'096u);
  CHECK_EQ(first.operations.front().key, "m0");
  fixture.finish(first, 0, "no room");
  fixture.clock().advance_ms(1'000);
  const Commit again = next_commit(fixture);
  CHECK_EQ(again.operations.front().key, "m0");
  fixture.finish(again);
  fixture.commit_all();
  CHECK(fixture.on_disk(1));
  CHECK(fixture.flush());
}
