// The bytes of the catalog. docs/FORMAT.md shows the same ones.
#include "store/catalog_row.h"

#include "base/checksum.h"

#include "block_store_fixture.h"
#include "check.h"

using namespace kvstore;
using namespace kvstore::test;

namespace {

std::string hex(std::string_view bytes) {
  std::string text;
  for (const char byte : bytes) {
    char digits[3];
    std::snprintf(digits, sizeof(digits), "%02x", static_cast<unsigned char>(byte));
    text += digits;
  }
  return text;
}

Key counting_key() {
  Key key;
  for (size_t i = 0; i < key.bytes.size(); ++i) key.bytes[i] = static_cast<uint8_t>(i);
  return key;
}

BlockRow block_row() {
  return {counting_key(), 0x0000'0102'0304'5000, 2'097'152, 0xdeadbeef, 7, 0x1122'3344'5566'7788, 1'700'000'000'123};
}

PinRow pin_row() { return {counting_key(), "agent-\xc3\xa9", 1'700'000'600'000}; }

const std::string kKeyHex = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

// Every change of one byte, and of the length, of key and value.
template <class Decode>
void check_damage_is_refused(const CatalogEntry& entry, Decode decode) {
  for (std::string CatalogEntry::* part : {&CatalogEntry::key, &CatalogEntry::value}) {
    const std::string& whole = entry.*part;
    CatalogEntry damaged = entry;
    for (size_t at = 0; at < whole.size(); ++at) {
      for (int bit = 0; bit < 8; ++bit) {
        damaged.*part = whole;
        (damaged.*part)[at] = static_cast<char>(whole[at] ^ (1 << bit));
        CHECK(!decode(damaged.key, damaged.value));
      }
      damaged.*part = whole.substr(0, at);
      CHECK(!decode(damaged.key, damaged.value));
    }
    damaged.*part = whole + '\0';
    CHECK(!decode(damaged.key, damaged.value));
  }
}

}  // namespace

TEST(catalog_row, a_block_has_these_bytes) {
  const CatalogEntry entry = encode(block_row());
  CHECK_EQ(hex(entry.key), "62" + kKeyHex);
  CHECK_EQ(hex(entry.value),
           "01000000"
           "07000000"
           "00002000"
           "efbeadde"
           "0050040302010000"
           "7b68e5cf8b010000"
           "8877665544332211"
           "00000000"
           "2e5d98b8");
  CHECK(decode_block(entry.key, entry.value) == block_row());
}

TEST(catalog_row, a_pin_has_these_bytes) {
  const CatalogEntry entry = encode(pin_row());
  CHECK_EQ(hex(entry.key), "70" + kKeyHex + "6167656e742dc3a9");
  CHECK_EQ(hex(entry.value),
           "01000000"
           "00000000"
           "c08feecf8b010000"
           "00000000"
           "3cfb9768");
  CHECK(decode_pin(entry.key, entry.value) == pin_row());
}

TEST(catalog_row, extremes_come_back) {
  const BlockRow least{key_of(1), 0, 0, 0, 0, 0, 0};
  const BlockRow greatest{key_of(2), UINT64_MAX, UINT32_MAX, UINT32_MAX, UINT32_MAX, UINT64_MAX, kNever};
  for (const BlockRow& row : {least, greatest}) {
    const CatalogEntry entry = encode(row);
    CHECK(decode_block(entry.key, entry.value) == row);
  }
  for (const size_t length : {size_t{1}, kOwnerBytesMax}) {
    const PinRow row{key_of(3), std::string(length, 'x'), kNever};
    const CatalogEntry entry = encode(row);
    CHECK(decode_pin(entry.key, entry.value) == row);
  }
}

TEST(catalog_row, damage_is_refused) {
  check_damage_is_refused(encode(block_row()), decode_block);
  check_damage_is_refused(encode(pin_row()), decode_pin);
}

TEST(catalog_row, kinds_are_not_taken_for_each_other) {
  const CatalogEntry block = encode(block_row());
  const CatalogEntry pin = encode(pin_row());
  CHECK(!decode_pin(block.key, block.value));
  CHECK(!decode_block(pin.key, pin.value));
  CHECK(!decode_block({}, {}));
  CHECK(!decode_pin({}, {}));
}

TEST(catalog_row, an_owner_is_neither_empty_nor_too_long) {
  for (const size_t length : {size_t{0}, kOwnerBytesMax + 1}) {
    const CatalogEntry entry = encode(PinRow{key_of(3), std::string(length, 'x'), kNever});
    CHECK(!decode_pin(entry.key, entry.value));
  }
}

// Whole and sealed, but of a format that this code does not know.
TEST(catalog_row, another_version_is_refused) {
  CatalogEntry entry = encode(block_row());
  entry.value[0] = kCatalogVersion + 1;
  const size_t sealed = entry.value.size() - sizeof(uint32_t);
  const uint32_t checksum = crc32c(entry.value.data(), sealed, crc32c(entry.key.data(), entry.key.size()));
  std::memcpy(entry.value.data() + sealed, &checksum, sizeof(checksum));
  CHECK(!decode_block(entry.key, entry.value));
}
