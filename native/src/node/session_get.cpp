// The half of a session that reads: gets that wait for a writer, and gets of blocks that only a disk has.
#include <algorithm>

#include "node/session.h"

namespace kvstore {

namespace {

bool is(const BlockEntry& entry, Status status) { return entry.status == static_cast<uint8_t>(status); }

}  // namespace

void Session::on_get(Request request) {
  const uint64_t request_id = request.header.request_id;
  if (cold_gets_.contains(request_id) || starved_gets_.contains(request_id)) return refuse(request, Status::kBusy);
  const bool may_wait = request.wait_ms > 0 && parked_.size() < kRequestsOpenMax && !parked_.contains(request_id);
  if (!may_wait || all_visible(request)) return serve_get(request);
  const uint64_t wait_ns = uint64_t{std::min(request.wait_ms, kTimeoutMsMax)} * 1'000'000;
  context_.waiters.add(request.keys, {thread_, id_, request_id});
  ++context_.counters.gets_waiting;
  parked_.emplace(request_id, Parked{std::move(request), context_.clock.now_ns() + wait_ns});
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
  settle_put(request_id);
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
  if (try_get(request, false)) return;
  starved_gets_.emplace(request.header.request_id, Parked{request, answer_by_ns(request)});
}

void Session::retry_starved_gets(uint64_t now_ns) {
  std::erase_if(starved_gets_, [&](const auto& starved) {
    return try_get(starved.second.request, starved.second.deadline_ns <= now_ns);
  });
}

// False when there was no room in DRAM for even the first block that comes from disk and `now_or_never` does not hold:
// others hold it, and will give it back.
bool Session::try_get(const Request& request, bool now_or_never) {
  const size_t count = request.keys.size();
  GetResult result{request.header.request_id, std::vector<BlockEntry>(count), std::vector<Lease>(count)};
  std::vector<Status> statuses(count);
  TieredStore& store = context_.store;
  const Stamp stamp = stamp_of(request);
  store.acquire(request.keys, stamp, request.header.first_depth, result.leases, statuses);
  for (size_t i = 0; i < count; ++i) {
    const Lease& lease = result.leases[i];
    if (statuses[i] == Status::kOk && request.values[i] != kAnyLength && request.values[i] != lease.length) {
      store.release(lease);
      statuses[i] = Status::kWrongSize;
    }
    if (statuses[i] == Status::kOk || statuses[i] == Status::kWrongSize) result.entries[i].length = lease.length;
    result.set_status(i, statuses[i]);
  }
  if (store.has_disks() && !store.all_in_dram(statuses)) {
    return fetch_cold(request, stamp, std::move(result), now_or_never);
  }
  deliver(std::move(result));
  return true;
}

// A get that needs a disk holds no more of DRAM at once than this share, so that there is room to read into, for others
// too: from the first block beyond it on, all are kBusy, and the client asks for those in another turn.
void Session::limit_turn(const Request& request, GetResult* result) const {
  const uint64_t turn_bytes = context_.arena.bytes() / 4;
  uint64_t held_bytes = 0;
  for (size_t i = 0; i < result->entries.size(); ++i) {
    const BlockEntry& entry = result->entries[i];
    if (is(entry, Status::kOk)) held_bytes += entry.length;
    BlockInfo info;
    if (is(entry, Status::kMiss) && context_.store.find(request.keys[i], &info)) held_bytes += info.length;
    if (held_bytes > turn_bytes && i > 0) return cut_off(result, i);
  }
}

// Starts the reads of what only a disk has.
bool Session::fetch_cold(const Request& request, Stamp stamp, GetResult result, bool now_or_never) {
  const uint64_t request_id = request.header.request_id;
  limit_turn(request, &result);
  // The entry first: a read may end, on another thread, before this one is through; its mail waits for us.
  ColdGet& get = cold_gets_[request_id];
  get.result = std::move(result);
  for (uint32_t i = 0; i < request.keys.size(); ++i) {
    if (!is(get.result.entries[i], Status::kMiss)) continue;
    const uint32_t wanted = request.values[i] == kAnyLength ? 0 : request.values[i];
    uint32_t length = 0;
    const Status status = context_.store.fetch(request.keys[i], stamp, request.header.first_depth + i, wanted, &length,
                                               fetched_listener(request_id, i));
    if (status == Status::kBusy) {
      cut_off(&get.result, i);
      if (i > 0 || now_or_never) break;
      cold_gets_.erase(request_id);
      return false;
    }
    if (status == Status::kWrongSize) get.result.entries[i].length = length;
    if (status == Status::kOk) {
      ++get.pending;
    } else {
      get.result.set_status(i, status);
    }
  }
  if (get.pending == 0) deliver_cold(request_id);
  return true;
}

FetchDone Session::fetched_listener(uint64_t request_id, uint32_t index) {
  // No `this`: the session may be gone when the disk answers.
  return [&mailboxes = context_.mailboxes, thread = thread_, session = id_, request_id, index](Status status,
                                                                                               const Lease& lease) {
    mailboxes.post(thread, FetchedBlock{session, request_id, index, status, lease});
  };
}

void Session::cut_off(GetResult* result, size_t first) const {
  for (size_t i = first; i < result->entries.size(); ++i) {
    if (is(result->entries[i], Status::kOk)) context_.store.release(result->leases[i]);
    result->set_status(i, Status::kBusy);
  }
}

bool Session::on_fetched(const FetchedBlock& fetched) {
  const auto found = cold_gets_.find(fetched.request);
  if (found == cold_gets_.end()) return false;
  ColdGet& get = found->second;
  get.result.leases[fetched.index] = fetched.lease;
  get.result.set_status(fetched.index, fetched.status);
  if (--get.pending == 0) deliver_cold(fetched.request);
  return true;
}

void Session::deliver_cold(uint64_t request_id) {
  const auto found = cold_gets_.find(request_id);
  GetResult result = std::move(found->second.result);
  cold_gets_.erase(found);
  deliver(std::move(result));
}

// What is still being read goes back to the store when its mail finds nobody.
void Session::forget_cold(uint64_t request_id) {
  const auto found = cold_gets_.find(request_id);
  if (found == cold_gets_.end()) return;
  cut_off(&found->second.result, 0);
  cold_gets_.erase(found);
}

}  // namespace kvstore
