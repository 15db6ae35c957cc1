#include "disk/extent_header.h"

#include <bit>
#include <cstring>

#include "base/checksum.h"

namespace kvstore {

namespace {

static_assert(std::endian::native == std::endian::little, "numbers of the header are taken as they lie in memory");

struct Layout {
  char magic[8];
  uint32_t version;
  uint32_t index;
  DiskId disk_id;
  uint64_t extent_file_bytes;
  uint64_t disk_bytes;
  uint64_t lost_offset;
  uint64_t lost_bytes;
  uint8_t zero[444];
  uint32_t checksum;
};
static_assert(sizeof(Layout) == 512 && offsetof(Layout, checksum) == 508);

constexpr char kMagic[] = {'K', 'V', 'E', 'X', 'T', 'E', 'N', 'T'};

}  // namespace

HeaderGranule encode_extent_header(const ExtentHeader& header) {
  Layout layout{};
  std::memcpy(layout.magic, kMagic, sizeof(kMagic));
  layout.version = header.version;
  layout.index = header.index;
  layout.disk_id = header.disk_id;
  layout.extent_file_bytes = header.extent_file_bytes;
  layout.disk_bytes = header.disk_bytes;
  layout.lost_offset = header.lost.offset;
  layout.lost_bytes = header.lost.bytes;
  layout.checksum = crc32c(&layout, offsetof(Layout, checksum));
  HeaderGranule granule;
  std::memcpy(granule.bytes.data(), &layout, sizeof(layout));
  return granule;
}

std::optional<ExtentHeader> decode_extent_header(const HeaderGranule& granule) {
  Layout layout;
  std::memcpy(&layout, granule.bytes.data(), sizeof(layout));
  if (std::memcmp(layout.magic, kMagic, sizeof(kMagic)) != 0) return std::nullopt;
  if (layout.checksum != crc32c(&layout, offsetof(Layout, checksum))) return std::nullopt;
  return ExtentHeader{.version = layout.version,
                      .index = layout.index,
                      .disk_id = layout.disk_id,
                      .extent_file_bytes = layout.extent_file_bytes,
                      .disk_bytes = layout.disk_bytes,
                      .lost = {layout.lost_offset, layout.lost_bytes}};
}

}  // namespace kvstore
