#include "node/session.h"

#include <algorithm>

namespace kvstore {
namespace {

constexpr uint64_t kGreetingNs = 5'000'000'000;  // a peer that has not said hello by then is dropped

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
  while (!cold_gets_.empty()) forget_cold(cold_gets_.begin()->first);
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
  reply.disk_bytes = context_.store.overflow_bytes();
  send_welcome(reply);
  return true;
}

Stamp Session::stamp_of(const Request& request) {
  const uint32_t batch = request.header.batch;
  const auto known = std::ranges::find(batch_stamps_, batch, &BatchStamp::batch);
  if (batch != 0 && known != batch_stamps_.end()) return known->stamp;
  const Stamp stamp = context_.store.next_stamp();
  if (batch != 0) batch_stamps_[next_batch_stamp_++ % kBatchesRemembered] = {batch, stamp};
  return stamp;
}

uint64_t Session::answer_by_ns(const Request& request) const {
  const uint64_t timeout_ns = uint64_t{std::min(request.header.timeout_ms, kTimeoutMsMax)} * 1'000'000;
  return context_.clock.now_ns() + timeout_ns - timeout_ns / 8;
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
      return on_put(std::move(request));
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

// ---- verbs that are answered at once

void Session::on_match(const Request& request) {
  FrameHeader header = answer_to(request, FrameKind::kMatchReply);
  header.count = context_.store.match(request.keys, stamp_of(request), request.header.first_depth);
  send(encode_bare(header));
}

void Session::on_status_verb(const Request& request) {
  TieredStore& store = context_.store;
  std::vector<Status> statuses(request.keys.size());
  if (request.header.kind == FrameKind::kExists) {
    store.contains(request.keys, statuses);
  } else if (request.header.kind == FrameKind::kTouch) {
    store.touch(request.keys, stamp_of(request), request.header.first_depth, request.ttl_ms, statuses);
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
  TieredStore& store = context_.store;
  BlockInfo info;
  if (!store.dram().find(key, &info) || info.crc != crc) return;  // on disk it is looked at whenever it is read
  Lease lease;
  Status status = Status::kMiss;
  store.acquire({&key, 1}, store.next_stamp(), 0, {&lease, 1}, {&status, 1});
  if (status != Status::kOk) return;
  const bool wrong = crc32c(context_.arena.data() + lease.offset, lease.length) != lease.crc;
  if (wrong) store.quarantine(key, lease.crc);
  store.release(lease);
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
  if (!starved_gets_.empty()) retry_starved_gets(now_ns);
  if (!parked_puts_.empty()) retry_parked_puts(now_ns);
  if (!context_.store.any_healthy()) settle_durable_puts();
  return true;
}

}  // namespace kvstore
