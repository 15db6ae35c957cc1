// The same-host channel: a Unix socket that carries descriptors and doorbells, and a shared segment that carries frames
// and the bytes of puts. The socket is also the life of the session: when either process ends, the kernel closes it.
//
// Opening: the client connects and sends a hello frame as one packet; the node checks the token and answers with a
// HelloReply packet that carries two descriptors, the arena (sealed, read-only for the client) and the segment.
// Afterwards a packet of one byte is a doorbell, and nothing else is allowed.
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <string>

#include "memory/arena.h"
#include "transport/shared_ring.h"
#include "wire/codec.h"

namespace kvstore {

// The layout of the shared segment. Created zeroed by the node.
struct SegmentHeader {
  RingPositions requests;  // client to node
  RingPositions replies;   // node to client
  // A side that is about to block sets its flag; the other clears it and rings. Sequentially consistent on both sides.
  alignas(64) std::atomic<uint32_t> node_sleeping;
  alignas(64) std::atomic<uint32_t> client_sleeping;
  // Staging slots are used in order; the client fills slot n % kStagingSlots while n - consumed < kStagingSlots.
  alignas(64) std::atomic<uint64_t> staging_consumed;  // by the node
};

inline constexpr uint64_t kSegmentHeaderBytes = 4096;
inline constexpr uint64_t kRingBytes = 256 << 10;
inline constexpr uint64_t kStagingSlotBytes = 128 << 10;
inline constexpr uint64_t kStagingSlots = 8;
inline constexpr uint64_t kSegmentBytes = kSegmentHeaderBytes + 2 * kRingBytes + kStagingSlots * kStagingSlotBytes;
static_assert(sizeof(SegmentHeader) <= kSegmentHeaderBytes);

// In a request ring a piece of a put travels as this and the staging slot's contents; told from frames by its size.
struct StagedPiece {
  ChunkHeader chunk;
  uint64_t sequence = 0;  // of the staging slot
};
static_assert(sizeof(StagedPiece) == 40);

// One side's handle on the segment.
class LocalSegment {
 public:
  LocalSegment() : LocalSegment(std::make_unique<SharedSegment>(kSegmentBytes)) {}  // node
  explicit LocalSegment(std::unique_ptr<SharedSegment> segment)                     // client, received
      : segment_(std::move(segment)),
        requests(&header().requests, data() + kSegmentHeaderBytes, kRingBytes),
        replies(&header().replies, data() + kSegmentHeaderBytes + kRingBytes, kRingBytes) {}

 private:
  std::unique_ptr<SharedSegment> segment_;

 public:
  SharedRing requests;
  SharedRing replies;

  [[nodiscard]] SegmentHeader& header() const { return *reinterpret_cast<SegmentHeader*>(data()); }
  [[nodiscard]] std::byte* data() const { return segment_->data(); }
  [[nodiscard]] int fd() const { return segment_->fd(); }
  [[nodiscard]] std::byte* staging(uint64_t sequence) const {
    return data() + kSegmentHeaderBytes + 2 * kRingBytes + (sequence % kStagingSlots) * kStagingSlotBytes;
  }
};

// A connected Unix socket of packets (SOCK_SEQPACKET).
class LocalSocket {
 public:
  LocalSocket() = default;
  explicit LocalSocket(int fd) : fd_(fd) {}
  LocalSocket(LocalSocket&& other) noexcept : fd_(other.fd_) { other.fd_ = -1; }
  LocalSocket& operator=(LocalSocket&& other) noexcept;
  ~LocalSocket() { reset(); }

  // Throws std::system_error.
  static LocalSocket connect(const std::string& path);

  [[nodiscard]] int fd() const { return fd_; }
  void reset();

  // Sends one packet, with descriptors if any. False when the peer is gone or its queue is full.
  [[nodiscard]] bool send(ByteView packet, std::span<const int> fds = {}) const;
  void ring() const;

  // kBroken: the peer sent what the protocol does not have.
  enum class Receive { kNothing, kPacket, kClosed, kBroken };
  // Never blocks. `fds` receives at most two descriptors, owned by the caller; -1 where there is none.
  [[nodiscard]] Receive receive(Bytes* packet, int fds[2]) const;
  // Reads away doorbells.
  [[nodiscard]] Receive drain_doorbells() const;

 private:
  int fd_ = -1;
};

// A listening Unix socket; unlinks its path at the end.
class LocalListener {
 public:
  explicit LocalListener(std::string path);  // throws std::system_error
  ~LocalListener();
  LocalListener(const LocalListener&) = delete;
  LocalListener& operator=(const LocalListener&) = delete;

  [[nodiscard]] int fd() const { return fd_; }
  [[nodiscard]] const std::string& path() const { return path_; }
  [[nodiscard]] std::optional<LocalSocket> accept() const;

 private:
  std::string path_;
  int fd_ = -1;
};

}  // namespace kvstore
