// A single-producer, single-consumer queue of frames in shared memory.
//
// The other side is another process and may be hostile or dead: positions and lengths are read once, checked against
// the capacity and copied out before anybody looks at them. A violation is reported, never followed.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "wire/codec.h"

namespace kvstore {

// Lives in the shared segment. Positions only grow; each is written by one side.
struct RingPositions {
  alignas(64) std::atomic<uint64_t> written;   // by the producer
  alignas(64) std::atomic<uint64_t> consumed;  // by the consumer
};
static_assert(std::atomic<uint64_t>::is_always_lock_free);

class SharedRing {
 public:
  enum class Pop { kEmpty, kFrame, kBroken };

  // `data` holds `capacity` bytes, a power of two.
  SharedRing(RingPositions* positions, std::byte* data, uint64_t capacity)
      : positions_(positions), data_(data), capacity_(capacity) {}

  // Producer. The parts together are one frame of at most kRecordBytesMax; false when there is no room.
  [[nodiscard]] bool push(ByteView first, ByteView second = {}) {
    const uint64_t bytes = first.size() + second.size();
    const uint64_t record = record_bytes(bytes);
    const uint64_t consumed = positions_->consumed.load(std::memory_order_acquire);
    const uint64_t to_end = capacity_ - (written_ & (capacity_ - 1));
    const uint64_t needed = record <= to_end ? record : to_end + record;
    if (written_ - consumed > capacity_ || capacity_ - (written_ - consumed) < needed) return false;
    if (record > to_end) {
      put_length(kSkip);
      written_ += to_end;
    }
    put_length(static_cast<uint32_t>(bytes));
    std::byte* target = at(written_) + sizeof(uint64_t);
    std::memcpy(target, first.data(), first.size());
    if (!second.empty()) std::memcpy(target + first.size(), second.data(), second.size());
    written_ += record;
    positions_->written.store(written_, std::memory_order_release);
    return true;
  }

  // Consumer. Copies the next frame into `frame`.
  [[nodiscard]] Pop pop(Bytes* frame) {
    const uint64_t written = positions_->written.load(std::memory_order_acquire);
    if (written == consumed_) return Pop::kEmpty;
    const uint64_t available = written - consumed_;
    if (available > capacity_ || available % kAlignment != 0) return Pop::kBroken;
    uint32_t bytes = length_at(consumed_);
    if (bytes == kSkip) {
      const uint64_t to_end = capacity_ - (consumed_ & (capacity_ - 1));
      if (to_end >= available) return Pop::kBroken;
      consumed_ += to_end;
      bytes = length_at(consumed_);
    }
    const uint64_t to_end = capacity_ - (consumed_ & (capacity_ - 1));
    if (bytes > kRecordBytesMax || record_bytes(bytes) > to_end || record_bytes(bytes) > written - consumed_) {
      return Pop::kBroken;
    }
    const std::byte* source = at(consumed_) + sizeof(uint64_t);
    frame->assign(source, source + bytes);
    consumed_ += record_bytes(bytes);
    positions_->consumed.store(consumed_, std::memory_order_release);
    return Pop::kFrame;
  }

  [[nodiscard]] bool empty() const { return positions_->written.load(std::memory_order_acquire) == consumed_; }

  static constexpr uint64_t kRecordBytesMax = kFrameBytesMax;

 private:
  static constexpr uint32_t kSkip = 0xFFFFFFFF;
  static constexpr uint64_t kAlignment = 64;

  static uint64_t record_bytes(uint64_t bytes) {
    return (sizeof(uint64_t) + bytes + kAlignment - 1) & ~(kAlignment - 1);
  }
  [[nodiscard]] std::byte* at(uint64_t position) const { return data_ + (position & (capacity_ - 1)); }
  void put_length(uint32_t value) { std::memcpy(at(written_), &value, sizeof(value)); }
  [[nodiscard]] uint32_t length_at(uint64_t position) const {
    uint32_t value;
    std::memcpy(&value, at(position), sizeof(value));
    return value;
  }

  RingPositions* positions_;
  std::byte* data_;
  uint64_t capacity_;
  uint64_t written_ = 0;   // the producer's own copy
  uint64_t consumed_ = 0;  // the consumer's own copy
};

}  // namespace kvstore
