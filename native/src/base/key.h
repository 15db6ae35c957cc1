// The 32-byte name of a block: already a uniform hash, so its first bytes serve as hash-table index.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace kvstore {

inline constexpr uint32_t kKeyBytes = 32;

struct Key {
  std::array<uint8_t, kKeyBytes> bytes;

  bool operator==(const Key&) const = default;

  // A 64-bit digest for bucket and shard selection; equality is always decided on all 32 bytes.
  [[nodiscard]] uint64_t digest() const {
    uint64_t value;
    std::memcpy(&value, bytes.data(), sizeof(value));
    return value;
  }
};
static_assert(sizeof(Key) == kKeyBytes);

// For unordered containers.
struct KeyHash {
  size_t operator()(const Key& key) const { return key.digest(); }
};

}  // namespace kvstore
