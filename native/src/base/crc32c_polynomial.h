// Arithmetic on polynomials over GF(2) modulo the CRC32C polynomial, at compile time: every constant of the checksum
// code is computed here from the polynomial.
//
// A remainder is held bit-reflected, as CRC32C is defined: bit i of the word is the coefficient of x^(31 - i).
#pragma once

#include <array>
#include <cstdint>

namespace kvstore::crc32c_polynomial {

// x^32 + 0x1EDC6F41 (Castagnoli, Braeuer, Herrmann, "Optimization of cyclic redundancy-check codes with 24 and 32
// parity bits", IEEE Transactions on Communications, 1993), reflected.
inline constexpr uint32_t kReflected = [] {
  constexpr uint32_t kPolynomial = 0x1EDC6F41;
  uint32_t reflected = 0;
  for (int bit = 0; bit < 32; ++bit) reflected |= (kPolynomial >> bit & 1) << (31 - bit);
  return reflected;
}();

inline constexpr uint32_t kOne = uint32_t{1} << 31;

constexpr uint32_t times_x(uint32_t a) { return (a >> 1) ^ ((a & 1) != 0 ? kReflected : 0); }

constexpr uint32_t multiply(uint32_t a, uint32_t b) {
  uint32_t product = 0;
  for (; a != 0; a <<= 1, b = times_x(b)) {
    if ((a & kOne) != 0) product ^= b;
  }
  return product;
}

// x^exponent. Negative exponents are welcome: x has an inverse.
constexpr uint32_t power_of_x(int64_t exponent) {
  // The polynomial is x + 1 times a primitive one of degree 31, so the powers of x repeat after this many.
  constexpr int64_t kOrder = (int64_t{1} << 31) - 1;
  int64_t remaining = (exponent % kOrder + kOrder) % kOrder;
  uint32_t power = kOne;
  for (uint32_t square = times_x(kOne); remaining != 0; remaining >>= 1, square = multiply(square, square)) {
    if ((remaining & 1) != 0) power = multiply(power, square);
  }
  return power;
}
static_assert(multiply(power_of_x(-1), power_of_x(1)) == kOne && power_of_x(32) == kReflected);

// What `Crc32cImplementation::multiply` must be given to move a checksum over `bytes` further bytes.
constexpr uint32_t shift_by_bytes(int64_t bytes) { return power_of_x(8 * bytes - 33); }

}  // namespace kvstore::crc32c_polynomial
