#include "client/transfer.h"

namespace kvstore {

Bytes Transfer::request_frame() const {
  FrameHeader header;
  header.request_id = id;
  header.timeout_ms = batch->timeout_ms;
  header.first_depth = batch->first_depth + first_key;
  std::vector<uint32_t> lengths(key_count, kAnyLength);
  if (!batch->blocks.empty()) {
    for (uint32_t i = 0; i < key_count; ++i) lengths[i] = block(i).bytes;
  }
  switch (batch->verb) {
    case Verb::kGet:
    case Verb::kBorrow:
      header.kind = FrameKind::kGet;
      return encode_get(header, batch->wait_ms, keys(), lengths);
    case Verb::kPut:
      header.kind = FrameKind::kPut;
      return encode_put(header, batch->ttl_ms, keys(), lengths);
    case Verb::kTouch:
      header.kind = FrameKind::kTouch;
      return encode_touch(header, batch->ttl_ms, keys());
    case Verb::kMatch:
      header.kind = FrameKind::kMatch;
      return encode_keys(header, keys());
    case Verb::kExists:
      header.kind = FrameKind::kExists;
      return encode_keys(header, keys());
    case Verb::kDelete:
      header.kind = FrameKind::kDelete;
      return encode_keys(header, keys());
  }
  return {};
}

}  // namespace kvstore
