#include "client/transfer.h"

namespace kvstore {
namespace {

constexpr uint64_t kNsPerMs = 1'000'000;

}  // namespace

Bytes Transfer::request_frame(uint64_t now_ns) const {
  FrameHeader header;
  header.request_id = id;
  header.batch = batch->number;
  // Parts and turns of one batch share its time. Rounded up, because 0 ms would say that nobody waits any more.
  const uint64_t left_ns = batch->deadline_ns - std::min(batch->deadline_ns, now_ns);
  header.timeout_ms = static_cast<uint32_t>(std::max<uint64_t>(1, (left_ns + kNsPerMs - 1) / kNsPerMs));
  const uint32_t passed_ms = batch->timeout_ms - std::min(batch->timeout_ms, header.timeout_ms);
  header.first_depth = batch->first_depth + first_key;
  std::vector<uint32_t> lengths(key_count, kAnyLength);
  if (!batch->blocks.empty()) {
    for (uint32_t i = 0; i < key_count; ++i) lengths[i] = block(i).bytes;
  }
  switch (batch->verb) {
    case Verb::kGet:
    case Verb::kBorrow:
      header.kind = FrameKind::kGet;
      return encode_get(header, batch->wait_ms - std::min(batch->wait_ms, passed_ms), keys(), lengths);
    case Verb::kPut:
      header.kind = FrameKind::kPut;
      return encode_put(header, batch->ttl_ms, batch->durable, keys(), lengths);
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
