// CRC32C (Castagnoli), alone or fused with a copy, and the arithmetic to join checksums of pieces.
//
// A block's checksum is CRC32C over all its bytes. Pieces may be summed in any order and joined afterwards with
// `crc32c_concat`, which is what lets chunks arrive out of order.
#pragma once

#include <cstddef>
#include <cstdint>

namespace kvstore {

// CRC32C of `data`, continuing from `crc` (0 to start). crc32c(b, crc32c(a)) == crc32c(a || b).
[[nodiscard]] uint32_t crc32c(const void* data, size_t bytes, uint32_t crc = 0);

// CRC32C of a || b from crc32c(a), crc32c(b) and the length of b. O(log bytes_b).
[[nodiscard]] uint32_t crc32c_concat(uint32_t crc_a, uint32_t crc_b, uint64_t bytes_b);

// Copies and returns the CRC32C of the bytes copied, in one pass. Ranges must not overlap.
// The checksum is of the bytes that were written to `destination`: each source byte is read exactly once, so a writer
// racing on `source` cannot make the copy and the checksum disagree.
uint32_t copy_crc32c(void* destination, const void* source, size_t bytes, uint32_t crc = 0);

// The same with non-temporal stores (they bypass the cache): for large blocks that this core will not read again soon.
// Ends with a store fence, so that what the caller publishes next is seen after the bytes.
uint32_t copy_crc32c_streaming(void* destination, const void* source, size_t bytes, uint32_t crc = 0);

// One of the two, by size: what is small is better left in the cache. For every piece of a block on its way.
inline uint32_t copy_piece_crc32c(void* destination, const void* source, size_t bytes, uint32_t crc = 0) {
  constexpr size_t kStreamingBytesMin = 32 << 10;
  return bytes >= kStreamingBytesMin ? copy_crc32c_streaming(destination, source, bytes, crc)
                                     : copy_crc32c(destination, source, bytes, crc);
}

// Copies as copy_crc32c_streaming does but without the checksum: the bound that benchmarks compare with.
void copy_streaming(void* destination, const void* source, size_t bytes);

// "avx512-vpclmul", "sse4.2" or "portable": chosen once, at first use, from what the CPU has.
[[nodiscard]] const char* crc32c_implementation();

}  // namespace kvstore
