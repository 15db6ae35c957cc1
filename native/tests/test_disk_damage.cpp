// Each kind of damage to extent files: what is told, what is lost, and that the rest is served.
#include <filesystem>
#include <stdexcept>
#include <vector>

#include "disk/extent_disk.h"
#include "extent_disk_fixture.h"

namespace kvstore {
namespace {

using namespace test;

// A closed disk with a block in each of its three files.
struct ClosedDisk {
  ClosedDisk() {
    ExtentDisk disk(options());
    write_blocks(disk);
  }
  [[nodiscard]] ExtentDiskOptions options() const { return small_disk(directory.path()); }
  [[nodiscard]] std::string file(int index) const { return extent_file(directory.path(), index); }

  // What the next opening says, and which blocks it still has.
  struct Found {
    std::vector<DiskDamage> damage;
    std::vector<bool> blocks;
  };
  [[nodiscard]] Found open(bool handle = false) const {
    ExtentDisk disk(options());
    Found found{disk.damage(), {}};
    for (int index = 0; index < 3; ++index) found.blocks.push_back(holds_block(disk, index));
    if (handle) CHECK_EQ(disk.damage_handled(), 0);
    // Whatever it was, the disk is whole again.
    for (const uint64_t offset : {uint64_t{512 << 10}, kExtentFileBytes + (512 << 10), 2 * kExtentFileBytes + 65536}) {
      CHECK_EQ(write_and_wait(disk, offset, AlignedBytes(4096, offset)), 0);
      CHECK(holds(disk, offset, 4096, offset));
    }
    CHECK_EQ(disk.sync(), 0);
    return found;
  }
  // "" when it opens.
  [[nodiscard]] std::string why_refused() const {
    return why_thrown<std::exception>([this] { ExtentDisk disk(options()); });
  }

  const TemporaryDirectory directory;
};

using Blocks = std::vector<bool>;

}  // namespace

TEST(disk_damage, a_missing_file_is_made_anew) {
  for (const int lost : {0, 1, 2}) {
    const ClosedDisk closed;
    std::filesystem::remove(closed.file(lost));
    const auto found = closed.open();
    CHECK_EQ(found.damage.size(), 1u);
    CHECK_EQ(found.damage[0].path, closed.file(lost));
    CHECK_EQ(found.damage[0].index, static_cast<uint32_t>(lost));
    CHECK(contains(found.damage[0].what, "missing"));
    CHECK_EQ(found.damage[0].lost.offset, lost * kExtentFileBytes + 4096);
    CHECK_EQ(found.damage[0].lost.bytes, (lost == 2 ? kExtentFileBytes / 2 : kExtentFileBytes) - 4096);
    for (int index = 0; index < 3; ++index) CHECK_EQ(found.blocks[static_cast<size_t>(index)], index != lost);
  }
}

TEST(disk_damage, a_truncated_file_loses_its_tail_only) {
  const ClosedDisk closed;
  CHECK(truncate(closed.file(1).c_str(), 4096 + kBlockBytes + 100) == 0);
  const auto found = closed.open();
  CHECK_EQ(found.damage.size(), 1u);
  CHECK(contains(found.damage[0].what, "truncated"));
  CHECK_EQ(found.damage[0].lost.offset, kExtentFileBytes + 4096 + kBlockBytes);
  CHECK_EQ(found.damage[0].lost.bytes, kExtentFileBytes - 4096 - kBlockBytes);
  CHECK((found.blocks == Blocks{true, true, true}));
  CHECK_EQ(file_bytes(closed.file(1)), kExtentFileBytes);
}

TEST(disk_damage, a_file_truncated_into_its_header_loses_all) {
  for (const off_t left : {0, 100, 4095, 4096}) {
    const ClosedDisk closed;
    CHECK(truncate(closed.file(2).c_str(), left) == 0);
    const auto found = closed.open();
    CHECK_EQ(found.damage.size(), 1u);
    CHECK_EQ(found.damage[0].lost.offset, 2 * kExtentFileBytes + 4096);
    CHECK_EQ(found.damage[0].lost.bytes, kExtentFileBytes / 2 - 4096);
    CHECK((found.blocks == Blocks{true, true, false}));
  }
}

// A block behind a damaged header is as good as its checksum says, so nothing is given up.
TEST(disk_damage, a_damaged_header_costs_no_block) {
  for (const uint64_t at : {0, 8, 9, 12, 20, 33, 41, 60, 300, 508, 511}) {
    const ClosedDisk closed;
    uint8_t byte = 0;
    const FileDescriptor file(open(closed.file(1).c_str(), O_RDONLY | O_CLOEXEC));
    CHECK_EQ(pread(file.get(), &byte, 1, static_cast<off_t>(at)), 1);
    byte ^= 0x10;
    overwrite(closed.file(1), at, &byte, 1);
    const auto found = closed.open();
    CHECK_EQ(found.damage.size(), 1u);
    CHECK(contains(found.damage[0].what, "damaged header"));
    CHECK_EQ(found.damage[0].lost.bytes, 0u);
    CHECK((found.blocks == Blocks{true, true, true}));
    CHECK(closed.open().damage.empty());
  }
}

TEST(disk_damage, a_zeroed_header_costs_no_block) {
  const ClosedDisk closed;
  const std::vector<uint8_t> zeros(4096);
  overwrite(closed.file(0), 0, zeros.data(), zeros.size());
  const auto found = closed.open();
  CHECK_EQ(found.damage.size(), 1u);
  CHECK(contains(found.damage[0].what, "damaged header"));
  CHECK((found.blocks == Blocks{true, true, true}));
}

TEST(disk_damage, several_are_told_in_order) {
  const ClosedDisk closed;
  std::filesystem::remove(closed.file(2));
  CHECK(truncate(closed.file(0).c_str(), 4096) == 0);
  const auto found = closed.open();
  CHECK_EQ(found.damage.size(), 2u);
  CHECK_EQ(found.damage[0].index, 0u);
  CHECK_EQ(found.damage[1].index, 2u);
  CHECK((found.blocks == Blocks{false, true, false}));
}

// The headers are gone with the files, but the owner remembers that there was something.
TEST(disk_damage, all_files_missing_are_told_if_the_size_is_remembered) {
  const ClosedDisk closed;
  for (const int index : {0, 1, 2}) std::filesystem::remove(closed.file(index));
  ExtentDiskOptions options = closed.options();
  options.remembered_bytes = options.capacity_bytes;
  const ExtentDisk disk(options);
  CHECK_EQ(disk.damage().size(), 3u);
}

TEST(disk_damage, losses_are_told_until_they_are_taken_note_of) {
  const ClosedDisk closed;
  std::filesystem::remove(closed.file(1));
  const auto first = closed.open();
  for (int opening = 0; opening < 2; ++opening) {
    const auto again = closed.open(opening == 1);
    CHECK_EQ(again.damage.size(), 1u);
    CHECK_EQ(again.damage[0].lost.offset, first.damage[0].lost.offset);
    CHECK_EQ(again.damage[0].lost.bytes, first.damage[0].lost.bytes);
  }
  CHECK(closed.open().damage.empty());
}

TEST(disk_damage, losses_add_up_until_then) {
  const ClosedDisk closed;
  CHECK(truncate(closed.file(0).c_str(), kExtentFileBytes - 8192) == 0);
  CHECK_EQ(closed.open().damage[0].lost.bytes, 8192u);
  CHECK(truncate(closed.file(0).c_str(), kExtentFileBytes - 4096) == 0);
  const auto found = closed.open();
  CHECK_EQ(found.damage[0].lost.offset, kExtentFileBytes - 8192);
  CHECK_EQ(found.damage[0].lost.bytes, 8192u);
}

TEST(disk_damage, growth_and_damage_at_once) {
  const ClosedDisk closed;
  std::filesystem::remove(closed.file(2));
  ExtentDiskOptions options = closed.options();
  options.capacity_bytes = 4 * kExtentFileBytes;
  ExtentDisk disk(options);
  CHECK_EQ(disk.damage().size(), 1u);
  CHECK_EQ(disk.damage()[0].lost.bytes, kExtentFileBytes / 2 - 4096);  // what was there before
  CHECK(holds_block(disk, 0) && holds_block(disk, 1));
  CHECK_EQ(write_and_wait(disk, 4 * kExtentFileBytes - 4096, AlignedBytes(4096, 1)), 0);
}

TEST(disk_damage, a_file_of_another_disk_is_refused_and_nothing_is_changed) {
  const ClosedDisk closed;
  const ClosedDisk other;
  ExtentHeader foreign = header_of(other.file(2));
  foreign.disk_id = disk_id(9);
  write_header(other.file(2), foreign);
  std::filesystem::copy_file(other.file(2), closed.file(2), std::filesystem::copy_options::overwrite_existing);
  std::filesystem::remove(closed.file(0));  // would be repaired, were the others in order
  CHECK(contains(closed.why_refused(), closed.file(2) + " belongs to another disk"));
  CHECK(!exists(closed.file(0)));
  CHECK_EQ(header_of(closed.file(2)).disk_id.back(), 9);
}

TEST(disk_damage, a_newer_version_is_refused_and_nothing_is_changed) {
  const ClosedDisk closed;
  ExtentHeader newer = header_of(closed.file(1));
  newer.version = kExtentFormatVersion + 1;
  write_header(closed.file(1), newer);
  std::filesystem::remove(closed.file(2));
  CHECK(contains(closed.why_refused(), closed.file(1) + " has format version 2"));
  CHECK(!exists(closed.file(2)));
}

TEST(disk_damage, swapped_files_are_refused) {
  const ClosedDisk closed;
  std::filesystem::rename(closed.file(0), closed.directory.file("kept"));
  std::filesystem::rename(closed.file(1), closed.file(0));
  std::filesystem::rename(closed.directory.file("kept"), closed.file(1));
  CHECK(contains(closed.why_refused(), "is file 1 of this disk under another name"));
}

TEST(disk_damage, somebody_elses_files_are_not_overwritten) {
  const TemporaryDirectory directory;
  const std::string path = extent_file(directory.path(), 1);
  const FileDescriptor file(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  CHECK_EQ(pwrite(file.get(), "my letters", 10, 0), 10);
  const std::string why = why_thrown<std::runtime_error>([&] { ExtentDisk disk(small_disk(directory.path())); });
  CHECK(contains(why, path + " is in the way"));
  CHECK_EQ(file_bytes(path), 10u);
  CHECK(!exists(extent_file(directory.path(), 0)));
}

TEST(disk_damage, what_is_no_file_is_refused) {
  const ClosedDisk closed;
  std::filesystem::remove(closed.file(1));
  std::filesystem::create_directory(closed.file(1));
  CHECK(contains(closed.why_refused(), "is no regular file"));
  std::filesystem::remove(closed.file(1));
  CHECK(mkfifo(closed.file(1).c_str(), 0600) == 0);
  CHECK(contains(closed.why_refused(), "is no regular file"));
}

// Copying a disk with a tool that leaves out zeros makes holes, which could fail to be filled on a full file system.
TEST(disk_damage, holes_are_filled) {
  const ClosedDisk closed;
  const FileDescriptor file(open(closed.file(0).c_str(), O_RDWR | O_CLOEXEC));
  if (fallocate(file.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 512 << 10, 256 << 10) != 0) return;
  CHECK(closed.open().damage.empty());
  struct stat status;
  CHECK(fstat(file.get(), &status) == 0);
  CHECK(static_cast<uint64_t>(status.st_blocks) * 512 >= kExtentFileBytes);
}

}  // namespace kvstore
