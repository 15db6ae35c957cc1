// What the catalog of a disk remembers, and its bytes. docs/FORMAT.md is the page for readers.
//
// A catalog is an ordered map from byte strings to byte strings whose writes are atomic in batches. Two kinds of
// entry, told apart by the first byte of the key:
//
//   'b' key[32]         -> a block: where its bytes lie and what they are
//   'p' key[32] owner[] -> a pin: until when `owner` (UTF-8, 1 to 255 bytes) wants the block kept
//
// All integers are little-endian. Each value ends with the CRC32C of its entry's key and of the value before it: what
// the catalog's own checksums do not see (a batch applied to the wrong map) is found as well.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "base/key.h"

namespace kvstore {

inline constexpr uint8_t kCatalogVersion = 1;
inline constexpr size_t kOwnerBytesMax = 255;
inline constexpr uint64_t kNever = UINT64_MAX;

struct BlockRow {
  Key key{};
  uint64_t offset = 0;  // in the disk's linear space, bytes
  uint32_t length = 0;  // bytes
  uint32_t crc = 0;     // CRC32C of them
  uint32_t depth = 0;   // place in its chain
  uint64_t stamp = 0;   // of the request that wrote it: equal for the blocks of one request, greater for later ones
  uint64_t expires_unix_ms = kNever;

  bool operator==(const BlockRow&) const = default;
};

struct PinRow {
  Key key{};
  std::string owner;
  uint64_t expires_unix_ms = kNever;

  bool operator==(const PinRow&) const = default;
};

struct CatalogEntry {
  std::string key;
  std::string value;
};

[[nodiscard]] std::string catalog_key_of_block(const Key& key);
[[nodiscard]] std::string catalog_key_of_pin(const Key& key, std::string_view owner);
[[nodiscard]] CatalogEntry encode(const BlockRow& row);
[[nodiscard]] CatalogEntry encode(const PinRow& row);

// nullopt unless kind, version, every length and the checksum agree.
[[nodiscard]] std::optional<BlockRow> decode_block(std::string_view key, std::string_view value);
[[nodiscard]] std::optional<PinRow> decode_pin(std::string_view key, std::string_view value);

}  // namespace kvstore
