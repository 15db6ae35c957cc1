// A directory of extent files as one linear space: bytes, layout on disk, growth, and what must not be asked of it.
#include <atomic>
#include <stdexcept>
#include <system_error>
#include <thread>
#include <vector>

#include "disk/extent_disk.h"
#include "extent_disk_fixture.h"

namespace kvstore {
namespace {

using namespace test;

constexpr IoKind kKinds[] = {IoKind::kAuto, IoKind::kThreads};

template <class Error>
std::string why_refused(const ExtentDiskOptions& options) {
  return why_thrown<Error>([&] { ExtentDisk disk(options); });
}

}  // namespace

TEST(disk_extents, capacity_and_reserved_ranges) {
  const TemporaryDirectory directory;
  ExtentDiskOptions options = small_disk(directory.path());
  options.capacity_bytes += 4095;  // rounded down
  const ExtentDisk disk(options);
  CHECK_EQ(disk.capacity_bytes(), 5 * kExtentFileBytes / 2);
  const auto reserved = disk.reserved();
  CHECK_EQ(reserved.size(), 3u);
  for (size_t i = 0; i < reserved.size(); ++i) {
    CHECK_EQ(reserved[i].offset, i * kExtentFileBytes);
    CHECK_EQ(reserved[i].bytes, uint64_t{kDiskGranuleBytes});
  }
  CHECK(disk.damage().empty());
  CHECK_EQ(file_bytes(extent_file(directory.path(), 0)), kExtentFileBytes);
  CHECK_EQ(file_bytes(extent_file(directory.path(), 1)), kExtentFileBytes);
  CHECK_EQ(file_bytes(extent_file(directory.path(), 2)), kExtentFileBytes / 2);
  CHECK(!exists(extent_file(directory.path(), 3)));
}

TEST(disk_extents, space_is_allocated_at_once) {
  const TemporaryDirectory directory;
  const ExtentDisk disk(small_disk(directory.path()));
  struct stat status;
  CHECK(stat(extent_file(directory.path(), 0).c_str(), &status) == 0);
  CHECK(static_cast<uint64_t>(status.st_blocks) * 512 >= kExtentFileBytes);
}

TEST(disk_extents, bytes_survive_reopening) {
  for (const IoKind kind : kKinds) {
    const TemporaryDirectory directory;
    for (int opening = 0; opening < 3; ++opening) {
      ExtentDisk disk(small_disk(directory.path(), kind));
      CHECK(disk.damage().empty());
      if (opening == 0) write_blocks(disk);
      for (int index = 0; index < 3; ++index) CHECK(holds_block(disk, index));
    }
  }
}

TEST(disk_extents, random_blocks_from_many_threads_are_bit_exact) {
  for (const IoKind kind : kKinds) {
    const TemporaryDirectory directory;
    ExtentDiskOptions options = small_disk(directory.path(), kind);
    options.capacity_bytes = 64 << 20;
    options.extent_file_bytes = 16 << 20;
    ExtentDisk disk(options);
    std::atomic<uint32_t> wrong{0};
    std::vector<std::thread> threads;
    for (uint64_t thread = 0; thread < 4; ++thread) {
      threads.emplace_back([&, thread] {
        std::mt19937_64 random(thread);
        const uint64_t begin = thread * options.extent_file_bytes + kDiskGranuleBytes;
        for (uint64_t round = 0; round < 30; ++round) {
          const auto bytes = static_cast<uint32_t>((1 + random() % 768) * kDiskGranuleBytes);  // to 3 MiB
          const uint64_t room = options.extent_file_bytes - kDiskGranuleBytes - bytes;
          const uint64_t offset = begin + random() % (room / kDiskGranuleBytes + 1) * kDiskGranuleBytes;
          wrong += write_and_wait(disk, offset, AlignedBytes(bytes, round)) != 0;
          if (round % 8 == 0) wrong += disk.sync() != 0;
          wrong += !holds(disk, offset, bytes, round);
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    CHECK_EQ(wrong.load(), 0u);
  }
}

TEST(disk_extents, header_on_disk_is_as_the_format_says) {
  const TemporaryDirectory directory;
  {
    const ExtentDisk disk(small_disk(directory.path()));
  }
  const FileDescriptor file(open(extent_file(directory.path(), 1).c_str(), O_RDONLY | O_CLOEXEC));
  uint8_t bytes[512];
  CHECK_EQ(pread(file.get(), bytes, sizeof(bytes), 0), 512);
  CHECK(std::memcmp(bytes, "KVEXTENT", 8) == 0);
  const auto number = [&](size_t at, size_t length) {
    uint64_t value = 0;
    for (size_t i = 0; i < length; ++i) value |= uint64_t{bytes[at + i]} << (8 * i);
    return value;
  };
  CHECK_EQ(number(8, 4), 1u);
  CHECK_EQ(number(12, 4), 1u);
  CHECK_EQ(number(31, 1), 1u);
  CHECK_EQ(number(32, 8), kExtentFileBytes);
  CHECK_EQ(number(40, 8), 5 * kExtentFileBytes / 2);
  CHECK_EQ(number(48, 8), 0u);
  CHECK_EQ(number(56, 8), 0u);
  for (size_t at = 64; at < 508; ++at) CHECK_EQ(number(at, 1), 0u);
  CHECK_EQ(number(508, 4), 0x05A3BF5Au);
}

TEST(disk_extents, grows_and_keeps_its_blocks) {
  const TemporaryDirectory directory;
  ExtentDiskOptions options = small_disk(directory.path());
  {
    ExtentDisk disk(options);
    write_blocks(disk);
  }
  for (const uint64_t capacity : {uint64_t{11} << 18, uint64_t{3} << 20, uint64_t{(6 << 20) + 8192}}) {
    options.capacity_bytes = capacity;
    ExtentDisk disk(options);
    CHECK(disk.damage().empty());
    CHECK_EQ(disk.capacity_bytes(), capacity);
    for (int index = 0; index < 3; ++index) CHECK(holds_block(disk, index));
    CHECK_EQ(write_and_wait(disk, capacity - 4096, AlignedBytes(4096, capacity)), 0);
  }
  ExtentDisk disk(options);
  CHECK_EQ(disk.reserved().size(), 7u);
  CHECK(holds(disk, (6 << 20) + 4096, 4096, (6 << 20) + 8192));
}

// The processor stops after new files were made and before the headers know: they are taken over, nothing is reported.
TEST(disk_extents, growth_cut_short_is_taken_up_again) {
  const TemporaryDirectory directory;
  ExtentDiskOptions options = small_disk(directory.path());
  {
    ExtentDisk disk(options);
    write_blocks(disk);
  }
  const FileDescriptor unfinished(open(extent_file(directory.path(), 3).c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  CHECK(ftruncate(unfinished.get(), 4096 * 3) == 0);
  options.capacity_bytes = 5 * kExtentFileBytes;
  ExtentDisk disk(options);
  CHECK(disk.damage().empty());
  for (int index = 0; index < 3; ++index) CHECK(holds_block(disk, index));
  CHECK_EQ(write_and_wait(disk, 4 * kExtentFileBytes - 4096, AlignedBytes(4096, 1)), 0);
}

TEST(disk_extents, never_shrinks) {
  const TemporaryDirectory directory;
  ExtentDiskOptions options = small_disk(directory.path());
  {
    const ExtentDisk disk(options);
  }
  for (const uint64_t capacity : {options.capacity_bytes - 4096, kExtentFileBytes}) {
    ExtentDiskOptions smaller = options;
    smaller.capacity_bytes = capacity;
    CHECK(contains(why_refused<std::invalid_argument>(smaller), "cannot shrink"));
    CHECK(contains(why_refused<std::invalid_argument>(smaller), std::to_string(options.capacity_bytes)));
  }
  const ExtentDisk disk(options);
  CHECK(disk.damage().empty());
}

TEST(disk_extents, options_that_make_no_sense_are_refused) {
  const TemporaryDirectory directory;
  const ExtentDiskOptions good = small_disk(directory.path());
  const auto refused = [&](auto change) {
    ExtentDiskOptions options = good;
    change(options);
    return !why_refused<std::invalid_argument>(options).empty();
  };
  CHECK(refused([](ExtentDiskOptions& options) { options.capacity_bytes = 0; }));
  CHECK(refused([](ExtentDiskOptions& options) { options.capacity_bytes = 8191; }));
  CHECK(refused([](ExtentDiskOptions& options) { options.capacity_bytes = uint64_t{1} << 60; }));
  CHECK(refused([](ExtentDiskOptions& options) { options.extent_file_bytes = 0; }));
  CHECK(refused([](ExtentDiskOptions& options) { options.extent_file_bytes = 4096; }));
  CHECK(refused([](ExtentDiskOptions& options) { options.extent_file_bytes += 1; }));
  CHECK(refused([](ExtentDiskOptions& options) { options.depth = 0; }));
  CHECK(!exists(extent_file(directory.path(), 0)));
  const ExtentDisk disk(good);
}

TEST(disk_extents, size_of_files_is_for_life) {
  const TemporaryDirectory directory;
  ExtentDiskOptions options = small_disk(directory.path());
  {
    const ExtentDisk disk(options);
  }
  options.extent_file_bytes *= 2;
  CHECK(contains(why_refused<std::invalid_argument>(options), "cannot be changed"));
}

TEST(disk_extents, directories_that_are_none_are_refused) {
  const TemporaryDirectory directory;
  const std::string missing = directory.file("missing");
  CHECK(contains(why_refused<std::system_error>(small_disk(missing)), missing));
  const std::string file = directory.file("file");
  const FileDescriptor made(open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  CHECK(contains(why_refused<std::system_error>(small_disk(file)), "name a directory"));
}

TEST(disk_extents, programming_errors_stop_the_process) {
  const TemporaryDirectory directory;
  ExtentDisk disk(small_disk(directory.path(), IoKind::kThreads));
  const AlignedBytes bytes(8192, 1);
  const auto ignore = [](int) {};
  CHECK_ABORTS(disk.read(0, bytes.data(), 4096, ignore));                        // a header
  CHECK_ABORTS(disk.read(kExtentFileBytes - 4096, bytes.data(), 8192, ignore));  // across files
  CHECK_ABORTS(disk.write(disk.capacity_bytes(), bytes.data(), 4096, ignore));   // beyond the end
  CHECK_ABORTS(disk.write(disk.capacity_bytes() - 4096, bytes.data(), 8192, ignore));
  CHECK_ABORTS(disk.read(UINT64_MAX - 4095, bytes.data(), 8192, ignore));
  CHECK_ABORTS(disk.read(4097, bytes.data(), 4096, ignore));
  CHECK_ABORTS(disk.read(4096, bytes.data(), 100, ignore));
  CHECK_ABORTS(disk.read(4096, bytes.data(), 0, ignore));
  CHECK_ABORTS(disk.read(4096, bytes.data() + 1, 4096, ignore));
}

}  // namespace kvstore
