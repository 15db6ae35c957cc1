// A put while its bytes arrive: reserved blocks that fill up piece by piece, in any order.
#pragma once

#include <cstdint>
#include <vector>

#include "base/checksum.h"
#include "base/status.h"
#include "store/block_store.h"
#include "wire/frame.h"

namespace kvstore {

struct PutBlock {
  Key key{};
  Reservation reservation;
  Status status = Status::kInvalid;
  bool open = false;           // reserved, bytes still expected
  bool doomed = false;         // failed, and its space goes back when the last placement has ended
  bool settled = false;        // durable put: it is known whether a disk has it
  uint32_t placements = 0;     // rendezvous receives into the reserved space that UCX has not ended yet
  uint64_t claimed_bytes = 0;  // received, or being received
  uint32_t received_bytes = 0;
  uint32_t crc = 0;  // of the pieces so far, each shifted to its place

  // The checksum of a whole is the exclusive or of its pieces' checksums, each moved past what follows it.
  void add_piece(const ChunkHeader& chunk) {
    received_bytes += chunk.bytes;
    crc ^= crc32c_concat(chunk.crc, 0, chunk.block_length - chunk.offset - chunk.bytes);
  }
};

struct PutState {
  std::vector<PutBlock> blocks;
  uint32_t open_blocks = 0;
  uint32_t placements = 0;  // rendezvous receives into reserved space that UCX has not ended yet
  bool cancelled = false;
  bool durable = false;  // answered only when the blocks are on disk
  bool watched = false;  // told when they are
  uint64_t ttl_ms = 0;
  uint64_t deadline_ns = 0;
};

}  // namespace kvstore
