#include "base/checksum.h"

#include <array>

#include "base/crc32c_implementation.h"
#include "base/crc32c_polynomial.h"

namespace kvstore {

namespace {

#if defined(__x86_64__)
constexpr std::array kImplementations = {&kCrc32cAvx512, &kCrc32cSse42, &kCrc32cPortable};
#else
constexpr std::array kImplementations = {&kCrc32cPortable};
#endif

const Crc32cImplementation* best_supported() {
  for (const Crc32cImplementation* implementation : kImplementations) {
    if (implementation->supported()) return implementation;
  }
  return &kCrc32cPortable;
}

const Crc32cImplementation& selected() {
  static const Crc32cImplementation* const best = best_supported();
  return *best;
}

// kShifts[k][digit] moves a checksum over digit * 256^k bytes.
constexpr auto kShifts = [] {
  std::array<std::array<uint32_t, 256>, 8> shifts{};
  uint32_t step = crc32c_polynomial::power_of_x(8);
  for (auto& digits : shifts) {
    uint32_t shift = crc32c_polynomial::shift_by_bytes(0);
    for (uint32_t& digit : digits) {
      digit = shift;
      shift = crc32c_polynomial::multiply(shift, step);
    }
    for (int squaring = 0; squaring < 8; ++squaring) step = crc32c_polynomial::multiply(step, step);
  }
  return shifts;
}();

}  // namespace

std::span<const Crc32cImplementation* const> crc32c_implementations() { return kImplementations; }

uint32_t crc32c(const void* data, size_t bytes, uint32_t crc) { return selected().checksum(data, bytes, crc); }

uint32_t copy_crc32c(void* destination, const void* source, size_t bytes, uint32_t crc) {
  return selected().copy(destination, source, bytes, crc);
}

uint32_t copy_crc32c_streaming(void* destination, const void* source, size_t bytes, uint32_t crc) {
  return selected().copy_streaming(destination, source, bytes, crc);
}

void copy_streaming(void* destination, const void* source, size_t bytes) {
  selected().copy_streaming_only(destination, source, bytes);
}

uint32_t crc32c_concat(uint32_t crc_a, uint32_t crc_b, uint64_t bytes_b) {
  const auto multiply = selected().multiply;
  uint32_t moved = crc_a;
  for (size_t k = 0; bytes_b != 0; ++k, bytes_b >>= 8) {
    const uint64_t digit = bytes_b & 0xFF;
    if (digit != 0) moved = multiply(moved, kShifts[k][digit]);
  }
  return moved ^ crc_b;
}

const char* crc32c_implementation() { return selected().name; }

}  // namespace kvstore
