// CRC32C by the crc32 instruction of SSE4.2. It takes eight bytes a cycle but answers after three, so three
// neighbouring segments are summed side by side and then joined by carry-less multiplication (Gopal et al., "Fast CRC
// computation for iSCSI polynomial using CRC32 instruction", Intel 2011).
#if defined(__x86_64__)

#include <immintrin.h>

#include <cstring>

#include "base/crc32c_implementation.h"
#include "base/crc32c_polynomial.h"
#include "base/crc32c_transfer.h"

#define KVSTORE_SSE42 __attribute__((target("sse4.2,pclmul")))

namespace kvstore {

namespace {

// Long enough to make joining cheap, short enough that streaming stores stay within a page or two.
constexpr size_t kSegmentBytes = 256;

// The compiler must not read a source byte again: another process may be writing to it.
template <Sink sink>
KVSTORE_SSE42 inline uint64_t pass_word(const Transfer<sink>& transfer, size_t at) {
  uint64_t word;
  std::memcpy(&word, transfer.from + at, sizeof(word));
  if constexpr (sink != Sink::kNone) asm("" : "+r"(word));
  if constexpr (sink == Sink::kCached) std::memcpy(transfer.to + at, &word, sizeof(word));
  if constexpr (sink == Sink::kStreaming) {
    _mm_stream_si64(reinterpret_cast<long long*>(transfer.to + at), static_cast<long long>(word));
  }
  return word;
}

template <Sink sink>
KVSTORE_SSE42 uint32_t pass_bytes(Transfer<sink>& transfer, size_t bytes, uint32_t remainder) {
  for (size_t at = 0; at < bytes; ++at) {
    uint8_t byte = transfer.from[at];
    if constexpr (sink != Sink::kNone) {
      asm("" : "+q"(byte));
      transfer.to[at] = byte;
    }
    remainder = _mm_crc32_u8(remainder, byte);
  }
  transfer.advance(bytes);
  return remainder;
}

KVSTORE_SSE42 inline __m128i carry_less_product(uint32_t a, uint32_t b) {
  return _mm_clmulepi64_si128(_mm_cvtsi64_si128(a), _mm_cvtsi64_si128(b), 0);
}

KVSTORE_SSE42 inline uint32_t reduce(__m128i product) {
  return static_cast<uint32_t>(_mm_crc32_u64(0, static_cast<uint64_t>(_mm_cvtsi128_si64(product))));
}

KVSTORE_SSE42 uint32_t multiply(uint32_t a, uint32_t b) { return reduce(carry_less_product(a, b)); }

template <Sink sink>
KVSTORE_SSE42 uint32_t pass_three_segments(Transfer<sink>& transfer, uint32_t remainder) {
  constexpr uint32_t kShiftOne = crc32c_polynomial::shift_by_bytes(kSegmentBytes);
  constexpr uint32_t kShiftTwo = crc32c_polynomial::shift_by_bytes(2 * kSegmentBytes);
  uint64_t first = remainder;
  uint64_t second = 0;
  uint64_t third = 0;
  for (size_t at = 0; at < kSegmentBytes; at += 8) {
    first = _mm_crc32_u64(first, pass_word(transfer, at));
    second = _mm_crc32_u64(second, pass_word(transfer, at + kSegmentBytes));
    third = _mm_crc32_u64(third, pass_word(transfer, at + 2 * kSegmentBytes));
  }
  transfer.advance(3 * kSegmentBytes);
  const __m128i moved = _mm_xor_si128(carry_less_product(static_cast<uint32_t>(first), kShiftTwo),
                                      carry_less_product(static_cast<uint32_t>(second), kShiftOne));
  return static_cast<uint32_t>(third) ^ reduce(moved);
}

template <Sink sink>
KVSTORE_SSE42 uint32_t run(void* destination, const void* source, size_t bytes, uint32_t crc) {
  Transfer<sink> transfer(destination, source, bytes);
  uint32_t remainder = ~crc;
  if constexpr (sink == Sink::kStreaming) remainder = pass_bytes(transfer, transfer.bytes_to_line(), remainder);
  while (transfer.bytes >= 3 * kSegmentBytes) remainder = pass_three_segments(transfer, remainder);
  while (transfer.bytes >= 8) {
    remainder = static_cast<uint32_t>(_mm_crc32_u64(remainder, pass_word(transfer, 0)));
    transfer.advance(8);
  }
  remainder = pass_bytes(transfer, transfer.bytes, remainder);
  if constexpr (sink == Sink::kStreaming) _mm_sfence();
  return ~remainder;
}

bool supported() { return __builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("pclmul"); }

uint32_t checksum(const void* data, size_t bytes, uint32_t crc) { return run<Sink::kNone>(nullptr, data, bytes, crc); }

void copy_streaming_only(void* destination, const void* source, size_t bytes) {
  Transfer<Sink::kStreaming> transfer(destination, source, bytes);
  const size_t head = transfer.bytes_to_line();
  if (head > 0) std::memcpy(transfer.to, transfer.from, head);
  transfer.advance(head);
  for (; transfer.bytes >= 64; transfer.advance(64)) {
    const auto* from = reinterpret_cast<const __m128i*>(transfer.from);
    auto* to = reinterpret_cast<__m128i*>(transfer.to);
    const __m128i words[] = {_mm_loadu_si128(from), _mm_loadu_si128(from + 1), _mm_loadu_si128(from + 2),
                             _mm_loadu_si128(from + 3)};
    for (int index = 0; index < 4; ++index) _mm_stream_si128(to + index, words[index]);
  }
  if (transfer.bytes > 0) std::memcpy(transfer.to, transfer.from, transfer.bytes);
  _mm_sfence();
}

}  // namespace

constinit const Crc32cImplementation kCrc32cSse42 = {
    .name = "sse4.2",
    .supported = supported,
    .checksum = checksum,
    .copy = run<Sink::kCached>,
    .copy_streaming = run<Sink::kStreaming>,
    .copy_streaming_only = copy_streaming_only,
    .multiply = multiply,
};

}  // namespace kvstore

#endif
