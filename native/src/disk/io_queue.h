// What an engine has been asked for and what it hands to the kernel next: whole requests in, pieces out.
//
// A request goes out in one or more pieces and ends when all have. A piece that moved only part of its bytes, or was
// interrupted, goes out again for the rest. Not thread-safe: the engine locks.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>

#include "disk/io_engine.h"

namespace kvstore {

enum class IoDirection : uint8_t { kRead = 0, kWrite = 1 };
inline constexpr size_t kIoDirections = 2;

struct IoRequest {
  IoDirection direction{};
  int fd = -1;
  uint64_t offset = 0;
  std::byte* data = nullptr;  // a write only reads it
  uint32_t bytes = 0;
  IoEngine::Done done;

  // The queue's.
  uint32_t bytes_out = 0;   // handed out so far, from the front
  uint32_t pieces_out = 0;  // in the kernel's hands or waiting to go there again
  uint32_t retries = 0;
  int error = 0;  // the first
};

struct IoPiece {
  IoRequest* request = nullptr;
  uint32_t at = 0;  // bytes from the request's front
  uint32_t bytes = 0;
};

class IoQueue {
 public:
  // A device serves what it was given more or less in turn, so a read waits for the writes that are with it. Some bytes
  // of writes keep it busy, more only make reads late. With 2 MiB beside reads the 99th percentile of a read of 2 MiB
  // was 1.0 to 2.9 times that of an idle disk, with 4 MiB 1.7 to 3.3 times (a virtual disk, two busy cores).
  static constexpr uint64_t kWriteBytesOut = 8 << 20;
  static constexpr uint64_t kWriteBytesBesideReads = 2 << 20;
  // Whoever reads one block after another has no read with the device for moments; without this the writes would fill
  // those gaps, and each of its reads would wait for all of them. So many bytes go out under the tighter limit.
  static constexpr uint64_t kWriteBytesAfterRead = 32 << 20;
  // Large requests go out in pieces. Those of a read are small enough that no device splits them again (one that takes
  // 127 segments of a page each, say), because the parts of a split request wait for their turns one after another.
  // Those of a write are as large as a common block: each end wakes a thread, which a busy machine is late to run.
  static constexpr uint32_t kReadPieceBytesMax = 512 << 10;
  static constexpr uint32_t kWritePieceBytesMax = 2 << 20;

  // `depth`: pieces in the kernel's hands at most, for each direction. One piece may be there always.
  explicit IoQueue(uint32_t depth) : depth_(depth) {}

  void push(std::unique_ptr<IoRequest> request);
  // What goes out now, if the limit allows; each piece must come back through `finish`.
  [[nodiscard]] std::optional<IoPiece> next(IoDirection direction);
  // `result`: bytes moved, or an errno below zero. The request if that was its last piece: call `done` with its error.
  [[nodiscard]] std::unique_ptr<IoRequest> finish(const IoPiece& piece, int result);

  [[nodiscard]] bool waiting(IoDirection direction) const;  // something has not gone out yet
  [[nodiscard]] bool idle() const;                          // nothing is waiting, nothing is out

 private:
  struct Lane {
    std::deque<std::unique_ptr<IoRequest>> requests;  // not wholly handed out
    std::deque<IoPiece> again;                        // go first: their requests are the oldest
    uint32_t out = 0;                                 // pieces
    uint64_t bytes_out = 0;
  };

  // What `next` would hand out; no bytes: nothing is waiting.
  [[nodiscard]] static IoPiece front(const Lane& from);
  [[nodiscard]] static int settle(IoPiece* piece, int result);
  [[nodiscard]] bool may_go(IoDirection direction, uint32_t bytes) const;
  [[nodiscard]] Lane& lane(IoDirection direction) { return lanes_[static_cast<size_t>(direction)]; }
  [[nodiscard]] const Lane& lane(IoDirection direction) const { return lanes_[static_cast<size_t>(direction)]; }

  const uint32_t depth_;
  std::array<Lane, kIoDirections> lanes_;
  uint64_t write_bytes_after_read_ = 0;  // still to go
};

}  // namespace kvstore
