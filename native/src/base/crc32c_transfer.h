// The walk that a checksum makes over its bytes, copying them on the way or not.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace kvstore {

// Where the summed bytes go: nowhere, to memory through the cache, or to memory past it.
enum class Sink { kNone, kCached, kStreaming };

template <Sink sink>
struct Transfer {
  static constexpr size_t kLineBytes = 64;

  Transfer(void* destination, const void* source, size_t length)
      : from(static_cast<const uint8_t*>(source)), to(static_cast<uint8_t*>(destination)), bytes(length) {}

  void advance(size_t step) {
    from += step;
    if constexpr (sink != Sink::kNone) to += step;
    bytes -= step;
  }

  // Bytes to go before the destination starts a cache line: streaming stores must fill whole lines.
  [[nodiscard]] size_t bytes_to_line() const {
    return std::min<size_t>(bytes, -reinterpret_cast<uintptr_t>(to) % kLineBytes);
  }

  const uint8_t* from;
  uint8_t* to;
  size_t bytes;  // left
};

}  // namespace kvstore
