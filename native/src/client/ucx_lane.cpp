#include "client/ucx_lane.h"

#include <poll.h>

#include <new>

namespace kvstore {
namespace {

constexpr uint64_t kByeNs = 50'000'000;         // for the last frame to leave
constexpr uint64_t kQuiesceNs = 1'000'000'000;  // for UCX to let go of receives after a forced close

}  // namespace

// Memory that a borrow over the network receives into.
class ReceivedBlocks final : public BorrowedBlocks {
 public:
  explicit ReceivedBlocks(uint32_t count) : blocks(count) {}
  std::vector<std::unique_ptr<std::byte[]>> blocks;
};

UcxLane::UcxLane(const LaneEnvironment& environment, const UcxProfile& profile, const SocketAddress& listener,
                 ByteView address, std::span<const std::byte, kTokenBytes> token, uint64_t deadline_ns)
    : Lane(environment, static_cast<uint32_t>(profile.chunk_bytes)),
      worker_(std::make_unique<UcxWorker>(profile, *this)) {
  // UCX 1.22 aborts the process when a TCP connection fails at once and something is sent over it all the same. So the
  // node is looked for first: what is left is that it dies within these microseconds.
  const uint64_t now_ns = environment.clock.now_ns();
  const int left_ms = now_ns < deadline_ns ? static_cast<int>((deadline_ns - now_ns) / 1'000'000) : 0;
  if (listener.port() != 0 && !listener.answers(left_ms)) {
    throw std::runtime_error("nobody accepts connections at the node's data port");
  }
  endpoint_ = &worker_->connect(address);
  greet(token, deadline_ns);
  description_ = endpoint_->lanes();
}

UcxLane::~UcxLane() {
  fail_all(Status::kUnavailable);
  say_bye();
  worker_.reset();
}

// Over shared memory a closed endpoint is not seen by its peer while both processes live; so the node is told.
void UcxLane::say_bye() {
  if (lost_ || !greeted_) return;
  send_bare(FrameKind::kBye, 0);
  const uint64_t give_up_ns = environment_.clock.now_ns() + kByeNs;
  while (!lost_ && endpoint_->sends_in_flight() > 0 && environment_.clock.now_ns() < give_up_ns) worker_->progress();
}

void UcxLane::greet(std::span<const std::byte, kTokenBytes> token, uint64_t deadline_ns) {
  endpoint_->send_frame(encode_hello(token, worker_->address()));
  while (!greeted_) {
    if (lost_) throw std::runtime_error("the node closed the data-plane connection during the greeting");
    if (environment_.clock.now_ns() >= deadline_ns) throw OpenTimeout("the node's data plane did not answer in time");
    if (worker_->progress() || !worker_->arm()) continue;
    pollfd event{worker_->event_fd(), POLLIN, 0};
    poll(&event, 1, 1);
  }
}

bool UcxLane::progress_lane() {
  bool worked = false;
  // A bound, so that deadlines are looked at while the node keeps sending.
  for (int i = 0; i < 64 && worker_->progress(); ++i) worked = true;
  return worked;
}

void UcxLane::on_frame(UcxEndpoint&, ByteView frame) {
  if (greeted_) return Lane::on_frame(frame);
  const std::optional<Reply> reply = decode_reply(frame);
  greeted_ = reply && reply->header.kind == FrameKind::kHelloReply;
  lost_ = !greeted_;
  if (greeted_) welcomed(reply->hello);
}

// ---- puts

bool UcxLane::send_piece(Transfer& transfer, ChunkHeader chunk, uint32_t* crc) {
  if (bytes_in_flight_ >= kWindowBytes) return false;
  const uint32_t cookie = next_cookie_++;
  Sending& sending = in_flight_[cookie];
  sending.transfer = find(transfer.id);
  const ByteView payload = gather(transfer, chunk, &sending.bounce, crc);
  chunk.crc = *crc;
  bytes_in_flight_ += chunk.bytes;
  endpoint_->send_chunk(chunk, payload, this, uint64_t{cookie} << 32 | chunk.bytes);
  return true;
}

// The chunk's bytes as one run: the caller's own memory where they lie together there, a copy where not. A sum taken
// just before the send leaves the bytes in the cache for it.
ByteView UcxLane::gather(const Transfer& transfer, const ChunkHeader& chunk, Bytes* bounce, uint32_t* crc) const {
  ByteView whole;
  transfer.for_each_piece(chunk.block, chunk.offset, chunk.bytes, [&](const std::byte* data, uint32_t bytes) {
    if (bytes == chunk.bytes) whole = ByteView(data, bytes);
  });
  if (!whole.empty()) {
    *crc = crc32c(whole.data(), whole.size());
    return whole;
  }
  bounce->resize(chunk.bytes);
  std::byte* target = bounce->data();
  *crc = 0;
  transfer.for_each_piece(chunk.block, chunk.offset, chunk.bytes, [&](const std::byte* data, uint32_t bytes) {
    *crc = copy_crc32c(target, data, bytes, *crc);
    target += bytes;
  });
  return *bounce;
}

void UcxLane::on_chunk_sent(uint64_t cookie, bool) {
  const auto found = in_flight_.find(static_cast<uint32_t>(cookie >> 32));
  bytes_in_flight_ -= cookie & 0xFFFFFFFF;
  in_flight_.erase(found);
}

// ---- gets

Lane::TransferPtr UcxLane::receiver_of(const ChunkHeader& chunk) {
  TransferPtr transfer = find(chunk.request_id);
  if (transfer == nullptr) {
    ++environment_.counters.late_chunks;
    return nullptr;
  }
  const bool fits =
      transfer->wants_bytes() && chunk.block < transfer->key_count &&
      chunk.block_length <= environment_.max_block_bytes &&
      (transfer->batch->verb == Verb::kBorrow || transfer->block(chunk.block).bytes == chunk.block_length) &&
      uint64_t{transfer->progress[chunk.block].bytes} + chunk.bytes <= chunk.block_length;
  if (fits) return transfer;
  lost_ = true;  // bytes that were not asked for
  return nullptr;
}

// A borrow learns a block's length from its first chunk.
std::byte* UcxLane::make_room(Transfer& transfer, const ChunkHeader& chunk) {
  auto& room = receiving_[transfer.id];
  if (room == nullptr) room = std::make_unique<ReceivedBlocks>(transfer.key_count);
  auto& block = room->blocks[chunk.block];
  auto& view = transfer.batch->views[transfer.first_key + chunk.block];
  if (block == nullptr) {
    block.reset(new (std::nothrow) std::byte[chunk.block_length]);
    if (block == nullptr) return nullptr;
    view = {block.get(), chunk.block_length};
  }
  return view.size() == chunk.block_length ? block.get() + chunk.offset : nullptr;
}

void UcxLane::on_chunk(UcxEndpoint&, ByteView header, ByteView payload) {
  const std::optional<ChunkHeader> chunk = decode_chunk_header(header, payload.size());
  if (!chunk) {
    lost_ = true;
    return;
  }
  const TransferPtr transfer = receiver_of(*chunk);
  if (transfer == nullptr) return;
  uint32_t crc = 0;
  const std::byte* source = payload.data();
  const auto copy = [&](std::byte* target, uint32_t bytes) {
    crc = copy_piece_crc32c(target, source, bytes, crc);
    source += bytes;
  };
  if (transfer->batch->verb == Verb::kBorrow) {
    std::byte* target = make_room(*transfer, *chunk);
    if (target == nullptr) return;  // no memory: the block stays incomplete and ends as a miss
    copy(target, chunk->bytes);
  } else {
    transfer->for_each_piece(chunk->block, chunk->offset, chunk->bytes, copy);
  }
  received(transfer, *chunk, crc);
}

void UcxLane::received(const TransferPtr& transfer, const ChunkHeader& chunk, uint32_t crc) {
  heard();
  BlockProgress& progress = transfer->progress[chunk.block];
  progress.bytes += chunk.bytes;
  progress.crc ^= crc32c_concat(crc, 0, chunk.block_length - chunk.offset - chunk.bytes);
  if (!transfer->entries.empty()) maybe_finish_get(transfer);
}

void UcxLane::on_get_reply(const TransferPtr& transfer) { maybe_finish_get(transfer); }

void UcxLane::maybe_finish_get(const TransferPtr& transfer) {
  if (transfer->placements_in_flight > 0) return;
  for (uint32_t i = 0; i < transfer->key_count; ++i) {
    const BlockEntry& entry = transfer->entries[i];
    if (transfer->entry_status(i) == Status::kOk && transfer->progress[i].bytes < entry.length) return;
  }
  Batch& batch = *transfer->batch;
  for (uint32_t i = 0; i < transfer->key_count; ++i) {
    const BlockEntry& entry = transfer->entries[i];
    transfer->status(i) = transfer->entry_status(i);
    if (transfer->status(i) == Status::kOk) {
      const BlockProgress& progress = transfer->progress[i];
      settle_block(*transfer, i, progress.bytes == entry.length && progress.crc == entry.crc);
    }
    if (batch.verb == Verb::kBorrow && transfer->status(i) != Status::kOk) batch.views[transfer->first_key + i] = {};
  }
  if (const auto room = receiving_.find(transfer->id); room != receiving_.end()) {
    batch.borrowed[transfer->first_key / kKeysMax] = std::move(room->second);
    receiving_.erase(room);
  }
  complete(transfer);
}

// ---- rendezvous: UCX writes to the final buffer itself

std::byte* UcxLane::place_chunk(UcxEndpoint&, ByteView header, size_t payload_bytes) {
  const std::optional<ChunkHeader> chunk = decode_chunk_header(header, payload_bytes);
  if (!chunk) return nullptr;
  const TransferPtr transfer = receiver_of(*chunk);
  if (transfer == nullptr) return nullptr;
  std::byte* target = nullptr;
  if (transfer->batch->verb == Verb::kBorrow) {
    target = make_room(*transfer, *chunk);
  } else {
    transfer->for_each_piece(chunk->block, chunk->offset, chunk->bytes, [&](std::byte* data, uint32_t bytes) {
      if (bytes == chunk->bytes) target = data;
    });
    // Scattered buffers are received together and copied out by `on_placed`.
    const std::pair<uint64_t, uint32_t> place{chunk->request_id, chunk->block};
    if (target == nullptr && !scattered_.contains(place)) target = (scattered_[place] = Bytes(chunk->bytes)).data();
  }
  transfer->placements_in_flight += target != nullptr ? 1 : 0;
  return target;
}

void UcxLane::on_placed(UcxEndpoint&, ByteView header, bool received_all) {
  ChunkHeader chunk;
  std::memcpy(&chunk, header.data(), sizeof(chunk));  // was decoded in place_chunk
  auto scattered = scattered_.extract({chunk.request_id, chunk.block});
  const TransferPtr transfer = find(chunk.request_id);
  if (transfer == nullptr) return;
  --transfer->placements_in_flight;
  if (!received_all) {
    if (!transfer->entries.empty()) maybe_finish_get(transfer);
    return;
  }
  uint32_t crc = 0;
  if (!scattered.empty()) {
    const std::byte* source = scattered.mapped().data();
    transfer->for_each_piece(chunk.block, chunk.offset, chunk.bytes, [&](std::byte* target, uint32_t bytes) {
      crc = copy_crc32c(target, source, bytes, crc);
      source += bytes;
    });
  } else if (transfer->batch->verb == Verb::kBorrow) {
    crc = crc32c(transfer->batch->views[transfer->first_key + chunk.block].data() + chunk.offset, chunk.bytes);
  } else {
    crc = checksum_of(*transfer, chunk.block, chunk.offset, chunk.bytes);
  }
  received(transfer, chunk, crc);
}

// Memory that UCX may still write to is not handed back: the connection is closed under it first, which ends the
// receives.
void UcxLane::abandon(Transfer& transfer) {
  receiving_.erase(transfer.id);
  if (transfer.placements_in_flight == 0) return;
  lost_ = true;
  endpoint_->close();
  const uint64_t give_up_ns = environment_.clock.now_ns() + kQuiesceNs;
  while (transfer.placements_in_flight > 0 && environment_.clock.now_ns() < give_up_ns) worker_->progress();
  if (transfer.placements_in_flight > 0) orphans_.push_back(find(transfer.id));
}

}  // namespace kvstore
