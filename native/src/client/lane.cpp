#include "client/lane.h"

#include <algorithm>

namespace kvstore {
namespace {

constexpr uint64_t kIdlePingNs = 2'000'000'000;  // how often an idle session is looked after
constexpr uint64_t kPingNs = 250'000'000;        // silence after which a node that owes an answer is asked
constexpr uint64_t kSilenceNs = 2'000'000'000;   // silence after which it is lost

// The node found room for the block, whatever became of it then.
bool had_room(Status status) {
  switch (status) {
    case Status::kOk:
    case Status::kExists:
    case Status::kConflict:
    case Status::kCorrupt:
    case Status::kNotDurable:
      return true;
    default:
      return false;
  }
}

}  // namespace

Lane::Lane(const LaneEnvironment& environment, uint32_t chunk_bytes)
    : environment_(environment), chunk_bytes_(chunk_bytes), heard_ns_(environment.clock.now_ns()) {}

void Lane::start(const std::shared_ptr<Batch>& batch) {
  const auto keys = static_cast<uint32_t>(batch->keys.size());
  if (keys == 0) return environment_.on_done(batch);
  batch->number = std::max<uint32_t>(1, static_cast<uint32_t>(environment_.next_request_id.load()));
  for (uint32_t first = 0; first < keys; first += kKeysMax) launch(batch, first, std::min(kKeysMax, keys - first));
  next_deadline_ns_ = std::min(next_deadline_ns_, batch->deadline_ns);
  if (expecting_since_ns_ == 0) expecting_since_ns_ = environment_.clock.now_ns();
}

void Lane::launch(const std::shared_ptr<Batch>& batch, uint32_t first, uint32_t count) {
  const auto transfer = std::make_shared<Transfer>(batch, environment_.next_request_id++, first, count);
  ++batch->transfers_open;
  pending_.emplace(transfer->id, transfer);
  send_frame(transfer->request_frame(environment_.clock.now_ns()));
}

bool Lane::progress() {
  bool worked = progress_lane();
  if (!sending_.empty()) worked |= pump_puts();
  for (const uint64_t id : environment_.releases->take()) {
    send_bare(FrameKind::kRelease, id);
    worked = true;
  }
  return worked;
}

// ---- answers

void Lane::on_frame(ByteView frame) {
  const std::optional<Reply> reply = decode_reply(frame);
  if (!reply) {
    lost_ = true;  // not our protocol: nothing on this session can be trusted
    return;
  }
  on_reply(*reply);
  heard();
}

void Lane::heard() {
  heard_ns_ = environment_.clock.now_ns();
  expecting_since_ns_ = pending_.empty() ? 0 : heard_ns_;
}

void Lane::on_reply(const Reply& reply) {
  const TransferPtr transfer = find(reply.header.request_id);
  if (transfer == nullptr) {
    if (reply.header.kind == FrameKind::kGetReply) on_late_get_reply(reply);
    return;
  }
  const Verb verb = transfer->batch->verb;
  switch (reply.header.kind) {
    case FrameKind::kGetReply:
      if (!transfer->wants_bytes() || reply.header.count != transfer->key_count) break;
      transfer->entries = reply.entries;
      return on_get_reply(transfer);
    case FrameKind::kPutGrant:
      if (verb != Verb::kPut || reply.header.count != transfer->key_count) break;
      return on_grant(transfer, reply);
    case FrameKind::kPutReply:
      if (verb != Verb::kPut || reply.header.count != transfer->key_count || transfer->entries.empty()) break;
      return on_put_reply(transfer, reply);
    case FrameKind::kMatchReply:
      if (verb != Verb::kMatch || reply.header.count > transfer->key_count) break;
      for (uint32_t i = 0; i < transfer->key_count; ++i) {
        transfer->status(i) = i < reply.header.count ? Status::kOk : Status::kMiss;
      }
      return finish(transfer);
    case FrameKind::kStatusReply: {
      const bool fits = verb == Verb::kExists || verb == Verb::kTouch || verb == Verb::kDelete;
      if (!fits || reply.header.count != transfer->key_count) break;
      for (uint32_t i = 0; i < transfer->key_count; ++i) transfer->status(i) = reply.statuses[i];
      return finish(transfer);
    }
    default:
      break;
  }
  lost_ = true;  // an answer that does not fit its question
}

Lane::TransferPtr Lane::find(uint64_t request_id) const {
  const auto found = pending_.find(request_id);
  return found == pending_.end() ? nullptr : found->second;
}

void Lane::complete(const TransferPtr& transfer) {
  ask_again(*transfer);
  finish(transfer);
}

// A node takes on no more blocks at once than it has room for, and answers BUSY from the first one without it: the rest
// takes another turn. Turns go on for as long as they get on: each gives its room back before the next, and a put that
// gets none waits in the node, so nobody polls. A part of the batch that got nothing may have lost the room to another
// part, and goes on when that one is through.
//
// A borrow keeps its room, so it has one turn only. So has a put where memory is all there is: its next turn would push
// out the beginning of its own chain.
void Lane::ask_again(Transfer& transfer) {
  Batch& batch = *transfer.batch;
  const bool in_turns = batch.verb == Verb::kGet || (batch.verb == Verb::kPut && puts_in_turns_);
  if (!in_turns || lost_ || environment_.clock.now_ns() >= batch.deadline_ns) return;
  uint32_t busy = 0;
  bool progress = false;
  while (busy < transfer.key_count && transfer.entry_status(busy) != Status::kBusy) {
    progress |= had_room(transfer.status(busy++));
  }
  const KeyRange rest{transfer.first_key + busy, transfer.key_count - busy};
  if (rest.count > 0 && (progress || batch.transfers_open > 1)) batch.stalled.push_back(rest);
  if (!progress) return;
  for (const KeyRange& range : std::exchange(batch.stalled, {})) launch(transfer.batch, range.first, range.count);
}

void Lane::finish(const TransferPtr& transfer) {
  if (pending_.erase(transfer->id) == 0) return;
  Batch& batch = *transfer->batch;
  if (--batch.transfers_open > 0) return;
  if (batch.verb == Verb::kMatch) {
    const auto end = std::ranges::find_if(batch.statuses, [](Status status) { return status != Status::kOk; });
    batch.matched = static_cast<uint32_t>(end - batch.statuses.begin());
  }
  environment_.on_done(transfer->batch);
}

void Lane::settle_block(Transfer& transfer, uint32_t index, bool intact) {
  transfer.status(index) = intact ? Status::kOk : Status::kCorrupt;
  ClientCounters& counters = environment_.counters;
  if (intact) {
    ++counters.blocks_read;
    counters.bytes_read += transfer.entries[index].length;
    return;
  }
  report(Report::kCorrupt, transfer.keys()[index], transfer.entries[index].crc);
}

void Lane::report(Report reason, const Key& key, uint32_t crc) {
  send_frame(encode_report(reason, {&key, 1}, {&crc, 1}));
}

void Lane::send_bare(FrameKind kind, uint64_t request_id) {
  FrameHeader header;
  header.kind = kind;
  header.request_id = request_id;
  send_frame(encode_bare(header));
}

// ---- puts

void Lane::on_grant(const TransferPtr& transfer, const Reply& reply) {
  if (!transfer->entries.empty()) {
    lost_ = true;
    return;
  }
  transfer->entries = reply.entries;
  for (uint32_t i = 0; i < transfer->key_count; ++i) transfer->status(i) = transfer->entry_status(i);
  sending_.push_back(transfer);
}

bool Lane::pump_puts() {
  const TransferPtr transfer = sending_.front();
  if (!pending_.contains(transfer->id)) {  // timed out in the meantime
    sending_.pop_front();
    return true;
  }
  const bool worked = pump_put(transfer);
  if (transfer->next_block < transfer->key_count) return worked;
  sending_.pop_front();
  maybe_finish_put(transfer);
  return true;
}

// Hands over pieces of one put until the lane has no room or a block was summed: then others have their turn.
bool Lane::pump_put(const TransferPtr& transfer) {
  bool worked = false;
  while (transfer->next_block < transfer->key_count) {
    const uint32_t index = transfer->next_block;
    const Status granted = transfer->entry_status(index);
    if (granted != Status::kOk) {
      if (granted == Status::kExists) compare_existing(*transfer, index);
      ++transfer->next_block;
      if (granted == Status::kExists) return true;
      continue;
    }
    const uint32_t length = transfer->block(index).bytes;
    BlockProgress& progress = transfer->progress[index];
    ChunkHeader chunk;
    chunk.block = index;
    chunk.request_id = transfer->id;
    chunk.offset = progress.bytes;
    chunk.bytes = std::min(chunk_bytes_, length - progress.bytes);
    chunk.block_length = length;
    uint32_t crc = 0;
    if (!send_piece(*transfer, chunk, &crc)) return worked;
    worked = true;
    progress.bytes += chunk.bytes;
    if (progress.bytes == length) ++transfer->next_block;
  }
  return worked;
}

uint32_t Lane::checksum_of(const Transfer& transfer, uint32_t index, uint32_t offset, uint32_t bytes) {
  uint32_t crc = 0;
  transfer.for_each_piece(index, offset, bytes,
                          [&](const std::byte* data, uint32_t run) { crc = crc32c(data, run, crc); });
  return crc;
}

void Lane::compare_existing(Transfer& transfer, uint32_t index) {
  const uint32_t crc = checksum_of(transfer, index, 0, transfer.block(index).bytes);
  const bool same = transfer.entries[index].length == transfer.block(index).bytes && transfer.entries[index].crc == crc;
  transfer.status(index) = same ? Status::kExists : Status::kConflict;
  report(same ? Report::kExists : Report::kConflict, transfer.keys()[index], crc);
}

void Lane::on_put_reply(const TransferPtr& transfer, const Reply& reply) {
  transfer->last_word = reply.statuses;
  maybe_finish_put(transfer);
}

// The node answers a second time for what it granted; if the put is durable, also for what it found.
void Lane::maybe_finish_put(const TransferPtr& transfer) {
  if (transfer->next_block < transfer->key_count) return;
  bool owed = false;
  for (uint32_t i = 0; i < transfer->key_count; ++i) {
    const Status entry = transfer->entry_status(i);
    owed |= entry == Status::kOk || (entry == Status::kExists && transfer->batch->durable);
  }
  if (owed && transfer->last_word.empty()) return;
  if (owed) settle_put(*transfer);
  ClientCounters& counters = environment_.counters;
  for (uint32_t i = 0; i < transfer->key_count; ++i) {
    if (transfer->status(i) == Status::kConflict) ++counters.conflicts;
    const bool accepted = transfer->status(i) == Status::kOk || transfer->status(i) == Status::kNotDurable;
    if (!accepted || transfer->entry_status(i) != Status::kOk) continue;
    ++counters.blocks_written;
    counters.bytes_written += transfer->block(i).bytes;
  }
  complete(transfer);
}

void Lane::settle_put(Transfer& transfer) {
  for (uint32_t i = 0; i < transfer.key_count; ++i) {
    const Status word = transfer.last_word[i];
    const bool found_same = transfer.entry_status(i) == Status::kExists && transfer.status(i) == Status::kExists;
    // That the bytes are the same is for the client to see; that they are durable, for the node.
    const bool kept = word == Status::kOk || word == Status::kExists || !transfer.batch->durable;
    if (transfer.entry_status(i) == Status::kOk || (found_same && !kept)) transfer.status(i) = word;
  }
}

// ---- time

void Lane::keep_time(uint64_t now_ns) {
  check_alive();
  if (now_ns >= next_deadline_ns_) expire(now_ns);
  if (expecting_since_ns_ == 0 && now_ns - std::min(now_ns, heard_ns_) > kIdlePingNs) {
    // Tells the node that the client lives, and the client whether the node does.
    expecting_since_ns_ = pinged_ns_ = now_ns;
    send_bare(FrameKind::kPing, 0);
  }
  if (expecting_since_ns_ == 0) return;
  const uint64_t silent_ns = now_ns - std::min(now_ns, std::max(heard_ns_, expecting_since_ns_));
  if (silent_ns > kSilenceNs) lost_ = true;
  if (silent_ns > kPingNs && now_ns - pinged_ns_ > kPingNs) {
    pinged_ns_ = now_ns;
    send_bare(FrameKind::kPing, 0);
  }
}

void Lane::expire(uint64_t now_ns) {
  std::vector<TransferPtr> late;
  next_deadline_ns_ = UINT64_MAX;
  for (const auto& [id, transfer] : pending_) {
    if (transfer->batch->deadline_ns <= now_ns) {
      late.push_back(transfer);
    } else {
      next_deadline_ns_ = std::min(next_deadline_ns_, transfer->batch->deadline_ns);
    }
  }
  for (const TransferPtr& transfer : late) {
    const Verb verb = transfer->batch->verb;
    if (verb == Verb::kPut || transfer->wants_bytes()) send_bare(FrameKind::kCancel, transfer->id);
    end_early(transfer, Status::kTimeout);
  }
}

void Lane::end_early(const TransferPtr& transfer, Status status) {
  abandon(*transfer);
  const bool borrows = transfer->batch->verb == Verb::kBorrow;
  for (uint32_t i = 0; i < transfer->key_count; ++i) {
    // A block that was read and verified is good; a borrowed one ends with the leases of its request.
    const bool settled = transfer->batch->verb == Verb::kGet && transfer->status(i) == Status::kOk;
    if (!settled) transfer->status(i) = status;
    if (borrows) transfer->batch->views[transfer->first_key + i] = {};
  }
  finish(transfer);
}

void Lane::fail_all(Status status) {
  while (!pending_.empty()) end_early(TransferPtr(pending_.begin()->second), status);
  sending_.clear();
}

}  // namespace kvstore
