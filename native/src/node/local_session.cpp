#include "node/local_session.h"

namespace kvstore {

LocalSession::LocalSession(NodeContext& context, uint64_t id, uint32_t thread, LocalSocket socket)
    : Session(context, id, thread), socket_(std::move(socket)) {}

LocalSession::~LocalSession() {
  for (const auto& [request_id, held] : held_) {
    for (const Lease& lease : held.leases) context_.store.release(lease);
  }
}

bool LocalSession::on_socket() {
  int fds[2] = {-1, -1};
  Bytes packet;
  const LocalSocket::Receive received = segment_ == nullptr ? socket_.receive(&packet, fds) : socket_.drain_doorbells();
  if (received == LocalSocket::Receive::kBroken) ++context_.counters.protocol_errors;
  if (received == LocalSocket::Receive::kBroken || received == LocalSocket::Receive::kClosed) return false;
  if (received == LocalSocket::Receive::kNothing || segment_ != nullptr) return true;
  for (int i = 0; i < 2; ++i) {
    if (fds[i] >= 0) LocalSocket(fds[i]).reset();  // clients have no descriptors to give
  }
  return on_frame(packet) && !broken_;
}

HelloReply LocalSession::welcome() {
  HelloReply reply;
  reply.arena_bytes = context_.arena.bytes();
  reply.segment_bytes = kSegmentBytes;
  return reply;
}

void LocalSession::send_welcome(const HelloReply& reply) {
  try {
    segment_ = std::make_unique<LocalSegment>();
  } catch (const std::exception&) {
    broken_ = true;  // no memory or no descriptors for another client
    return;
  }
  const int fds[2] = {context_.arena.fd(), segment_->fd()};
  broken_ = !socket_.send(encode_hello_reply(reply), fds);
}

bool LocalSession::poll() {
  if (segment_ == nullptr || broken_) return false;
  if (!backlog_.empty()) flush_backlog();
  for (size_t i = 0; i < kFramesAPoll; ++i) {
    const SharedRing::Pop popped = segment_->requests.pop(&frame_);
    if (popped == SharedRing::Pop::kEmpty) return i > 0;
    if (popped == SharedRing::Pop::kBroken) {
      ++context_.counters.protocol_errors;
      broken_ = true;
      return true;
    }
    if (frame_.size() == sizeof(StagedPiece)) {
      on_staged_piece(frame_);
    } else if (!on_frame(frame_)) {
      broken_ = true;
    }
    if (broken_) return true;
  }
  return true;
}

void LocalSession::on_staged_piece(ByteView record) {
  StagedPiece piece;
  std::memcpy(&piece, record.data(), sizeof(piece));
  const ByteView header(reinterpret_cast<const std::byte*>(&piece.chunk), sizeof(piece.chunk));
  const bool valid = decode_chunk_header(header, piece.chunk.bytes).has_value() &&
                     piece.chunk.bytes <= kStagingSlotBytes && piece.sequence == pieces_consumed_;
  if (!valid) ++context_.counters.protocol_errors;
  broken_ = !valid || !on_piece(piece.chunk, segment_->staging(piece.sequence));
  segment_->header().staging_consumed.store(++pieces_consumed_, std::memory_order_release);
  ring_client();
}

void LocalSession::send(const Bytes& frame) {
  if (segment_ == nullptr) return;
  if (!backlog_.empty() || !segment_->replies.push(frame)) {
    broken_ = broken_ || backlog_.size() >= kBacklogFramesMax;
    if (!broken_) backlog_.push_back(frame);
  }
  ring_client();
}

void LocalSession::flush_backlog() {
  size_t sent = 0;
  while (sent < backlog_.size() && segment_->replies.push(backlog_[sent])) ++sent;
  backlog_.erase(backlog_.begin(), backlog_.begin() + static_cast<ptrdiff_t>(sent));
  if (sent > 0) ring_client();
}

void LocalSession::ring_client() {
  // Pairs with `prepare_sleep` over there: exchanges of one flag have an order, so either this one sees the flag set,
  // or the sleeper sees what was pushed before.
  if (segment_->header().client_sleeping.exchange(0) != 0) socket_.ring();
}

bool LocalSession::prepare_sleep() {
  if (segment_ == nullptr) return true;
  segment_->header().node_sleeping.exchange(1);
  return segment_->requests.empty();
}

void LocalSession::end_sleep() {
  if (segment_ != nullptr) segment_->header().node_sleeping.store(0, std::memory_order_relaxed);
}

bool LocalSession::on_tick(uint64_t now_ns) {
  if (segment_ != nullptr && !backlog_.empty()) flush_backlog();
  return !broken_ && Session::on_tick(now_ns);
}

void LocalSession::deliver(GetResult result) {
  // A client may hold at most half of the memory, or one block: the rest must stay evictable for the others.
  Held held;
  for (size_t i = 0; i < result.entries.size(); ++i) {
    BlockEntry& entry = result.entries[i];
    if (entry.status != static_cast<uint8_t>(Status::kOk)) continue;
    const uint64_t held_so_far = held_bytes_ + held.bytes;
    if (held_so_far > 0 && held_so_far + entry.length > context_.arena.bytes() / 2) {
      cut_off(&result, i);  // the client asks for the rest in another turn
      break;
    }
    held.bytes += entry.length;
    held.leases.push_back(result.leases[i]);
  }
  context_.counters.bytes_sent += held.bytes;
  if (!held.leases.empty()) {
    on_release(result.request_id);  // a client that reuses a request id loses the older leases
    held_bytes_ += held.bytes;
    held_.emplace(result.request_id, std::move(held));
  }
  FrameHeader header;
  header.kind = FrameKind::kGetReply;
  header.request_id = result.request_id;
  send(encode_entries(header, result.entries));
}

void LocalSession::on_release(uint64_t request_id) {
  const auto found = held_.find(request_id);
  if (found == held_.end()) return;
  for (const Lease& lease : found->second.leases) context_.store.release(lease);
  held_bytes_ -= found->second.bytes;
  held_.erase(found);
}

}  // namespace kvstore
