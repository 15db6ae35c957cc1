// CRC32C by folding with carry-less multiplication on 512-bit vectors (Gopal et al., "Fast CRC computation for generic
// polynomials using PCLMULQDQ instruction", Intel 2009).
//
// A vector holds four 128-bit lanes of the data; a lane is a polynomial whose first byte has the highest powers. To
// fold a lane forward by D bits is to replace it by 128 bits congruent to lane * x^D, which are then added to the data
// D bits further on. In the end one vector is left, congruent to all that was read.
#if defined(__x86_64__)

#include <immintrin.h>

#include "base/crc32c_implementation.h"
#include "base/crc32c_polynomial.h"
#include "base/crc32c_transfer.h"

#define KVSTORE_AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,vpclmulqdq,pclmul,sse4.2")))

namespace kvstore {

namespace {

constexpr size_t kVectorBytes = 64;
constexpr int kVectorBits = 512;

// Vectors summed side by side, because a fold takes several cycles. A streaming copy waits for memory instead, and
// there one is fastest: measured on Zen 5 out of a cold memfd, 0.98 of the copy without checksum, with 2 of them 0.94
// and with 4 only 0.88; with source and destination 16 bytes askew 0.96, 0.90 and 0.70.
template <Sink sink>
constexpr int kAccumulators = sink == Sink::kStreaming ? 1 : 8;

// The pair of multipliers that folds one lane forward. The product of two reflected words stands for x times their
// product, and the multiplier is held in the low half of its word, which stands for x^32 times it; hence the exponents.
// The first eight bytes of a lane stand 64 powers above the last eight.
struct FoldBy {
  explicit constexpr FoldBy(int bits)
      : first(crc32c_polynomial::power_of_x(bits + 64 - 33)), last(crc32c_polynomial::power_of_x(bits - 33)) {}
  long long first;
  long long last;
};

KVSTORE_AVX512 inline __m512i fold_onto(__m512i lanes, __m512i multipliers, __m512i data) {
  const __m512i first = _mm512_clmulepi64_epi128(lanes, multipliers, 0x00);
  const __m512i last = _mm512_clmulepi64_epi128(lanes, multipliers, 0x11);
  constexpr int kXorOfThree = 0x96;
  return _mm512_ternarylogic_epi64(first, last, data, kXorOfThree);
}

template <int bits>
KVSTORE_AVX512 inline __m512i fold_by() {
  constexpr FoldBy fold(bits);
  return _mm512_set_epi64(fold.last, fold.first, fold.last, fold.first, fold.last, fold.first, fold.last, fold.first);
}

// The first `bytes` of a vector by the crc32 instruction, 24 cycles for a whole one: not worth folding further.
KVSTORE_AVX512 inline uint32_t sum_vector(__m512i vector, size_t bytes, uint32_t remainder) {
  alignas(kVectorBytes) uint64_t words[kVectorBytes / 8];
  _mm512_store_si512(words, vector);
  for (size_t index = 0; index < bytes / 8; ++index) {
    remainder = static_cast<uint32_t>(_mm_crc32_u64(remainder, words[index]));
  }
  if (bytes % 8 == 0) return remainder;
  uint64_t rest = words[bytes / 8];
  for (size_t index = 0; index < bytes % 8; ++index, rest >>= 8) {
    remainder = _mm_crc32_u8(remainder, static_cast<uint8_t>(rest));
  }
  return remainder;
}

// The compiler must not read a source byte again: another process may be writing to it.
template <Sink sink>
KVSTORE_AVX512 inline __m512i pass_vector(const Transfer<sink>& transfer, size_t at) {
  __m512i vector = _mm512_loadu_si512(transfer.from + at);
  if constexpr (sink != Sink::kNone) asm("" : "+v"(vector));
  if constexpr (sink == Sink::kCached) _mm512_storeu_si512(transfer.to + at, vector);
  if constexpr (sink == Sink::kStreaming) {
    _mm512_stream_si512(reinterpret_cast<__m512i*>(transfer.to + at), vector);
  }
  return vector;
}

// The same for the first `bytes` of a vector only.
template <Sink sink>
KVSTORE_AVX512 inline __m512i pass_partial(const Transfer<sink>& transfer, size_t bytes) {
  const __mmask64 mask = (uint64_t{1} << bytes) - 1;
  __m512i vector = _mm512_maskz_loadu_epi8(mask, transfer.from);
  if constexpr (sink != Sink::kNone) {
    asm("" : "+v"(vector));
    _mm512_mask_storeu_epi8(transfer.to, mask, vector);
  }
  return vector;
}

// All full groups of kAccumulators vectors, of which there is at least one, summed into one vector; `start` is added to
// the first.
template <Sink sink>
KVSTORE_AVX512 inline __m512i pass_groups(Transfer<sink>& transfer, __m512i start) {
  constexpr int kCount = kAccumulators<sink>;
  constexpr size_t kGroupBytes = kCount * kVectorBytes;
  __m512i sums[kCount];
  for (int index = 0; index < kCount; ++index) sums[index] = pass_vector(transfer, index * kVectorBytes);
  sums[0] = _mm512_xor_si512(sums[0], start);
  const __m512i next_group = fold_by<kCount * kVectorBits>();
  const size_t bytes = transfer.bytes / kGroupBytes * kGroupBytes;
  for (size_t at = kGroupBytes; at < bytes; at += kGroupBytes) {
    for (int index = 0; index < kCount; ++index) {
      sums[index] = fold_onto(sums[index], next_group, pass_vector(transfer, at + index * kVectorBytes));
    }
  }
  transfer.advance(bytes);
  const __m512i next_vector = fold_by<kVectorBits>();
  __m512i sum = sums[0];
  for (int index = 1; index < kCount; ++index) sum = fold_onto(sum, next_vector, sums[index]);
  return sum;
}

template <Sink sink>
KVSTORE_AVX512 uint32_t run(void* destination, const void* source, size_t bytes, uint32_t crc) {
  Transfer<sink> transfer(destination, source, bytes);
  uint32_t remainder = ~crc;
  if constexpr (sink == Sink::kStreaming) {
    const size_t head = transfer.bytes_to_line();
    remainder = sum_vector(pass_partial(transfer, head), head, remainder);
    transfer.advance(head);
  }
  if (transfer.bytes >= kVectorBytes) {
    // The remainder so far is carried in by adding it to the first bytes that follow.
    __m512i sum = _mm512_zextsi128_si512(_mm_cvtsi32_si128(static_cast<int>(remainder)));
    if (transfer.bytes >= kAccumulators<sink> * kVectorBytes) {
      sum = pass_groups(transfer, sum);
    } else {
      sum = _mm512_xor_si512(sum, pass_vector(transfer, 0));
      transfer.advance(kVectorBytes);
    }
    const __m512i next_vector = fold_by<kVectorBits>();
    for (; transfer.bytes >= kVectorBytes; transfer.advance(kVectorBytes)) {
      sum = fold_onto(sum, next_vector, pass_vector(transfer, 0));
    }
    remainder = sum_vector(sum, kVectorBytes, 0);
  }
  if (transfer.bytes > 0) remainder = sum_vector(pass_partial(transfer, transfer.bytes), transfer.bytes, remainder);
  if constexpr (sink == Sink::kStreaming) _mm_sfence();
  return ~remainder;
}

uint32_t checksum(const void* data, size_t bytes, uint32_t crc) { return run<Sink::kNone>(nullptr, data, bytes, crc); }

KVSTORE_AVX512 uint32_t multiply(uint32_t a, uint32_t b) {
  const __m128i product = _mm_clmulepi64_si128(_mm_cvtsi64_si128(a), _mm_cvtsi64_si128(b), 0);
  return static_cast<uint32_t>(_mm_crc32_u64(0, static_cast<uint64_t>(_mm_cvtsi128_si64(product))));
}

bool supported() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("vpclmulqdq") &&
         __builtin_cpu_supports("pclmul") && __builtin_cpu_supports("sse4.2");
}

KVSTORE_AVX512 void copy_streaming_only(void* destination, const void* source, size_t bytes) {
  Transfer<Sink::kStreaming> transfer(destination, source, bytes);
  const size_t head = transfer.bytes_to_line();
  pass_partial(transfer, head);
  transfer.advance(head);
  constexpr size_t kGroupBytes = 4 * kVectorBytes;
  for (; transfer.bytes >= kGroupBytes; transfer.advance(kGroupBytes)) {
    for (size_t at = 0; at < kGroupBytes; at += kVectorBytes) pass_vector(transfer, at);
  }
  for (; transfer.bytes >= kVectorBytes; transfer.advance(kVectorBytes)) pass_vector(transfer, 0);
  pass_partial(transfer, transfer.bytes);
  _mm_sfence();
}

}  // namespace

constinit const Crc32cImplementation kCrc32cAvx512 = {
    .name = "avx512-vpclmul",
    .supported = supported,
    .checksum = checksum,
    .copy = run<Sink::kCached>,
    .copy_streaming = run<Sink::kStreaming>,
    .copy_streaming_only = copy_streaming_only,
    .multiply = multiply,
};

}  // namespace kvstore

#endif
