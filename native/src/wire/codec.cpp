#include "wire/codec.h"

#include <cstring>

namespace kvstore {
namespace {

// Takes values off the front of a view; after the first shortfall everything fails.
class Reader {
 public:
  explicit Reader(ByteView view) : view_(view) {}

  template <class T>
  bool read(T* value) {
    return read_array(value, 1);
  }

  template <class T>
  bool read_vector(std::vector<T>* values, uint32_t count) {
    if (view_.size() < uint64_t{count} * sizeof(T)) return false;
    values->resize(count);
    return read_array(values->data(), count);
  }

  [[nodiscard]] bool at_end() const { return view_.empty(); }

 private:
  template <class T>
  bool read_array(T* values, size_t count) {
    const size_t bytes = count * sizeof(T);
    if (view_.size() < bytes) return false;
    if (bytes > 0) std::memcpy(values, view_.data(), bytes);
    view_ = view_.subspan(bytes);
    return true;
  }

  ByteView view_;
};

class Writer {
 public:
  Writer(FrameHeader header, size_t body_bytes) {
    header.body_bytes = static_cast<uint32_t>(body_bytes);
    bytes_.reserve(sizeof(header) + body_bytes);
    append(&header, sizeof(header));
  }

  template <class T>
  Writer& value(const T& item) {
    append(&item, sizeof(item));
    return *this;
  }

  template <class T>
  Writer& array(std::span<const T> items) {
    append(items.data(), items.size_bytes());
    return *this;
  }

  Bytes take() { return std::move(bytes_); }

 private:
  void append(const void* data, size_t bytes) {
    const auto* first = static_cast<const std::byte*>(data);
    bytes_.insert(bytes_.end(), first, first + bytes);
  }

  Bytes bytes_;
};

bool read_header(Reader& reader, ByteView frame, FrameHeader* header) {
  if (frame.size() > kFrameBytesMax || !reader.read(header)) return false;
  return header->magic == kFrameMagic && header->version == kWireVersion &&
         header->body_bytes == frame.size() - sizeof(FrameHeader) && header->count <= kKeysMax;
}

bool read_keys(Reader& reader, Request* request) {
  return request->header.count > 0 && reader.read_vector(&request->keys, request->header.count);
}

bool read_values(Reader& reader, Request* request) {
  return reader.read_vector(&request->values, request->header.count);
}

bool read_get(Reader& reader, Request* request) {
  GetPrelude prelude;
  if (!reader.read(&prelude) || prelude.reserved != 0) return false;
  request->wait_ms = prelude.wait_ms;
  return read_keys(reader, request) && read_values(reader, request);
}

bool read_put(Reader& reader, Request* request) {
  PutPrelude prelude;
  if (!reader.read(&prelude) || prelude.reserved != 0 || (prelude.flags & ~kPutFlags) != 0) return false;
  request->ttl_ms = prelude.ttl_ms;
  request->durable = (prelude.flags & kPutDurable) != 0;
  return read_keys(reader, request) && read_values(reader, request);
}

bool read_touch(Reader& reader, Request* request) {
  TouchPrelude prelude;
  if (!reader.read(&prelude)) return false;
  request->ttl_ms = prelude.ttl_ms;
  return read_keys(reader, request);
}

bool read_hello(Reader& reader, Request* request) {
  if (request->header.count != 0 || request->header.body_bytes < kTokenBytes) return false;
  const uint32_t address_bytes = request->header.body_bytes - kTokenBytes;
  return address_bytes <= kAddressBytesMax && reader.read(&request->token) &&
         reader.read_vector(&request->address, address_bytes);
}

bool read_report(Reader& reader, Request* request) {
  ReportPrelude prelude;
  if (!reader.read(&prelude) || prelude.reserved != 0) return false;
  if (prelude.reason < Report::kExists || prelude.reason > Report::kCorrupt) return false;
  request->report = prelude.reason;
  return read_keys(reader, request) && read_values(reader, request);
}

bool read_request_body(Reader& reader, Request* request) {
  switch (request->header.kind) {
    case FrameKind::kHello:
      return read_hello(reader, request);
    case FrameKind::kGet:
      return read_get(reader, request);
    case FrameKind::kPut:
      return read_put(reader, request);
    case FrameKind::kTouch:
      return read_touch(reader, request);
    case FrameKind::kReport:
      return read_report(reader, request);
    case FrameKind::kMatch:
    case FrameKind::kExists:
    case FrameKind::kDelete:
      return read_keys(reader, request);
    case FrameKind::kRelease:
    case FrameKind::kPing:
    case FrameKind::kCancel:
    case FrameKind::kBye:
      return request->header.count == 0;
    default:
      return false;
  }
}

bool read_statuses(Reader& reader, Reply* reply) {
  if (!reader.read_vector(&reply->statuses, reply->header.count)) return false;
  for (const Status status : reply->statuses) {
    if (status > kLastStatus) return false;
  }
  return true;
}

bool read_entries(Reader& reader, Reply* reply) {
  if (!reader.read_vector(&reply->entries, reply->header.count)) return false;
  for (const BlockEntry& entry : reply->entries) {
    if (entry.status > static_cast<uint8_t>(kLastStatus) || entry.length > kBlockBytesLimit) return false;
  }
  return true;
}

bool read_reply_body(Reader& reader, Reply* reply) {
  switch (reply->header.kind) {
    case FrameKind::kHelloReply:
      return reader.read(&reply->hello);
    case FrameKind::kGetReply:
    case FrameKind::kPutGrant:
      return read_entries(reader, reply);
    case FrameKind::kPutReply:
    case FrameKind::kStatusReply:
      return read_statuses(reader, reply);
    case FrameKind::kMatchReply:
    case FrameKind::kPong:
      return true;
    default:
      return false;
  }
}

FrameHeader counted(FrameHeader header, size_t count) {
  header.count = static_cast<uint32_t>(count);
  return header;
}

}  // namespace

std::optional<Request> decode_request(ByteView frame) {
  Reader reader(frame);
  Request request;
  if (!read_header(reader, frame, &request.header) || !read_request_body(reader, &request) || !reader.at_end()) {
    return std::nullopt;
  }
  return request;
}

std::optional<Reply> decode_reply(ByteView frame) {
  Reader reader(frame);
  Reply reply;
  if (!read_header(reader, frame, &reply.header) || !read_reply_body(reader, &reply) || !reader.at_end()) {
    return std::nullopt;
  }
  return reply;
}

std::optional<ChunkHeader> decode_chunk_header(ByteView header, size_t payload_bytes) {
  Reader reader(header);
  ChunkHeader chunk;
  if (!reader.read(&chunk) || !reader.at_end()) return std::nullopt;
  const bool valid = chunk.magic == kFrameMagic && chunk.version == kWireVersion && chunk.reserved == 0 &&
                     chunk.bytes > 0 && chunk.bytes == payload_bytes && chunk.block < kKeysMax &&
                     chunk.block_length <= kBlockBytesLimit &&
                     uint64_t{chunk.offset} + chunk.bytes <= chunk.block_length;
  return valid ? std::optional(chunk) : std::nullopt;
}

Bytes encode_hello(std::span<const std::byte, kTokenBytes> token, ByteView address) {
  FrameHeader header;
  header.kind = FrameKind::kHello;
  return Writer(header, token.size_bytes() + address.size()).array(ByteView(token)).array(address).take();
}

Bytes encode_bare(FrameHeader header) { return Writer(header, 0).take(); }

Bytes encode_keys(FrameHeader header, std::span<const Key> keys) {
  return Writer(counted(header, keys.size()), keys.size_bytes()).array(keys).take();
}

Bytes encode_get(FrameHeader header, uint32_t wait_ms, std::span<const Key> keys,
                 std::span<const uint32_t> capacities) {
  const GetPrelude prelude{wait_ms, 0};
  return Writer(counted(header, keys.size()), sizeof(prelude) + keys.size_bytes() + capacities.size_bytes())
      .value(prelude)
      .array(keys)
      .array(capacities)
      .take();
}

Bytes encode_put(FrameHeader header, uint64_t ttl_ms, bool durable, std::span<const Key> keys,
                 std::span<const uint32_t> lengths) {
  const PutPrelude prelude{ttl_ms, durable ? kPutDurable : 0, 0};
  return Writer(counted(header, keys.size()), sizeof(prelude) + keys.size_bytes() + lengths.size_bytes())
      .value(prelude)
      .array(keys)
      .array(lengths)
      .take();
}

Bytes encode_touch(FrameHeader header, uint64_t ttl_ms, std::span<const Key> keys) {
  const TouchPrelude prelude{ttl_ms};
  return Writer(counted(header, keys.size()), sizeof(prelude) + keys.size_bytes()).value(prelude).array(keys).take();
}

Bytes encode_report(Report reason, std::span<const Key> keys, std::span<const uint32_t> checksums) {
  FrameHeader header;
  header.kind = FrameKind::kReport;
  const ReportPrelude prelude{reason, 0};
  return Writer(counted(header, keys.size()), sizeof(prelude) + keys.size_bytes() + checksums.size_bytes())
      .value(prelude)
      .array(keys)
      .array(checksums)
      .take();
}

Bytes encode_hello_reply(const HelloReply& reply) {
  FrameHeader header;
  header.kind = FrameKind::kHelloReply;
  return Writer(header, sizeof(reply)).value(reply).take();
}

Bytes encode_entries(FrameHeader header, std::span<const BlockEntry> entries) {
  return Writer(counted(header, entries.size()), entries.size_bytes()).array(entries).take();
}

Bytes encode_statuses(FrameHeader header, std::span<const Status> statuses) {
  return Writer(counted(header, statuses.size()), statuses.size_bytes()).array(statuses).take();
}

}  // namespace kvstore
