// The half of a session that writes: grants, pieces as they arrive, and puts that wait for room or for a disk.
#include <algorithm>

#include "node/session.h"

namespace kvstore {

namespace {

constexpr uint64_t kPutGraceMs = 1'000;  // how much longer than its client a put is kept

}  // namespace

void Session::on_put(Request request) {
  const uint64_t request_id = request.header.request_id;
  const bool open = puts_.contains(request_id) || parked_puts_.contains(request_id);
  if (open || puts_.size() + parked_puts_.size() >= kRequestsOpenMax) return refuse(request, Status::kBusy);
  // Those that came before wait for the same room.
  if (parked_puts_.empty() && grant_put(request, false)) return;
  const uint64_t until_ns = answer_by_ns(request);
  parked_puts_.emplace(request_id, Parked{std::move(request), until_ns});
}

// Reserves what there is room for. From the first block that has none on, all are kBusy, and the client asks for those
// in another turn. False when not one block got anywhere, the disks are making room and `now_or_never` does not hold.
bool Session::grant_put(const Request& request, bool now_or_never) {
  TieredStore& store = context_.store;
  const Stamp stamp = stamp_of(request);
  PutState put;
  put.ttl_ms = request.ttl_ms;
  put.durable = request.durable;
  const uint64_t keep_ms = std::min(request.header.timeout_ms, kTimeoutMsMax) + kPutGraceMs;
  put.deadline_ns = context_.clock.now_ns() + keep_ms * 1'000'000;
  put.blocks.resize(request.keys.size());
  std::vector<BlockEntry> entries(request.keys.size());
  bool room = true;
  for (size_t i = 0; i < request.keys.size(); ++i) {
    PutBlock& block = put.blocks[i];
    block.key = request.keys[i];
    BlockInfo info;
    if (!room) {
      block.status = Status::kBusy;
      if (store.overflow_bytes() == 0) store.count_busy();  // otherwise it is asked for again
    } else if (store.find(block.key, &info)) {
      block.status = Status::kExists;
      entries[i].length = info.length;
      entries[i].crc = info.crc;
    } else {
      const auto depth = static_cast<uint32_t>(request.header.first_depth + i);
      block.status = store.may_write(request.values[i])
                         ? store.reserve(block.key, request.values[i], stamp, depth, &block.reservation)
                         : Status::kBusy;
      block.open = block.status == Status::kOk;
      put.open_blocks += block.open ? 1 : 0;
      room = block.status != Status::kBusy;
      if (!room && i == 0 && !now_or_never && store.makes_room()) return false;
    }
    entries[i].status = static_cast<uint8_t>(block.status);
  }
  FrameHeader header;
  header.kind = FrameKind::kPutGrant;
  header.request_id = request.header.request_id;
  send(encode_entries(header, entries));
  if (put.open_blocks == 0 && !put.durable) return true;
  puts_.emplace(request.header.request_id, std::move(put));
  settle_put(request.header.request_id);
  return true;
}

PutBlock* Session::open_block(const ChunkHeader& chunk, PutState** put) {
  const auto found = puts_.find(chunk.request_id);
  if (found == puts_.end() || found->second.cancelled || chunk.block >= found->second.blocks.size()) return nullptr;
  PutBlock& block = found->second.blocks[chunk.block];
  if (!block.open || chunk.block_length != block.reservation.length) return nullptr;
  if (block.claimed_bytes + chunk.bytes > chunk.block_length) return nullptr;  // a piece that came before
  block.claimed_bytes += chunk.bytes;
  *put = &found->second;
  return &block;
}

bool Session::on_piece(const ChunkHeader& chunk, const std::byte* data) {
  if (!greeted_ || (verbs_ & kVerbWrite) == 0) {
    ++context_.counters.protocol_errors;
    return false;
  }
  context_.counters.bytes_received += chunk.bytes;
  PutState* put = nullptr;
  PutBlock* block = open_block(chunk, &put);
  if (block == nullptr) return true;  // nobody waits for it any more
  std::byte* target = context_.arena.data() + block->reservation.offset + chunk.offset;
  const uint32_t crc = copy_piece_crc32c(target, data, chunk.bytes);
  finish_piece(*put, *block, chunk, crc == chunk.crc);
  settle_put(chunk.request_id);
  return true;
}

std::byte* Session::place_piece(const ChunkHeader& chunk) {
  if (!greeted_ || (verbs_ & kVerbWrite) == 0) return nullptr;
  PutState* put = nullptr;
  PutBlock* block = open_block(chunk, &put);
  if (block == nullptr) return nullptr;
  ++put->placements;
  ++block->placements;
  return context_.arena.data() + block->reservation.offset + chunk.offset;
}

void Session::piece_placed(const ChunkHeader& chunk, bool received) {
  const auto found = puts_.find(chunk.request_id);
  if (found == puts_.end()) return;
  PutState& put = found->second;
  --put.placements;
  PutBlock& block = put.blocks[chunk.block];
  --block.placements;
  if (block.doomed && block.placements == 0) context_.store.abort(block.reservation);
  if (block.open && !received) {
    fail_block(put, block, Status::kUnavailable);  // the client went away in the middle
  } else if (block.open && !put.cancelled) {
    context_.counters.bytes_received += chunk.bytes;
    const std::byte* data = context_.arena.data() + block.reservation.offset + chunk.offset;
    finish_piece(put, block, chunk, crc32c(data, chunk.bytes) == chunk.crc);
  }
  settle_put(chunk.request_id);
}

void Session::finish_piece(PutState& put, PutBlock& block, const ChunkHeader& chunk, bool intact) {
  block.add_piece(chunk);
  if (!intact || block.received_bytes > block.reservation.length) {
    ++context_.counters.checksum_errors;
    return fail_block(put, block, Status::kCorrupt);
  }
  if (block.received_bytes < block.reservation.length) return;
  block.open = false;
  --put.open_blocks;
  block.status = context_.store.publish(block.key, block.reservation, block.crc, put.ttl_ms, put.durable);
}

void Session::fail_block(PutState& put, PutBlock& block, Status status) {
  block.open = false;
  block.status = status;
  --put.open_blocks;
  // Space that UCX still writes to is given back when it has ended.
  block.doomed = block.placements > 0;
  if (!block.doomed) context_.store.abort(block.reservation);
}

void Session::settle_put(uint64_t request_id) {
  const auto found = puts_.find(request_id);
  if (found == puts_.end()) return;
  PutState& put = found->second;
  if (put.cancelled) {
    if (put.placements > 0) return;
    abort_open_blocks(put);
    return drop_put(request_id);
  }
  if (put.open_blocks > 0 || put.placements > 0) return;
  if (put.durable && !all_durable(put)) {
    watch_durable(request_id, put);
    if (!all_durable(put)) return;  // one may have arrived between the first look and the registration
  }
  std::vector<Status> statuses;
  statuses.reserve(put.blocks.size());
  for (const PutBlock& block : put.blocks) statuses.push_back(block.status);
  drop_put(request_id);
  FrameHeader header;
  header.kind = FrameKind::kPutReply;
  header.request_id = request_id;
  send(encode_statuses(header, statuses));
}

void Session::on_cancel(uint64_t request_id) {
  end_wait(request_id, false);
  forget_cold(request_id);
  starved_gets_.erase(request_id);
  parked_puts_.erase(request_id);
  on_release(request_id);
  const auto put = puts_.find(request_id);
  if (put == puts_.end()) return;
  put->second.cancelled = true;
  settle_put(request_id);
}

void Session::abort_open_blocks(PutState& put) {
  for (PutBlock& block : put.blocks) {
    if (block.open) fail_block(put, block, Status::kTimeout);
  }
}

void Session::abort_puts() {
  parked_puts_.clear();
  while (!puts_.empty()) {
    abort_open_blocks(puts_.begin()->second);
    drop_put(puts_.begin()->first);
  }
}

// ---- puts that wait

// In the order in which they came: none overtakes another that waits for the same room.
void Session::retry_parked_puts(uint64_t now_ns) {
  std::erase_if(parked_puts_, [&](const auto& parked) {
    return parked.second.deadline_ns <= now_ns && grant_put(parked.second.request, true);
  });
  while (!parked_puts_.empty() && grant_put(parked_puts_.begin()->second.request, false)) {
    parked_puts_.erase(parked_puts_.begin());
  }
}

// Puts that wait for disks are woken when a block arrives there; that none will arrive is only seen by looking.
void Session::settle_durable_puts() {
  std::vector<uint64_t> waiting;
  for (const auto& [request_id, put] : puts_) {
    if (put.watched) waiting.push_back(request_id);
  }
  for (const uint64_t request_id : waiting) settle_put(request_id);
}

// True when every block of a durable put is on disk, or has failed to get there.
bool Session::all_durable(PutState& put) {
  bool all = true;
  for (PutBlock& block : put.blocks) {
    if (block.settled || (block.status != Status::kOk && block.status != Status::kExists)) continue;
    const Status durable = context_.store.make_durable(block.key);
    block.settled = durable != Status::kBusy;
    if (durable == Status::kNotDurable) block.status = Status::kNotDurable;
    all &= block.settled;
  }
  return all;
}

void Session::watch_durable(uint64_t request_id, PutState& put) {
  if (put.watched) return;
  put.watched = true;
  for (const PutBlock& block : put.blocks) context_.durable_waiters.add({&block.key, 1}, {thread_, id_, request_id});
}

void Session::drop_put(uint64_t request_id) {
  const auto found = puts_.find(request_id);
  if (found->second.watched) {
    for (const PutBlock& block : found->second.blocks) {
      context_.durable_waiters.remove({&block.key, 1}, {thread_, id_, request_id});
    }
  }
  puts_.erase(found);
}

}  // namespace kvstore
