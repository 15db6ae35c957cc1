// A small ExtentDisk in a directory of its own, and ways to hurt its files.
#pragma once

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <optional>
#include <string>
#include <vector>

#include "disk/extent_disk.h"
#include "disk/extent_header.h"
#include "disk/file_descriptor.h"
#include "disk_fixture.h"

namespace kvstore::test {

inline constexpr uint64_t kExtentFileBytes = 1 << 20;

inline DiskId disk_id(uint8_t last) {
  DiskId id{};
  id.back() = last;
  return id;
}

// Two and a half files.
inline ExtentDiskOptions small_disk(const std::string& directory, IoKind io = IoKind::kAuto) {
  return {.directory = directory,
          .capacity_bytes = 5 * kExtentFileBytes / 2,
          .extent_file_bytes = kExtentFileBytes,
          .disk_id = disk_id(1),
          .io = io};
}

inline std::string extent_file(const std::string& directory, int index) {
  return directory + "/extents-000" + std::to_string(index) + ".kv";
}

inline uint64_t file_bytes(const std::string& path) {
  struct stat status;
  CHECK(stat(path.c_str(), &status) == 0);
  return static_cast<uint64_t>(status.st_size);
}

inline bool exists(const std::string& path) { return access(path.c_str(), F_OK) == 0; }

inline void overwrite(const std::string& path, uint64_t offset, const void* data, size_t bytes) {
  const FileDescriptor file(open(path.c_str(), O_RDWR | O_CLOEXEC));
  CHECK(file.valid());
  CHECK_EQ(pwrite(file.get(), data, bytes, static_cast<off_t>(offset)), static_cast<ssize_t>(bytes));
  CHECK(fsync(file.get()) == 0);
}

inline ExtentHeader header_of(const std::string& path) {
  const FileDescriptor file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  HeaderGranule granule;
  CHECK_EQ(pread(file.get(), granule.bytes.data(), granule.bytes.size(), 0),
           static_cast<ssize_t>(granule.bytes.size()));
  const auto header = decode_extent_header(granule);
  CHECK(header.has_value());
  return *header;
}

inline void write_header(const std::string& path, const ExtentHeader& header) {
  const HeaderGranule granule = encode_extent_header(header);
  overwrite(path, 0, granule.bytes.data(), granule.bytes.size());
}

// One block in each file of a small disk: at its front, and at its very end in the last one.
inline constexpr uint32_t kBlockBytes = 64 << 10;
inline std::vector<uint64_t> block_places() {
  return {kDiskGranuleBytes, kExtentFileBytes + kDiskGranuleBytes, 5 * kExtentFileBytes / 2 - kBlockBytes};
}

inline void write_blocks(Disk& disk) {
  for (const uint64_t place : block_places()) {
    CHECK_EQ(write_and_wait(disk, place, AlignedBytes(kBlockBytes, place)), 0);
  }
  CHECK_EQ(disk.sync(), 0);
}

inline bool holds_block(Disk& disk, int index) {
  const uint64_t place = block_places()[static_cast<size_t>(index)];
  return holds(disk, place, kBlockBytes, place);
}

}  // namespace kvstore::test
