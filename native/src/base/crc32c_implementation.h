// One way to compute CRC32C, for the dispatcher in checksum.cpp to choose from and for tests to compare.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace kvstore {

struct Crc32cImplementation {
  const char* name;
  bool (*supported)();  // by this CPU
  // These four are what checksum.h says of crc32c, copy_crc32c, copy_crc32c_streaming and copy_streaming.
  uint32_t (*checksum)(const void* data, size_t bytes, uint32_t crc);
  uint32_t (*copy)(void* destination, const void* source, size_t bytes, uint32_t crc);
  uint32_t (*copy_streaming)(void* destination, const void* source, size_t bytes, uint32_t crc);
  void (*copy_streaming_only)(void* destination, const void* source, size_t bytes);
  // a * b * x^33 modulo the polynomial: what one carry-less multiplication and one reduction of reflected words give.
  uint32_t (*multiply)(uint32_t a, uint32_t b);
};

// All that this build contains, the best first; the last is supported everywhere.
std::span<const Crc32cImplementation* const> crc32c_implementations();

extern const Crc32cImplementation kCrc32cPortable;
#if defined(__x86_64__)
extern const Crc32cImplementation kCrc32cSse42;
extern const Crc32cImplementation kCrc32cAvx512;
#endif

}  // namespace kvstore
