#include "store/disk_check.h"

#include <cerrno>
#include <map>
#include <utility>
#include <vector>

#include "base/checksum.h"
#include "disk/extent_reader.h"
#include "extent_disk_fixture.h"

using namespace std::chrono_literals;
using kvstore::BlockRow;
using kvstore::CatalogEntry;
using kvstore::crc32c;
using kvstore::DiskCheck;
using kvstore::ExtentDisk;
using kvstore::ExtentDiskOptions;
using kvstore::ExtentReader;
using kvstore::PinRow;
using kvstore::test::AlignedBytes;

namespace {

constexpr uint32_t kGranule = kvstore::kDiskGranuleBytes;

using Verdicts = std::map<size_t, std::string>;

// A disk with a place that the device cannot read.
class BadPlace final : public kvstore::Disk {
 public:
  BadPlace(kvstore::Disk& disk, uint64_t offset) : disk_(disk), offset_(offset) {}

  void read(uint64_t offset, std::byte* data, uint32_t bytes, Done done) override {
    if (offset <= offset_ && offset_ < offset + bytes) {
      done(EIO);
    } else {
      disk_.read(offset, data, bytes, std::move(done));
    }
  }
  void write(uint64_t offset, const std::byte* data, uint32_t bytes, Done done) override {
    disk_.write(offset, data, bytes, std::move(done));
  }
  [[nodiscard]] int sync() override { return disk_.sync(); }
  [[nodiscard]] uint64_t capacity_bytes() const override { return disk_.capacity_bytes(); }
  [[nodiscard]] std::vector<kvstore::DiskRange> reserved() const override { return disk_.reserved(); }

 private:
  kvstore::Disk& disk_;
  const uint64_t offset_;
};

// A disk of several small files with blocks on it, and their rows.
class Fixture {
 public:
  explicit Fixture(uint64_t capacity_bytes = 5 * kvstore::test::kExtentFileBytes / 2,
                   uint64_t extent_file_bytes = kvstore::test::kExtentFileBytes)
      : options_(kvstore::test::small_disk(directory_.path())) {
    options_.capacity_bytes = capacity_bytes;
    options_.extent_file_bytes = extent_file_bytes;
    ExtentDisk disk(options_);  // creates the files
  }

  // Writes a block and remembers its row. Its last granule may be used in part only.
  BlockRow& block(uint64_t offset, uint32_t length, uint64_t stamp = 1) {
    const uint32_t whole = (length + kGranule - 1) / kGranule * kGranule;
    const AlignedBytes bytes(whole, offset + 1);
    ExtentDisk disk(options_);
    CHECK_EQ(kvstore::test::write_and_wait(disk, offset, bytes), 0);
    CHECK_EQ(disk.sync(), 0);
    return row(offset, length, crc32c(bytes.data(), length), stamp);
  }

  BlockRow& row(uint64_t offset, uint32_t length, uint32_t crc, uint64_t stamp = 1) {
    BlockRow row;
    row.key.bytes.fill(static_cast<uint8_t>(rows.size() + 1));
    row.offset = offset;
    row.length = length;
    row.crc = crc;
    row.stamp = stamp;
    rows.push_back(row);
    return rows.back();
  }

  // What the check says of each row, by the row's number; rows that are sound are not in it.
  Verdicts check(const std::vector<CatalogEntry>& more = {}, uint64_t bad_place = UINT64_MAX) {
    ExtentReader reader(options_);
    BadPlace disk(reader, bad_place);
    DiskCheck check(disk, reader.lost());
    for (const BlockRow& row : rows) {
      const CatalogEntry entry = encode(row);
      check.add(entry.key, entry.value);
    }
    for (const CatalogEntry& entry : more) check.add(entry.key, entry.value);
    planned_bytes = check.plan();
    while (!check.read(5ms)) CHECK(check.bytes_read() <= planned_bytes);
    CHECK_EQ(check.bytes_read(), planned_bytes);
    Verdicts verdicts;
    for (const DiskCheck::Finding& finding : check.findings()) {
      verdicts[static_cast<uint8_t>(finding.catalog_key[1])] = finding.why;
    }
    sound_blocks = check.sound_blocks();
    sound_pins = check.sound_pins();
    damage = reader.damage();
    return verdicts;
  }

  void flip(uint64_t offset) {
    const std::string path = file(offset);
    const char garbage = 'x';
    kvstore::test::overwrite(path, offset % options_.extent_file_bytes, &garbage, 1);
  }

  [[nodiscard]] std::string file(uint64_t offset) const {
    return kvstore::test::extent_file(directory_.path(), static_cast<int>(offset / options_.extent_file_bytes));
  }

  std::vector<BlockRow> rows;
  uint64_t planned_bytes = 0;
  uint64_t sound_blocks = 0;
  uint64_t sound_pins = 0;
  std::vector<std::string> damage;

 private:
  kvstore::test::TemporaryDirectory directory_;
  ExtentDiskOptions options_;
};

TEST(disk_check, finds_nothing_where_nothing_is_wrong) {
  Fixture fixture;
  fixture.block(kGranule, 10'000);
  fixture.block(4 * kGranule, kGranule);
  fixture.block(100 * kGranule, 1);
  fixture.block(kvstore::test::kExtentFileBytes + kGranule, 100 * kGranule);
  CHECK(fixture.check() == Verdicts{});
  CHECK_EQ(fixture.sound_blocks, size_t{4});
  CHECK_EQ(fixture.planned_bytes, uint64_t{10'000 + kGranule + 1 + 100 * kGranule});
  CHECK(fixture.damage.empty());
}

TEST(disk_check, an_empty_catalog_is_done_at_once) {
  Fixture fixture;
  CHECK(fixture.check() == Verdicts{});
  CHECK_EQ(fixture.planned_bytes, uint64_t{0});
}

TEST(disk_check, finds_a_flipped_byte_and_only_its_block) {
  Fixture fixture;
  for (uint32_t i = 0; i < 20; ++i) fixture.block((1 + 3 * i) * kGranule, 2 * kGranule + 100);
  fixture.flip((1 + 3 * 7) * kGranule + 2 * kGranule + 99);
  fixture.flip((1 + 3 * 9) * kGranule + 2 * kGranule + 100);  // behind the end of its block
  CHECK(fixture.check() == (Verdicts{{8, "corrupt"}}));
  CHECK_EQ(fixture.sound_blocks, size_t{19});
}

TEST(disk_check, what_cannot_be_read_costs_its_block_and_no_neighbour) {
  constexpr uint32_t kLarge = 9u << 20;
  Fixture fixture(64u << 20, 64u << 20);
  for (uint32_t i = 0; i < 20; ++i) fixture.block((1 + 2 * i) * kGranule, 2 * kGranule);
  fixture.block(16u << 20, kLarge);
  CHECK(fixture.check({}, (1 + 2 * 7 + 1) * kGranule) == (Verdicts{{8, "unreadable"}}));
  CHECK_EQ(fixture.sound_blocks, size_t{20});
  CHECK(fixture.check({}, (16u << 20) + kLarge - kGranule) == (Verdicts{{21, "unreadable"}}));
}

TEST(disk_check, sums_blocks_larger_than_a_read) {
  constexpr uint32_t kLarge = (9u << 20) + 123;
  Fixture fixture(64u << 20, 64u << 20);
  fixture.block(kGranule, kLarge);
  fixture.block(16u << 20, kLarge);
  fixture.block(32u << 20, 8u << 20);
  CHECK(fixture.check() == Verdicts{});
  fixture.flip((16u << 20) + kLarge - 1);
  CHECK(fixture.check() == (Verdicts{{2, "corrupt"}}));
}

TEST(disk_check, rows_must_name_places_inside) {
  constexpr uint64_t kFile = kvstore::test::kExtentFileBytes;
  Fixture fixture;
  fixture.row(0, kGranule, 0);                             // a header
  fixture.row(kFile - kGranule, 2 * kGranule, 0);          // across files
  fixture.row(kFile + kGranule + 1, kGranule, 0);          // not at a granule
  fixture.row(5 * kFile / 2 - kGranule, 2 * kGranule, 0);  // behind the end
  fixture.row(UINT64_MAX - kGranule + 1, kGranule, 0);
  fixture.row(kGranule, 0, 0);
  fixture.block(5 * kFile / 2 - kGranule, kGranule);  // the last granule is fine
  const Verdicts verdicts = fixture.check();
  CHECK_EQ(verdicts.size(), size_t{6});
  for (const auto& [row, why] : verdicts) CHECK_EQ(why, std::string("outside"));
  CHECK(!verdicts.contains(7));
}

TEST(disk_check, of_rows_in_each_others_way_the_true_one_stays) {
  Fixture fixture;
  fixture.row(kGranule, 3 * kGranule, 0x12345678);
  fixture.block(2 * kGranule, kGranule);
  fixture.row(2 * kGranule, 2 * kGranule, 0x12345678);
  fixture.block(4 * kGranule, kGranule);
  CHECK(fixture.check() == (Verdicts{{1, "overlaps"}, {3, "overlaps"}}));
}

TEST(disk_check, of_two_true_rows_the_newer_one_stays) {
  Fixture fixture;
  fixture.block(kGranule, kGranule, 5);
  fixture.block(kGranule, kGranule, 9);
  fixture.block(kGranule, kGranule, 7);
  CHECK(fixture.check() == (Verdicts{{1, "overlaps"}, {3, "overlaps"}}));
}

TEST(disk_check, a_lost_file_costs_its_blocks) {
  constexpr uint64_t kFile = kvstore::test::kExtentFileBytes;
  Fixture fixture;
  fixture.block(kGranule, kGranule);
  fixture.block(kFile + kGranule, kGranule);
  fixture.block(2 * kFile + kGranule, kGranule);
  CHECK_EQ(unlink(fixture.file(kFile).c_str()), 0);
  CHECK(fixture.check() == (Verdicts{{2, "lost"}}));
  CHECK_EQ(fixture.damage.size(), size_t{1});
  CHECK(fixture.damage[0].ends_with("extents-0001.kv is missing"));
  CHECK(!kvstore::test::exists(fixture.file(kFile)));
}

TEST(disk_check, a_truncated_file_costs_the_blocks_behind_its_end) {
  Fixture fixture;
  fixture.block(kGranule, kGranule);
  fixture.block(20 * kGranule, 2 * kGranule);
  CHECK_EQ(truncate(fixture.file(0).c_str(), 21 * kGranule), 0);
  CHECK(fixture.check() == (Verdicts{{2, "lost"}}));
  CHECK_EQ(kvstore::test::file_bytes(fixture.file(0)), uint64_t{21 * kGranule});
}

TEST(disk_check, a_damaged_header_costs_nothing) {
  Fixture fixture;
  fixture.block(kGranule, kGranule);
  fixture.flip(3);
  CHECK(fixture.check() == Verdicts{});
  CHECK(fixture.damage[0].ends_with("has a damaged header"));
}

TEST(disk_check, pins_need_their_block) {
  Fixture fixture;
  PinRow pin;
  pin.key = fixture.block(kGranule, kGranule).key;
  pin.owner = "agent-7";
  PinRow orphan = pin;
  orphan.key.bytes.fill(77);
  CHECK(fixture.check({encode(pin), encode(orphan)}) == (Verdicts{{77, "orphaned"}}));
  CHECK_EQ(fixture.sound_pins, size_t{1});
}

TEST(disk_check, rows_that_make_no_sense) {
  Fixture fixture;
  CatalogEntry damaged = encode(fixture.block(kGranule, kGranule));
  fixture.rows.clear();
  damaged.value[8] ^= 1;
  const CatalogEntry stranger{std::string(33, 'z'), "value"};
  const CatalogEntry note{"m", "not ours to judge"};
  CHECK(fixture.check({damaged, stranger, note}) == (Verdicts{{1, "malformed"}, {'z', "malformed"}}));
}

TEST(disk_check, a_disk_that_was_never_used_has_no_size) {
  kvstore::test::TemporaryDirectory directory;
  ExtentReader reader(kvstore::test::small_disk(directory.path()));
  CHECK_EQ(reader.capacity_bytes(), uint64_t{0});
  DiskCheck check(reader, reader.lost());
  CHECK_EQ(check.plan(), uint64_t{0});
  CHECK(check.read(1ms));
}

TEST(disk_check, nothing_can_be_written_through_a_reader) {
  Fixture fixture;
  fixture.block(kGranule, kGranule);
  ExtentDiskOptions options = kvstore::test::small_disk(fixture.file(0).substr(0, fixture.file(0).rfind('/')));
  ExtentReader reader(options);
  CHECK_EQ(kvstore::test::write_and_wait(reader, kGranule, AlignedBytes(kGranule, 1)), EROFS);
  CHECK_EQ(reader.sync(), EROFS);
  CHECK_EQ(reader.capacity_bytes(), uint64_t{5 * kvstore::test::kExtentFileBytes / 2});
}

}  // namespace
