// Everything that travels between client and node on the data plane. docs/WIRE.md is the page for readers.
//
// All integers are little-endian. A frame is a FrameHeader and a body; a data chunk is a ChunkHeader and bytes of one
// block. The same frames travel over UCX (as active messages) and through the rings of the same-host channel.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

namespace kvstore {

static_assert(std::endian::native == std::endian::little, "the wire format is copied from memory as it is");

inline constexpr uint16_t kFrameMagic = 0x564B;  // "KV"
inline constexpr uint8_t kWireVersion = 2;

inline constexpr uint32_t kTokenBytes = 32;
inline constexpr uint32_t kAddressBytesMax = 16'384;  // of a UCX worker; it grows with the number of network devices
inline constexpr uint32_t kKeysMax = 1024;            // in one frame; a larger batch is several frames
inline constexpr uint32_t kFrameBytesMax = 60'000;    // header and body; fits one eager message on every lane
inline constexpr uint64_t kBlockBytesLimit = 64ull << 20;

enum class FrameKind : uint8_t {
  // client to node
  kHello = 1,    // token, the client's UCX address (network lanes)
  kGet = 2,      // GetPrelude, keys, capacities
  kPut = 3,      // PutPrelude, keys, lengths
  kMatch = 4,    // keys
  kExists = 5,   // keys
  kTouch = 6,    // TouchPrelude, keys
  kDelete = 7,   // keys
  kRelease = 8,  // nothing: the leases of get `request_id` are over
  kReport = 9,   // ReportPrelude, keys, checksums: what the client alone could see
  kPing = 10,    // nothing
  kCancel = 11,  // nothing: the client gave up on put or get `request_id`
  kBye = 12,     // nothing: the client closes the session
  // node to client
  kHelloReply = 65,   // HelloReply
  kGetReply = 66,     // BlockEntry for each key
  kPutGrant = 67,     // BlockEntry for each key: kOk means "send its bytes"
  kPutReply = 68,     // a status byte for each key, once all that was granted (and, if durable, found) is settled
  kMatchReply = 69,   // `count` is the answer
  kStatusReply = 70,  // a status byte for each key (exists, touch, delete)
  kPong = 71,         // nothing
};

struct FrameHeader {
  uint16_t magic = kFrameMagic;
  uint8_t version = kWireVersion;
  FrameKind kind{};
  uint32_t count = 0;        // keys or entries in the body
  uint64_t request_id = 0;   // chosen by the client, never reused in its lifetime
  uint32_t timeout_ms = 0;   // how long the client will still wait, at the moment of sending
  uint32_t first_depth = 0;  // place of the first key in its chain
  uint32_t body_bytes = 0;
  uint32_t batch = 0;  // the same in all frames of one call of the client, which touch blocks as one request; 0: none
};
static_assert(sizeof(FrameHeader) == 32);

struct GetPrelude {
  uint32_t wait_ms = 0;  // how long the node may wait for blocks that are still being written
  uint32_t reserved = 0;
};
static_assert(sizeof(GetPrelude) == 8);
inline constexpr uint32_t kAnyLength = 0xFFFFFFFF;  // as capacity: whatever the block's length is

struct PutPrelude {
  uint64_t ttl_ms = 0;  // 0: no expiry
  uint32_t flags = 0;   // of kPut...; a flag that the node does not know makes the frame invalid
  uint32_t reserved = 0;
};
static_assert(sizeof(PutPrelude) == 16);
inline constexpr uint32_t kPutDurable = 1;  // answer only once every block would survive the death of the node
inline constexpr uint32_t kPutFlags = kPutDurable;

struct TouchPrelude {
  uint64_t ttl_ms = 0;  // UINT64_MAX: keep the expiry
};

enum class Report : uint32_t {
  kExists = 1,    // a put found its own checksum there
  kConflict = 2,  // a put found another checksum there
  kCorrupt = 3,   // a get received bytes that do not have this checksum
};

struct ReportPrelude {
  Report reason{};
  uint32_t reserved = 0;
};

struct HelloReply {
  uint64_t arena_bytes = 0;      // same-host channel: size of the arena's memfd; 0 on a network lane
  uint64_t segment_bytes = 0;    // same-host channel: size of the shared segment
  uint64_t max_block_bytes = 0;  // of this node
  uint64_t disk_bytes = 0;       // where blocks go that memory has no room for; 0: nowhere, so that eviction loses them
};
static_assert(sizeof(HelloReply) == 32);

struct BlockEntry {
  uint8_t status = 0;  // Status
  uint8_t reserved[3] = {};
  uint32_t length = 0;      // bytes
  uint32_t crc = 0;         // CRC32C of the block
  uint32_t generation = 0;  // same-host get: of the slot
  uint64_t offset = 0;      // same-host get: where in the arena
};
static_assert(sizeof(BlockEntry) == 24);

// Before each piece of a block's bytes, in either direction.
struct ChunkHeader {
  uint16_t magic = kFrameMagic;
  uint8_t version = kWireVersion;
  uint8_t reserved = 0;
  uint32_t block = 0;  // index of the key in its request
  uint64_t request_id = 0;
  uint32_t offset = 0;        // of this piece in the block
  uint32_t bytes = 0;         // of this piece
  uint32_t block_length = 0;  // of the whole block
  uint32_t crc = 0;           // put: CRC32C of this piece; get: 0, the block's checksum is in the GetReply
};
static_assert(sizeof(ChunkHeader) == 32);

}  // namespace kvstore
