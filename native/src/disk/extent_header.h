// The first granule of an extent file. Numbers are little-endian.
//
//   offset  bytes
//        0      8  "KVEXTENT"
//        8      4  format version
//       12      4  index of the file
//       16     16  identity of the disk
//       32      8  bytes of a full extent file of this disk
//       40      8  bytes of the whole disk when it last grew: how many files there must be, and how long this one
//       48      8  offset in this file, and
//       56      8  length of what was lost and repaired, and not yet taken note of (0: nothing)
//      508      4  CRC32C of the 508 bytes before it
//
// The rest is zero. All that counts lies in one sector of 512 bytes, which devices write whole or not at all. The place
// of the magic, the version and the checksum is the same in all versions to come.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "disk/disk.h"
#include "disk/extent_disk.h"

namespace kvstore {

inline constexpr uint32_t kExtentFormatVersion = 1;

struct ExtentHeader {
  uint32_t version = kExtentFormatVersion;
  uint32_t index = 0;
  DiskId disk_id{};
  uint64_t extent_file_bytes = 0;
  uint64_t disk_bytes = 0;
  DiskRange lost;  // offset within the file
};

// A whole granule, aligned as direct I/O wants it.
struct alignas(kDiskGranuleBytes) HeaderGranule {
  std::array<std::byte, kDiskGranuleBytes> bytes{};
};

HeaderGranule encode_extent_header(const ExtentHeader& header);
// nullopt when these bytes are no header, or a damaged one. Of a newer version only `version` means something.
std::optional<ExtentHeader> decode_extent_header(const HeaderGranule& granule);

}  // namespace kvstore
