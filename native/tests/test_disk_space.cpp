// File systems that are full, read-only, or refuse direct I/O: real ones, mounted for the test where that is permitted.
#include <sys/mount.h>
#include <sys/statvfs.h>

#include <cstring>
#include <filesystem>
#include <optional>
#include <system_error>

#include "disk/extent_disk.h"
#include "extent_disk_fixture.h"

namespace kvstore {
namespace {

using namespace test;

class Tmpfs {
 public:
  // nullptr, and the reason on the output, where mounting is not permitted.
  static std::unique_ptr<Tmpfs> mount(const char* options) {
    auto made = std::unique_ptr<Tmpfs>(new Tmpfs);
    if (::mount("kvstore-test", made->path().c_str(), "tmpfs", 0, options) == 0) {
      made->mounted_ = true;
      return made;
    }
    std::printf("      (skipped: mounting a tmpfs failed: %s)\n", std::strerror(errno));
    return nullptr;
  }
  ~Tmpfs() {
    if (mounted_) umount2(path().c_str(), MNT_DETACH);
  }
  void remount(unsigned long flags, const char* options) const {
    CHECK(::mount(nullptr, path().c_str(), nullptr, MS_REMOUNT | flags, options) == 0);
  }
  [[nodiscard]] const std::string& path() const { return directory_.path(); }

 private:
  Tmpfs() = default;

  TemporaryDirectory directory_;
  bool mounted_ = false;
};

std::string why_refused(const ExtentDiskOptions& options) {
  return why_thrown<std::system_error>([&] { ExtentDisk disk(options); });
}

}  // namespace

TEST(disk_space, too_little_is_told_and_leaves_nothing_behind) {
  const auto tmpfs = Tmpfs::mount("size=2m");
  if (tmpfs == nullptr) return;
  const ExtentDiskOptions options = small_disk(tmpfs->path());  // 2.5 MiB
  const std::string why = why_refused(options);
  CHECK(contains(why, tmpfs->path()));
  CHECK(contains(why, "needs 2621440 bytes"));
  CHECK(contains(why, "has 2097152 available"));
  CHECK(std::filesystem::is_empty(tmpfs->path()));
  tmpfs->remount(0, "size=3m");
  const ExtentDisk disk(options);
}

TEST(disk_space, too_little_to_grow_leaves_the_disk_as_it_was) {
  const auto tmpfs = Tmpfs::mount("size=3m");
  if (tmpfs == nullptr) return;
  ExtentDiskOptions options = small_disk(tmpfs->path());
  {
    ExtentDisk disk(options);
    write_blocks(disk);
  }
  ExtentDiskOptions larger = options;
  larger.capacity_bytes = 6 * kExtentFileBytes;
  CHECK(contains(why_refused(larger), "available"));
  CHECK(!exists(extent_file(tmpfs->path(), 3)));
  CHECK_EQ(file_bytes(extent_file(tmpfs->path(), 2)), kExtentFileBytes / 2);
  ExtentDisk disk(options);
  CHECK(disk.damage().empty());
  for (int index = 0; index < 3; ++index) CHECK(holds_block(disk, index));
}

// The count of free bytes promises more than the file system then gives: here it runs out of inodes.
TEST(disk_space, a_failure_half_way_is_undone) {
  const auto tmpfs = Tmpfs::mount("size=8m,nr_inodes=4");  // one is the root's
  if (tmpfs == nullptr) return;
  ExtentDiskOptions options = small_disk(tmpfs->path());
  {
    const ExtentDisk disk(options);
  }
  ExtentDiskOptions larger = options;
  larger.capacity_bytes = 4 * kExtentFileBytes;
  CHECK(contains(why_refused(larger), extent_file(tmpfs->path(), 3)));
  CHECK_EQ(file_bytes(extent_file(tmpfs->path(), 2)), kExtentFileBytes / 2);
  const ExtentDisk disk(options);
  CHECK(disk.damage().empty());
}

TEST(disk_space, a_read_only_file_system_is_told) {
  const auto tmpfs = Tmpfs::mount("size=8m");
  if (tmpfs == nullptr) return;
  const ExtentDiskOptions options = small_disk(tmpfs->path());
  tmpfs->remount(MS_RDONLY, "size=8m");
  CHECK(contains(why_refused(options), "mount it writable"));
  tmpfs->remount(0, "size=8m");
  {
    const ExtentDisk disk(options);
  }
  tmpfs->remount(MS_RDONLY, "size=8m");
  CHECK(contains(why_refused(options), "mount it writable"));
}

// Whatever the file system: direct where it can be, through the page cache where not, and the bytes are the same.
TEST(disk_space, other_file_systems_serve_as_well) {
  const auto tmpfs = Tmpfs::mount("size=8m");
  if (tmpfs == nullptr) return;
  for (int opening = 0; opening < 2; ++opening) {
    ExtentDisk disk(small_disk(tmpfs->path()));
    CHECK(disk.damage().empty());
    if (opening == 0) write_blocks(disk);
    for (int index = 0; index < 3; ++index) CHECK(holds_block(disk, index));
  }
  const FileDescriptor probe(open(extent_file(tmpfs->path(), 0).c_str(), O_RDWR | O_DIRECT | O_CLOEXEC));
  const ExtentDisk disk(small_disk(tmpfs->path()));
  CHECK_EQ(disk.direct(), probe.valid());
}

}  // namespace kvstore
