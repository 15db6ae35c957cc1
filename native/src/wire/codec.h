// Encode and decode. This is the only code that turns received bytes into values, and it trusts none of them:
// a decoder returns nullopt unless magic, version, kind, counts and every length agree exactly.
#pragma once

#include <optional>
#include <span>
#include <vector>

#include "base/key.h"
#include "base/status.h"
#include "wire/frame.h"

namespace kvstore {

using Bytes = std::vector<std::byte>;
using ByteView = std::span<const std::byte>;

// A received request. Arrays are copies: the source may be memory that the peer can still write to.
struct Request {
  FrameHeader header;
  std::vector<Key> keys;
  std::vector<uint32_t> values;  // get: capacities; put: lengths; report: checksums
  uint32_t wait_ms = 0;          // get
  uint64_t ttl_ms = 0;           // put, touch
  bool durable = false;          // put
  Report report{};
  std::array<std::byte, kTokenBytes> token{};  // hello
  Bytes address;                               // hello over a network lane: where the node finds the client
};

// What a node answered.
struct Reply {
  FrameHeader header;
  std::vector<BlockEntry> entries;  // kGetReply, kPutGrant
  std::vector<Status> statuses;     // kPutReply, kStatusReply
  HelloReply hello;                 // kHelloReply
};

[[nodiscard]] std::optional<Request> decode_request(ByteView frame);
[[nodiscard]] std::optional<Reply> decode_reply(ByteView frame);
[[nodiscard]] std::optional<ChunkHeader> decode_chunk_header(ByteView header, size_t payload_bytes);

// Each returns a whole frame. `header` carries kind, request_id, timeout_ms and first_depth; count and body_bytes are
// set here.
[[nodiscard]] Bytes encode_hello(std::span<const std::byte, kTokenBytes> token, ByteView address);
[[nodiscard]] Bytes encode_bare(
    FrameHeader header);  // kRelease, kPing, kCancel, kBye, kPong; kMatchReply keeps its count
[[nodiscard]] Bytes encode_keys(FrameHeader header, std::span<const Key> keys);  // kMatch, kExists, kDelete
[[nodiscard]] Bytes encode_get(FrameHeader header, uint32_t wait_ms, std::span<const Key> keys,
                               std::span<const uint32_t> capacities);
[[nodiscard]] Bytes encode_put(FrameHeader header, uint64_t ttl_ms, bool durable, std::span<const Key> keys,
                               std::span<const uint32_t> lengths);
[[nodiscard]] Bytes encode_touch(FrameHeader header, uint64_t ttl_ms, std::span<const Key> keys);
[[nodiscard]] Bytes encode_report(Report reason, std::span<const Key> keys, std::span<const uint32_t> checksums);
[[nodiscard]] Bytes encode_hello_reply(const HelloReply& reply);
[[nodiscard]] Bytes encode_entries(FrameHeader header, std::span<const BlockEntry> entries);
[[nodiscard]] Bytes encode_statuses(FrameHeader header, std::span<const Status> statuses);

}  // namespace kvstore
