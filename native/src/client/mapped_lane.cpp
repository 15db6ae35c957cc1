#include "client/mapped_lane.h"

#include <poll.h>
#include <unistd.h>

#include <algorithm>

namespace kvstore {
namespace {

// Leases on the arena: given back when the last view is gone, through whichever session still serves the client.
class LeasedBlocks final : public BorrowedBlocks {
 public:
  LeasedBlocks(std::shared_ptr<ArenaView> arena, std::shared_ptr<LocalSocket> socket,
               std::shared_ptr<ReleaseQueue> releases, uint64_t request_id)
      : arena_(std::move(arena)), socket_(std::move(socket)), releases_(std::move(releases)), request_id_(request_id) {}
  ~LeasedBlocks() override { release(); }
  void release() override {
    if (released_.exchange(true)) return;
    releases_->push(request_id_);
    socket_.reset();
  }

 private:
  std::atomic<bool> released_{false};
  std::shared_ptr<ArenaView> arena_;     // the bytes stay mapped even if the node is gone
  std::shared_ptr<LocalSocket> socket_;  // while it is open, the node holds the leases, even if the client gave it up
  std::shared_ptr<ReleaseQueue> releases_;
  uint64_t request_id_;
};

}  // namespace

MappedLane::MappedLane(const LaneEnvironment& environment, const std::string& socket_path,
                       std::span<const std::byte, kTokenBytes> token, uint64_t deadline_ns)
    : Lane(environment, kStagingSlotBytes), socket_(std::make_shared<LocalSocket>(LocalSocket::connect(socket_path))) {
  description_ = "mapped";
  greet(token, deadline_ns);
}

MappedLane::~MappedLane() {
  fail_all(Status::kUnavailable);
  // With blocks still borrowed the session goes on, for its leases, until the last of them is released.
  if (!lost_ && socket_.use_count() == 1) send_bare(FrameKind::kBye, 0);
}

void MappedLane::greet(std::span<const std::byte, kTokenBytes> token, uint64_t deadline_ns) {
  if (!socket_->send(encode_hello(token, {}))) throw std::runtime_error("the node closed its Unix socket");
  Bytes packet;
  int fds[2];
  while (true) {
    const LocalSocket::Receive received = socket_->receive(&packet, fds);
    if (received == LocalSocket::Receive::kPacket) break;
    if (received != LocalSocket::Receive::kNothing) throw std::runtime_error("the node refused the session");
    if (environment_.clock.now_ns() >= deadline_ns) throw OpenTimeout("the node's Unix socket did not answer in time");
    pollfd event{socket_->fd(), POLLIN, 0};
    poll(&event, 1, 1);
  }
  const std::optional<Reply> reply = decode_reply(packet);
  const bool valid = reply && reply->header.kind == FrameKind::kHelloReply && fds[0] >= 0 && fds[1] >= 0 &&
                     reply->hello.segment_bytes == kSegmentBytes;
  if (!valid) {
    for (int i = 0; i < 2; ++i) {
      if (fds[i] >= 0) close(fds[i]);
    }
    throw std::runtime_error("the node's Unix socket speaks another protocol");
  }
  open_mappings(*reply, fds);
  welcomed(reply->hello);
}

void MappedLane::open_mappings(const Reply& reply, int fds[2]) {
  const LocalSocket segment_owner(fds[1]);  // closes it if the arena cannot be mapped
  arena_ = std::make_shared<ArenaView>(fds[0], reply.hello.arena_bytes);
  segment_ = std::make_unique<LocalSegment>(std::make_unique<SharedSegment>(dup(fds[1]), kSegmentBytes));
}

bool MappedLane::progress_lane() {
  bool worked = !outbox_.empty() && flush_outbox();
  for (size_t i = 0; i < kFramesAPoll; ++i) {
    const SharedRing::Pop popped = segment_->replies.pop(&frame_);
    if (popped == SharedRing::Pop::kBroken) lost_ = true;
    if (popped != SharedRing::Pop::kFrame) break;
    on_frame(frame_);
    worked = true;
  }
  if (!reading_.empty()) worked |= read_next_block();
  return worked;
}

void MappedLane::check_alive() {
  const LocalSocket::Receive received = socket_->drain_doorbells();
  lost_ = lost_ || received == LocalSocket::Receive::kClosed || received == LocalSocket::Receive::kBroken;
}

void MappedLane::send_frame(const Bytes& frame) {
  if (!outbox_.empty() || !segment_->requests.push(frame)) {
    outbox_.push_back(frame);
  }
  ring_node();
}

bool MappedLane::flush_outbox() {
  bool sent = false;
  while (!outbox_.empty() && segment_->requests.push(outbox_.front())) {
    outbox_.pop_front();
    sent = true;
  }
  if (sent) ring_node();
  return sent;
}

void MappedLane::ring_node() {
  // Pairs with `prepare_sleep` over there: exchanges of one flag have an order, so either this one sees the flag set,
  // or the sleeper sees what was pushed before.
  if (segment_->header().node_sleeping.exchange(0) != 0) socket_->ring();
}

bool MappedLane::prepare_sleep() {
  segment_->header().client_sleeping.exchange(1);
  const bool work = !segment_->replies.empty() || !reading_.empty() || (sending() && staging_free());
  return !work;
}

void MappedLane::end_sleep() {
  segment_->header().client_sleeping.store(0, std::memory_order_relaxed);
  check_alive();
}

// ---- puts

bool MappedLane::staging_free() const {
  return pieces_staged_ - segment_->header().staging_consumed.load(std::memory_order_acquire) < kStagingSlots;
}

bool MappedLane::send_piece(Transfer& transfer, ChunkHeader chunk, uint32_t* crc) {
  if (!staging_free() || !outbox_.empty()) return false;
  std::byte* target = segment_->staging(pieces_staged_);
  *crc = 0;
  transfer.for_each_piece(chunk.block, chunk.offset, chunk.bytes, [&](const std::byte* data, uint32_t bytes) {
    *crc = copy_crc32c(target, data, bytes, *crc);
    target += bytes;
  });
  StagedPiece piece{chunk, pieces_staged_};
  piece.chunk.crc = *crc;
  const ByteView record(reinterpret_cast<const std::byte*>(&piece), sizeof(piece));
  if (!segment_->requests.push(record)) return false;
  ++pieces_staged_;
  ring_node();
  return true;
}

// ---- gets

void MappedLane::on_get_reply(const TransferPtr& transfer) {
  bool any = false;
  for (uint32_t i = 0; i < transfer->key_count; ++i) {
    const BlockEntry& entry = transfer->entries[i];
    const bool present = transfer->entry_status(i) == Status::kOk;
    any |= present;
    transfer->status(i) = present ? Status::kMiss : transfer->entry_status(i);
    if (!present) continue;
    const bool inside = entry.offset <= arena_->bytes() && entry.length <= arena_->bytes() - entry.offset;
    const bool fits = transfer->batch->verb == Verb::kBorrow || entry.length == transfer->block(i).bytes;
    if (!inside || !fits) {
      lost_ = true;
      return;
    }
  }
  if (!any) return complete(transfer);
  transfer->next_block = 0;
  reading_.push_back(transfer);
}

// One block, then others have their turn.
bool MappedLane::read_next_block() {
  const TransferPtr transfer = reading_.front();
  if (find(transfer->id) == nullptr) {  // timed out, and its leases were cancelled with it
    reading_.pop_front();
    return true;
  }
  while (transfer->next_block < transfer->key_count) {
    const uint32_t index = transfer->next_block++;
    if (transfer->entry_status(index) != Status::kOk) continue;
    read_block(*transfer, index);
    break;
  }
  if (transfer->next_block == transfer->key_count) {
    reading_.pop_front();
    end_get(transfer);
  }
  return true;
}

void MappedLane::read_block(Transfer& transfer, uint32_t index) {
  const BlockEntry& entry = transfer.entries[index];
  const std::byte* source = arena_->data() + entry.offset;
  uint32_t crc = 0;
  if (transfer.batch->verb == Verb::kBorrow) {
    crc = crc32c(source, entry.length);
    if (crc == entry.crc) transfer.batch->views[transfer.first_key + index] = {source, entry.length};
  } else {
    transfer.for_each_piece(index, 0, entry.length, [&](std::byte* target, uint32_t bytes) {
      crc = copy_piece_crc32c(target, source, bytes, crc);
      source += bytes;
    });
  }
  settle_block(transfer, index, crc == entry.crc);
}

void MappedLane::end_get(const TransferPtr& transfer) {
  if (transfer->batch->verb == Verb::kBorrow) {
    transfer->batch->borrowed[transfer->first_key / kKeysMax] =
        std::make_shared<LeasedBlocks>(arena_, socket_, environment_.releases, transfer->id);
  } else {
    send_bare(FrameKind::kRelease, transfer->id);
  }
  complete(transfer);
}

void MappedLane::on_late_get_reply(const Reply& reply) { send_bare(FrameKind::kRelease, reply.header.request_id); }

}  // namespace kvstore
