#include "node/session.h"

#include <algorithm>

namespace kvstore {
namespace {

constexpr uint64_t kGreetingNs = 5'000'000'000;  // a peer that has not said hello by then is dropped
constexpr uint64_t kPutGraceMs = 1'000;          // how much longer than its client a put is kept
constexpr uint32_t kTimeoutMsMax = 600'000;

uint32_t verb_of(FrameKind kind) {
  switch (kind) {
    case FrameKind::kPut:
    case FrameKind::kTouch:
      return kVerbWrite;
    case FrameKind::kDelete:
      return kVerbDelete;
    case FrameKind::kGet:
    case FrameKind::kMatch:
    case FrameKind::kExists:
      return kVerbRead;
    default:
      return 0;
  }
}

FrameHeader answer_to(const Request& request, FrameKind kind) {
  FrameHeader header;
  header.kind = kind;
  header.request_id = request.header.request_id;
  return header;
}

}  // namespace

Session::Session(NodeContext& context, uint64_t id, uint32_t thread)
    : context_(context), id_(id), thread_(thread), opened_ns_(context.clock.now_ns()) {
  ++context_.counters.sessions_open;
}

Session::~Session() {
  abort_puts();
  while (!parked_.empty()) end_wait(parked_.begin()->first, false);
  --context_.counters.sessions_open;
}

bool Session::on_frame(ByteView frame) {
  std::optional<Request> request = decode_request(frame);
  if (!request || (request->header.kind == FrameKind::kHello) == greeted_) {
    ++context_.counters.protocol_errors;
    return false;
  }
  if (!greeted_) return on_hello(*request);
  said_bye_ = request->header.kind == FrameKind::kBye;
  if (said_bye_) return false;
  dispatch(std::move(*request));
  return true;
}

bool Session::on_hello(const Request& request) {
  const std::optional<uint32_t> verbs = context_.capabilities.verbs_of(request.token);
  if (!verbs) {
    ++context_.counters.sessions_refused;
    return false;
  }
  verbs_ = *verbs;
  greeted_ = true;
  ++context_.counters.sessions_opened;
  HelloReply reply = welcome();
  reply.max_block_bytes = context_.options.max_block_bytes;
  send_welcome(reply);
  return true;
}

bool Session::allowed(FrameKind kind) const {
  const uint32_t verb = verb_of(kind);
  return (verbs_ & verb) == verb;
}

void Session::dispatch(Request request) {
  ++context_.counters.requests;
  const FrameHeader& header = request.header;
  if (!allowed(header.kind)) return refuse(request, Status::kDenied);
  switch (header.kind) {
    case FrameKind::kGet:
      return on_get(std::move(request));
    case FrameKind::kPut:
      return on_put(request);
    case FrameKind::kMatch:
      return on_match(request);
    case FrameKind::kExists:
    case FrameKind::kTouch:
    case FrameKind::kDelete:
      return on_status_verb(request);
    case FrameKind::kRelease:
      return on_release(header.request_id);
    case FrameKind::kReport:
      return on_report(request);
    case FrameKind::kPing:
      return send(encode_bare(answer_to(request, FrameKind::kPong)));
    case FrameKind::kCancel:
      return on_cancel(header.request_id);
    default:
      return;
  }
}

void Session::refuse(const Request& request, Status status) {
  switch (request.header.kind) {
    case FrameKind::kGet:
    case FrameKind::kPut: {
      BlockEntry entry;
      entry.status = static_cast<uint8_t>(status);
      const std::vector<BlockEntry> entries(request.header.count, entry);
      const FrameKind kind = request.header.kind == FrameKind::kGet ? FrameKind::kGetReply : FrameKind::kPutGrant;
      return send(encode_entries(answer_to(request, kind), entries));
    }
    case FrameKind::kMatch:
      return send(encode_bare(answer_to(request, FrameKind::kMatchReply)));
    default: {
      const std::vector<Status> statuses(request.header.count, status);
      return send(encode_statuses(answer_to(request, FrameKind::kStatusReply), statuses));
    }
  }
}

// ---- reading

void Session::on_get(Request request) {
  const bool may_wait =
      request.wait_ms > 0 && parked_.size() < kRequestsOpenMax && !parked_.contains(request.header.request_id);
  if (!may_wait || all_visible(request)) return serve_get(request);
  const uint64_t request_id = request.header.request_id;
  const uint64_t wait_ns = uint64_t{std::min(request.wait_ms, kTimeoutMsMax)} * 1'000'000;
  context_.waiters.add(request.keys, {thread_, id_, request_id});
  ++context_.counters.gets_waiting;
  parked_.emplace(request_id, ParkedGet{std::move(request), context_.clock.now_ns() + wait_ns});
  // A block may have been published between the first look and the registration.
  wake(request_id);
}

bool Session::all_visible(const Request& request) const {
  std::vector<Status> statuses(request.keys.size());
  context_.store.contains(request.keys, statuses);
  return std::ranges::all_of(statuses, [](Status status) { return status == Status::kOk; });
}

void Session::wake(uint64_t request_id) {
  const auto parked = parked_.find(request_id);
  if (parked != parked_.end() && all_visible(parked->second.request)) end_wait(request_id, true);
}

void Session::end_wait(uint64_t request_id, bool serve) {
  const auto parked = parked_.find(request_id);
  if (parked == parked_.end()) return;
  const Request request = std::move(parked->second.request);
  parked_.erase(parked);
  context_.waiters.remove(request.keys, {thread_, id_, request_id});
  --context_.counters.gets_waiting;
  if (serve) serve_get(request);
}

void Session::serve_get(const Request& request) {
  const size_t count = request.keys.size();
  GetResult result{request.header.request_id, std::vector<BlockEntry>(count), std::vector<Lease>(count)};
  std::vector<Status> statuses(count);
  BlockStore& store = context_.store;
  store.acquire(request.keys, store.next_stamp(), request.header.first_depth, result.leases, statuses);
  for (size_t i = 0; i < count; ++i) {
    BlockEntry& entry = result.entries[i];
    const Lease& lease = result.leases[i];
    if (statuses[i] == Status::kOk && request.values[i] != kAnyLength && request.values[i] != lease.length) {
      store.release(lease);
      statuses[i] = Status::kWrongSize;
    }
    entry.status = static_cast<uint8_t>(statuses[i]);
    if (statuses[i] != Status::kOk && statuses[i] != Status::kWrongSize) continue;
    entry.length = lease.length;
    entry.crc = lease.crc;
    entry.generation = lease.generation;
    entry.offset = lease.offset;
  }
  deliver(std::move(result));
}

void Session::on_match(const Request& request) {
  FrameHeader header = answer_to(request, FrameKind::kMatchReply);
  header.count = context_.store.match(request.keys, context_.store.next_stamp(), request.header.first_depth);
  send(encode_bare(header));
}

void Session::on_status_verb(const Request& request) {
  BlockStore& store = context_.store;
  std::vector<Status> statuses(request.keys.size());
  if (request.header.kind == FrameKind::kExists) {
    store.contains(request.keys, statuses);
  } else if (request.header.kind == FrameKind::kTouch) {
    store.touch(request.keys, store.next_stamp(), request.header.first_depth, request.ttl_ms, statuses);
  } else {
    store.erase(request.keys, statuses);
  }
  send(encode_statuses(answer_to(request, FrameKind::kStatusReply), statuses));
}

void Session::on_report(const Request& request) {
  if (request.report == Report::kCorrupt) {
    // One block a frame, as our client sends it: summing a frame full of large ones would hold up everybody.
    ++context_.counters.checksum_errors;
    return examine(request.keys[0], request.values[0]);
  }
  for (size_t i = 0; i < request.keys.size(); ++i) {
    if (request.report == Report::kExists) context_.store.count_exists();
    if (request.report == Report::kConflict) context_.store.count_conflict();
  }
}

// A reader found wrong bytes. Believe nobody: only a block that is wrong in our own memory leaves the store.
void Session::examine(const Key& key, uint32_t crc) {
  BlockStore& store = context_.store;
  BlockInfo info;
  if (!store.find(key, &info) || info.crc != crc) return;
  Lease lease;
  Status status = Status::kMiss;
  store.acquire({&key, 1}, store.next_stamp(), 0, {&lease, 1}, {&status, 1});
  if (status != Status::kOk) return;
  const bool wrong = crc32c(context_.arena.data() + lease.offset, lease.length) != lease.crc;
  if (wrong) store.quarantine(key, lease.crc);
  store.release(lease);
}

// ---- writing

void Session::on_put(const Request& request) {
  const uint64_t request_id = request.header.request_id;
  if (puts_.size() >= kRequestsOpenMax || puts_.contains(request_id)) return refuse(request, Status::kBusy);
  BlockStore& store = context_.store;
  const Stamp stamp = store.next_stamp();
  PutState put;
  put.ttl_ms = request.ttl_ms;
  const uint64_t keep_ms = std::min(request.header.timeout_ms, kTimeoutMsMax) + kPutGraceMs;
  put.deadline_ns = context_.clock.now_ns() + keep_ms * 1'000'000;
  put.blocks.resize(request.keys.size());
  std::vector<BlockEntry> entries(request.keys.size());
  for (size_t i = 0; i < request.keys.size(); ++i) {
    PutBlock& block = put.blocks[i];
    BlockInfo info;
    if (store.find(request.keys[i], &info)) {
      block.status = Status::kExists;
      entries[i].length = info.length;
      entries[i].crc = info.crc;
    } else {
      const auto depth = static_cast<uint32_t>(request.header.first_depth + i);
      block.status = store.reserve(request.keys[i], request.values[i], stamp, depth, &block.reservation);
      block.open = block.status == Status::kOk;
      put.open_blocks += block.open ? 1 : 0;
    }
    entries[i].status = static_cast<uint8_t>(block.status);
  }
  send(encode_entries(answer_to(request, FrameKind::kPutGrant), entries));
  if (put.open_blocks > 0) puts_.emplace(request_id, std::move(put));
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
  block.status = context_.store.publish(block.reservation, block.crc, put.ttl_ms);
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
    puts_.erase(found);
    return;
  }
  if (put.open_blocks > 0 || put.placements > 0) return;
  std::vector<Status> statuses;
  statuses.reserve(put.blocks.size());
  for (const PutBlock& block : put.blocks) statuses.push_back(block.status);
  puts_.erase(found);
  FrameHeader header;
  header.kind = FrameKind::kPutReply;
  header.request_id = request_id;
  send(encode_statuses(header, statuses));
}

void Session::on_cancel(uint64_t request_id) {
  end_wait(request_id, false);
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
  for (auto& [request_id, put] : puts_) abort_open_blocks(put);
  puts_.clear();
}

// ---- time

bool Session::on_tick(uint64_t now_ns) {
  if (!greeted_) return now_ns - opened_ns_ < kGreetingNs;
  std::vector<uint64_t> late_gets;
  for (const auto& [request_id, parked] : parked_) {
    if (parked.deadline_ns <= now_ns) late_gets.push_back(request_id);
  }
  for (const uint64_t request_id : late_gets) end_wait(request_id, true);
  std::vector<uint64_t> late_puts;
  for (const auto& [request_id, put] : puts_) {
    if (put.deadline_ns <= now_ns && !put.cancelled) late_puts.push_back(request_id);
  }
  for (const uint64_t request_id : late_puts) {
    ++context_.counters.puts_expired;
    on_cancel(request_id);
  }
  return true;
}

}  // namespace kvstore
