#include "store/catalog_row.h"

#include <cstring>

#include "base/checksum.h"

namespace kvstore {
namespace {

constexpr char kBlockKind = 'b';
constexpr char kPinKind = 'p';

struct BlockValue {
  uint8_t version = kCatalogVersion;
  uint8_t reserved[3] = {};
  uint32_t depth = 0;
  uint32_t length = 0;
  uint32_t crc = 0;
  uint64_t offset = 0;
  uint64_t expires_unix_ms = 0;
  uint64_t stamp = 0;
  uint32_t padding = 0;
  uint32_t checksum = 0;
};
static_assert(sizeof(BlockValue) == 48);

struct PinValue {
  uint8_t version = kCatalogVersion;
  uint8_t reserved[3] = {};
  uint32_t padding = 0;
  uint64_t expires_unix_ms = 0;
  uint32_t padding2 = 0;
  uint32_t checksum = 0;
};
static_assert(sizeof(PinValue) == 24);

template <class Value>
uint32_t checksum_of(std::string_view key, const Value& value) {
  return crc32c(&value, offsetof(Value, checksum), crc32c(key.data(), key.size()));
}

template <class Value>
CatalogEntry seal(std::string key, Value value) {
  value.checksum = checksum_of(key, value);
  return {std::move(key), std::string(reinterpret_cast<const char*>(&value), sizeof(value))};
}

// The value's bytes if they are a whole one of this version.
template <class Value>
bool open(std::string_view key, std::string_view bytes, Value* value) {
  if (bytes.size() != sizeof(Value)) return false;
  std::memcpy(value, bytes.data(), sizeof(Value));
  return value->version == kCatalogVersion && value->checksum == checksum_of(key, *value);
}

Key key_in(std::string_view catalog_key) {
  Key key;
  std::memcpy(key.bytes.data(), catalog_key.data() + 1, kKeyBytes);
  return key;
}

std::string catalog_key(char kind, const Key& key, std::string_view owner) {
  std::string name(1, kind);
  name.append(reinterpret_cast<const char*>(key.bytes.data()), kKeyBytes);
  return name.append(owner);
}

}  // namespace

std::string catalog_key_of_block(const Key& key) { return catalog_key(kBlockKind, key, {}); }

std::string catalog_key_of_pin(const Key& key, std::string_view owner) { return catalog_key(kPinKind, key, owner); }

CatalogEntry encode(const BlockRow& row) {
  BlockValue value;
  value.depth = row.depth;
  value.length = row.length;
  value.crc = row.crc;
  value.offset = row.offset;
  value.expires_unix_ms = row.expires_unix_ms;
  value.stamp = row.stamp;
  return seal(catalog_key_of_block(row.key), value);
}

CatalogEntry encode(const PinRow& row) {
  PinValue value;
  value.expires_unix_ms = row.expires_unix_ms;
  return seal(catalog_key_of_pin(row.key, row.owner), value);
}

std::optional<BlockRow> decode_block(std::string_view key, std::string_view bytes) {
  BlockValue value;
  if (key.size() != 1 + kKeyBytes || key[0] != kBlockKind || !open(key, bytes, &value)) return std::nullopt;
  return BlockRow{key_in(key), value.offset, value.length, value.crc, value.depth, value.stamp, value.expires_unix_ms};
}

std::optional<PinRow> decode_pin(std::string_view key, std::string_view bytes) {
  PinValue value;
  const bool named = key.size() > 1 + kKeyBytes && key.size() <= 1 + kKeyBytes + kOwnerBytesMax && key[0] == kPinKind;
  if (!named || !open(key, bytes, &value)) return std::nullopt;
  return PinRow{key_in(key), std::string(key.substr(1 + kKeyBytes)), value.expires_unix_ms};
}

}  // namespace kvstore
