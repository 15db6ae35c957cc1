// CRC32C in plain C++: eight bytes a step through eight tables ("slicing by 8": Kounavis and Berry, "A systematic
// approach to building high performance software-based CRC generators", ISCC 2005).
#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

#include "base/crc32c_implementation.h"
#include "base/crc32c_polynomial.h"

namespace kvstore {

namespace {

static_assert(std::endian::native == std::endian::little, "words of the data are taken as they lie in memory");

// kTables[k][byte]: the checksum register after `byte` and then k zero bytes.
constexpr auto kTables = [] {
  std::array<std::array<uint32_t, 256>, 8> tables{};
  for (uint32_t byte = 0; byte < 256; ++byte) {
    uint32_t remainder = byte;
    for (int bit = 0; bit < 8; ++bit) remainder = crc32c_polynomial::times_x(remainder);
    tables[0][byte] = remainder;
  }
  for (size_t k = 1; k < 8; ++k) {
    for (size_t byte = 0; byte < 256; ++byte) {
      const uint32_t before = tables[k - 1][byte];
      tables[k][byte] = (before >> 8) ^ tables[0][before & 0xFF];
    }
  }
  return tables;
}();

// The register after eight bytes, into which the register before them has been mixed.
uint32_t reduce(uint64_t word) {
  return kTables[7][word & 0xFF] ^ kTables[6][word >> 8 & 0xFF] ^ kTables[5][word >> 16 & 0xFF] ^
         kTables[4][word >> 24 & 0xFF] ^ kTables[3][word >> 32 & 0xFF] ^ kTables[2][word >> 40 & 0xFF] ^
         kTables[1][word >> 48 & 0xFF] ^ kTables[0][word >> 56];
}

uint32_t checksum(const void* data, size_t bytes, uint32_t crc) {
  const auto* cursor = static_cast<const uint8_t*>(data);
  uint32_t remainder = ~crc;
  for (; bytes >= 8; bytes -= 8, cursor += 8) {
    uint64_t word;
    std::memcpy(&word, cursor, sizeof(word));
    remainder = reduce(word ^ remainder);
  }
  for (; bytes > 0; --bytes, ++cursor) remainder = (remainder >> 8) ^ kTables[0][(remainder ^ *cursor) & 0xFF];
  return ~remainder;
}

// Sums what was written, block by block while the block is in the cache, so that the source is read once.
uint32_t copy(void* destination, const void* source, size_t bytes, uint32_t crc) {
  constexpr size_t kBlockBytes = 4096;
  auto* to = static_cast<std::byte*>(destination);
  const auto* from = static_cast<const std::byte*>(source);
  while (bytes > 0) {
    const size_t step = std::min(bytes, kBlockBytes);
    std::memcpy(to, from, step);
    crc = checksum(to, step, crc);
    to += step;
    from += step;
    bytes -= step;
  }
  return crc;
}

void copy_only(void* destination, const void* source, size_t bytes) {
  if (bytes > 0) std::memcpy(destination, source, bytes);
}

uint32_t multiply(uint32_t a, uint32_t b) {
  uint64_t product = 0;
  for (int bit = 0; bit < 32; ++bit) product ^= (uint64_t{a} << bit) & -(uint64_t{b} >> bit & 1);
  return reduce(product);
}

bool supported() { return true; }

}  // namespace

constinit const Crc32cImplementation kCrc32cPortable = {
    .name = "portable",
    .supported = supported,
    .checksum = checksum,
    .copy = copy,
    .copy_streaming = copy,  // C++ has no stores past the cache
    .copy_streaming_only = copy_only,
    .multiply = multiply,
};

}  // namespace kvstore
