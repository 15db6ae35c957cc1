#include "node/ucx_session.h"

#include <algorithm>

namespace kvstore {
namespace {

constexpr uint64_t kStallNs = 10'000'000'000;    // a client that takes nothing for so long is dropped
constexpr uint32_t kSendsMax = 4096;             // answers that a client may leave unread
constexpr uint64_t kSilenceNs = 10'000'000'000;  // ... or says nothing: idle ones ping every two seconds

}  // namespace

UcxSession::UcxSession(NodeContext& context, uint64_t id, uint32_t thread, UcxEndpoint& endpoint)
    : Session(context, id, thread), endpoint_(endpoint), chunk_bytes_(endpoint.profile().chunk_bytes) {
  heard();
}

UcxSession::~UcxSession() {
  for (const auto& [cookie, stream] : streams_) {
    for (size_t i = 0; i < stream.result.entries.size(); ++i) {
      const bool leased = stream.result.entries[i].status == static_cast<uint8_t>(Status::kOk);
      if (leased) context_.store.release(stream.result.leases[i]);
    }
  }
}

bool UcxSession::on_chunk(ByteView header, ByteView payload) {
  const std::optional<ChunkHeader> chunk = decode_chunk_header(header, payload.size());
  if (!chunk) {
    ++context_.counters.protocol_errors;
    return false;
  }
  return on_piece(*chunk, payload.data());
}

std::byte* UcxSession::place_chunk(ByteView header, size_t payload_bytes) {
  const std::optional<ChunkHeader> chunk = decode_chunk_header(header, payload_bytes);
  if (!chunk || closed_) return nullptr;
  std::byte* target = place_piece(*chunk);
  placements_in_flight_ += target != nullptr ? 1 : 0;
  return target;
}

void UcxSession::on_placed(ByteView header, bool received) {
  ChunkHeader chunk;
  std::memcpy(&chunk, header.data(), sizeof(chunk));  // was decoded in place_chunk
  --placements_in_flight_;
  piece_placed(chunk, received);
}

void UcxSession::deliver(GetResult result) {
  const uint32_t cookie = next_cookie_++;
  if (ready_.empty()) last_progress_ns_ = context_.clock.now_ns();
  Stream& stream = streams_[cookie];
  stream.result = std::move(result);
  ready_.push_back(cookie);
}

bool UcxSession::poll() {
  if (closed_ || ready_.empty()) return false;
  bool sent = false;
  while (!ready_.empty() && bytes_in_flight_ < kWindowBytes) {
    const uint32_t cookie = ready_.front();
    Stream& stream = streams_.at(cookie);
    skip_to_block(stream);
    if (stream.block == stream.result.entries.size() || stream.cancelled) {
      ready_.pop_front();
      FrameHeader header;
      header.kind = FrameKind::kGetReply;
      header.request_id = stream.result.request_id;
      if (!stream.cancelled) send(encode_entries(header, stream.result.entries));
      stream.sent = true;
      if (stream.chunks_in_flight == 0) finish_stream(cookie);
    } else {
      send_next_chunk(cookie, stream);
    }
    sent = true;
  }
  return sent;
}

void UcxSession::skip_to_block(Stream& stream) const {
  const std::vector<BlockEntry>& entries = stream.result.entries;
  while (stream.block < entries.size() && entries[stream.block].status != static_cast<uint8_t>(Status::kOk)) {
    ++stream.block;
  }
}

void UcxSession::send_next_chunk(uint32_t cookie, Stream& stream) {
  const Lease& lease = stream.result.leases[stream.block];
  ChunkHeader chunk;
  chunk.block = static_cast<uint32_t>(stream.block);
  chunk.request_id = stream.result.request_id;
  chunk.offset = stream.offset;
  chunk.bytes = static_cast<uint32_t>(std::min<uint64_t>(chunk_bytes_, lease.length - stream.offset));
  chunk.block_length = lease.length;
  const ByteView payload(context_.arena.data() + lease.offset + stream.offset, chunk.bytes);
  stream.offset += chunk.bytes;
  if (stream.offset == lease.length) {
    stream.offset = 0;
    ++stream.block;
  }
  ++stream.chunks_in_flight;
  ++chunks_in_flight_;
  bytes_in_flight_ += chunk.bytes;
  context_.counters.bytes_sent += chunk.bytes;
  // The cookie carries the chunk's size, so that the window can be opened again by as much.
  endpoint_.send_chunk(chunk, payload, this, uint64_t{cookie} << 32 | chunk.bytes);
}

void UcxSession::on_chunk_sent(uint64_t cookie, bool sent) {
  if (sent) last_progress_ns_ = context_.clock.now_ns();
  --chunks_in_flight_;
  bytes_in_flight_ -= cookie & 0xFFFFFFFF;
  const auto stream = static_cast<uint32_t>(cookie >> 32);
  const auto found = streams_.find(stream);
  if (found == streams_.end()) return;
  if (--found->second.chunks_in_flight == 0 && found->second.sent) finish_stream(stream);
}

void UcxSession::finish_stream(uint32_t cookie) {
  const auto found = streams_.find(cookie);
  const GetResult& result = found->second.result;
  for (size_t i = 0; i < result.entries.size(); ++i) {
    if (result.entries[i].status == static_cast<uint8_t>(Status::kOk)) context_.store.release(result.leases[i]);
  }
  streams_.erase(found);
}

void UcxSession::on_release(uint64_t request_id) {
  for (auto& [cookie, stream] : streams_) {
    if (stream.result.request_id == request_id) stream.cancelled = true;
  }
}

bool UcxSession::on_tick(uint64_t now_ns) {
  const bool stalled = chunks_in_flight_ > 0 && now_ns - last_progress_ns_ > kStallNs;
  // A client that reads a long stream says nothing, but takes what is sent.
  const uint64_t alive_ns = std::max(heard_ns_, last_progress_ns_);
  const bool silent = now_ns > alive_ns && now_ns - alive_ns > kSilenceNs;
  const bool deaf = endpoint_.sends_in_flight() > kSendsMax;
  return !stalled && !silent && !deaf && Session::on_tick(now_ns);
}

void UcxSession::on_closed() { closed_ = true; }

}  // namespace kvstore
