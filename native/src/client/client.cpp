#include "client/client.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <system_error>

#include "base/spin.h"
#include "client/mapped_lane.h"
#include "client/ucx_lane.h"

namespace kvstore {
namespace {

using std::chrono::milliseconds;

constexpr int kSleepMsMax = 10;               // some event descriptors miss an event now and then
constexpr milliseconds kHousekeepingMs{100};  // how often an idle session is looked at
constexpr milliseconds kTakeOverMs{5};        // a waiting thread looks for a free driver's seat at least so often
constexpr uint64_t kAliveLookNs = 1'000'000;  // how often a busy driver looks at deadlines and sockets

UcxProfile profile_of(const LaneTarget& target) {
  if (target.lane == "tcp") return UcxProfile::eager("tcp,self", target.host);
  if (target.lane == "shm") return UcxProfile::eager("posix,cma,self", target.host);
  if (target.lane == "rdma") return UcxProfile::rdma("rc,ud,self", target.host);
  // The protocol of RDMA lanes on machines that have none: slower than "tcp", for tests.
  if (target.lane == "rdma-over-tcp") return UcxProfile::rdma("tcp,self", target.host);
  throw std::invalid_argument("no such lane: " + target.lane + " (there are mapped, shm, tcp and rdma)");
}

}  // namespace

Client::Client(ClientOptions options) : options_(options) {
  wake_fd_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  completion_fd_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (wake_fd_ < 0 || completion_fd_ < 0) {
    throw std::system_error(errno, std::generic_category(), "a client gets no event descriptors");
  }
  releases_ = std::make_shared<ReleaseQueue>([this] {
    const std::scoped_lock lock(mutex_);
    house_work_ = true;
    wake_driver();
    house_.notify_one();
  });
  housekeeper_ = std::thread([this] { keep_house(); });
}

Client::~Client() {
  close();
  ::close(wake_fd_);
  ::close(completion_fd_);
}

// ---- session

std::unique_ptr<Lane> Client::open_lane(const LaneTarget& target, uint64_t deadline_ns) {
  const LaneEnvironment environment{clock_,
                                    counters_,
                                    next_request_id_,
                                    releases_,
                                    options_.max_block_bytes,
                                    [this](const std::shared_ptr<Batch>& batch) { on_done(batch); }};
  if (target.lane == "mapped") {
    return std::make_unique<MappedLane>(environment, target.socket_path, target.token, deadline_ns);
  }
  const SocketAddress listener =
      target.lane == "tcp" ? SocketAddress::parse(target.host, target.port) : SocketAddress();
  return std::make_unique<UcxLane>(environment, profile_of(target), listener, target.address, target.token,
                                   deadline_ns);
}

std::string Client::attach(const LaneTarget& target, uint32_t timeout_ms) {
  if (closed()) throw std::invalid_argument("the client is closed");
  std::unique_ptr<Lane> lane = open_lane(target, clock_.now_ns() + uint64_t{timeout_ms} * 1'000'000);
  const std::string description = lane->description();
  std::unique_lock lock(mutex_);
  take_seat(lock);
  lock.unlock();
  drop_lane();
  if (!closed()) {
    lane_ = std::move(lane);
    attached_ = true;
    ++counters_.sessions;
  }
  lock.lock();
  leave_seat(lock);
  return description;
}

bool Client::wait_detached(uint32_t timeout_ms) {
  std::unique_lock lock(mutex_);
  detached_.wait_for(lock, milliseconds(timeout_ms), [this] { return !attached(); });
  return !attached();
}

void Client::close() {
  {
    const std::scoped_lock lock(mutex_);
    closed_ = true;
    wake_driver();
    house_.notify_one();
  }
  std::call_once(joined_, [this] { housekeeper_.join(); });
  std::unique_lock lock(mutex_);
  take_seat(lock);
  lock.unlock();
  drop_lane();
  start_queued();
  releases_->detach();
  lock.lock();
  std::vector<std::unique_ptr<Lane>> dead = std::exchange(dead_lanes_, {});
  leave_seat(lock);
}

void Client::take_seat(std::unique_lock<std::mutex>& lock) {
  ++waiting_;
  seat_.wait(lock, [this] { return !driving_; });
  --waiting_;
  driving_ = true;
}

void Client::leave_seat(std::unique_lock<std::mutex>&) {
  driving_ = false;
  if (waiting_ > 0) seat_.notify_all();
  if (asynchronous_open_ > 0) house_.notify_one();
}

// Only the driver calls this.
void Client::drop_lane() {
  attached_ = false;
  if (lane_ == nullptr) return;
  lane_->fail_all(Status::kUnavailable);
  const std::scoped_lock lock(mutex_);
  // Taking a lane down can take a while (UCX, unmapping the arena); the housekeeper has the time, a caller has not.
  dead_lanes_.push_back(std::move(lane_));
  house_work_ = true;
  house_.notify_one();
  detached_.notify_all();
}

// ---- batches

void Client::enqueue(const std::shared_ptr<Batch>& batch) {
  batch->statuses.assign(batch->keys.size(), Status::kMiss);
  if (batch->verb == Verb::kBorrow) {
    batch->views.resize(batch->keys.size());
    batch->borrowed.resize((batch->keys.size() + kKeysMax - 1) / kKeysMax);
  }
  batch->deadline_ns = clock_.now_ns() + uint64_t{batch->timeout_ms} * 1'000'000;
  ++counters_.batches;
  {
    const std::scoped_lock lock(mutex_);
    if (!closed()) {
      queue_.push_back(batch);
      has_queue_.store(true, std::memory_order_release);
      if (driving_) wake_driver();
      return;
    }
  }
  std::ranges::fill(batch->statuses, Status::kUnavailable);
  on_done(batch);
}

void Client::wake_driver() {
  if (driver_sleeps_.exchange(false)) eventfd_write(wake_fd_, 1);
}

void Client::execute(const std::shared_ptr<Batch>& batch) {
  enqueue(batch);
  std::unique_lock lock(mutex_);
  while (!batch->done.load(std::memory_order_acquire)) {
    if (driving_) {
      ++waiting_;
      seat_.wait_for(lock, kTakeOverMs);
      --waiting_;
      continue;
    }
    driving_ = true;
    lock.unlock();
    drive([&] { return batch->done.load(std::memory_order_acquire); });
    lock.lock();
    leave_seat(lock);
  }
}

uint64_t Client::submit(const std::shared_ptr<Batch>& batch) {
  {
    const std::scoped_lock lock(mutex_);
    batch->ticket = next_ticket_++;
  }
  ++asynchronous_open_;
  enqueue(batch);
  const std::scoped_lock lock(mutex_);
  if (!driving_) house_.notify_one();
  return batch->ticket;
}

void Client::on_done(const std::shared_ptr<Batch>& batch) {
  count(*batch);
  const std::scoped_lock lock(mutex_);
  batch->done.store(true, std::memory_order_release);
  if (batch->ticket != 0) {
    --asynchronous_open_;
    completed_.push_back(batch);
    eventfd_write(completion_fd_, 1);
  }
  if (waiting_ > 0) seat_.notify_all();
}

std::vector<std::shared_ptr<Batch>> Client::drain() {
  const std::scoped_lock lock(mutex_);
  eventfd_t value;
  eventfd_read(completion_fd_, &value);
  return std::exchange(completed_, {});
}

void Client::count(const Batch& batch) {
  const bool reads = batch.verb == Verb::kGet || batch.verb == Verb::kBorrow;
  for (const Status status : batch.statuses) {
    if (status == Status::kTimeout) ++counters_.timeouts;
    if (status == Status::kUnavailable) ++counters_.unavailable;
    if (status == Status::kCorrupt) ++counters_.corrupt;
    if (reads && status != Status::kOk) ++counters_.misses;
  }
}

// ---- driving

void Client::start_queued() {
  std::vector<std::shared_ptr<Batch>> queue;
  {
    const std::scoped_lock lock(mutex_);
    queue.swap(queue_);
    has_queue_.store(false, std::memory_order_relaxed);
  }
  for (const std::shared_ptr<Batch>& batch : queue) {
    if (lane_ != nullptr && !closed()) {
      lane_->start(batch);
    } else {
      std::ranges::fill(batch->statuses, Status::kUnavailable);
      on_done(batch);
    }
  }
}

bool Client::drive_once() {
  if (has_queue_.load(std::memory_order_acquire)) start_queued();
  return lane_ != nullptr && lane_->progress();
}

template <class Until>
void Client::drive(Until until) {
  const uint64_t spin_ns = uint64_t{options_.spin_us} * 1'000;
  uint64_t now_ns = clock_.now_ns();
  uint64_t active_ns = now_ns;
  uint64_t look_ns = now_ns;
  while (true) {
    const bool worked = drive_once();
    if (until()) return;
    if (closed()) drop_lane();
    if (lane_ == nullptr) continue;  // what is queued fails in the next round
    now_ns = clock_.now_ns();
    if (worked) active_ns = now_ns;
    const bool due = now_ns - look_ns >= kAliveLookNs || now_ns >= lane_->next_deadline_ns();
    if (due || lane_->lost()) {
      look_ns = now_ns;
      lane_->keep_time(now_ns);
      if (lane_->lost()) {
        ++counters_.sessions_lost;
        drop_lane();
        continue;
      }
    }
    const uint64_t idle_ns = now_ns - active_ns;
    if (idle_ns > spin_ns || !spin_pause(clock_, idle_ns)) {
      sleep_for_events(now_ns);
      active_ns = clock_.now_ns() - spin_ns / 2;  // an empty wake-up earns half a spin only
      look_ns = 0;
    }
  }
}

void Client::sleep_for_events(uint64_t now_ns) {
  driver_sleeps_.store(true);
  const bool may_sleep = lane_->prepare_sleep() && !has_queue_.load() && !closed();
  if (may_sleep) {
    const uint64_t until_ns = std::max(lane_->next_deadline_ns(), now_ns);
    const auto wait_ms = static_cast<int>(std::min<uint64_t>((until_ns - now_ns) / 1'000'000 + 1, kSleepMsMax));
    pollfd events[2] = {{lane_->event_fd(), POLLIN, 0}, {wake_fd_, POLLIN, 0}};
    poll(events, 2, wait_ms);
    if ((events[1].revents & POLLIN) != 0) {
      eventfd_t value;
      eventfd_read(wake_fd_, &value);
    }
  }
  lane_->end_sleep();
  driver_sleeps_.store(false);
}

void Client::keep_house() {
  std::unique_lock lock(mutex_);
  while (!closed()) {
    const auto wait = asynchronous_open_ > 0 ? kTakeOverMs : kHousekeepingMs;
    house_.wait_for(lock, wait, [this] { return closed() || (!driving_ && (asynchronous_open_ > 0 || house_work_)); });
    if (driving_ || closed()) continue;
    driving_ = true;
    house_work_ = false;
    std::vector<std::unique_ptr<Lane>> dead = std::exchange(dead_lanes_, {});
    lock.unlock();
    dead.clear();
    if (asynchronous_open_ > 0) {
      drive([this] { return asynchronous_open_ == 0 || closed(); });
    } else if (lane_ != nullptr) {
      drive_once();
      lane_->keep_time(clock_.now_ns());
      if (lane_->lost()) {
        ++counters_.sessions_lost;
        drop_lane();
      }
    }
    lock.lock();
    leave_seat(lock);
  }
}

std::vector<std::pair<std::string, uint64_t>> Client::stats() const {
  return {
      {"batches", counters_.batches},
      {"blocks_read", counters_.blocks_read},
      {"blocks_written", counters_.blocks_written},
      {"bytes_read", counters_.bytes_read},
      {"bytes_written", counters_.bytes_written},
      {"misses", counters_.misses},
      {"timeouts", counters_.timeouts},
      {"unavailable", counters_.unavailable},
      {"corrupt", counters_.corrupt},
      {"conflicts", counters_.conflicts},
      {"late_chunks", counters_.late_chunks},
      {"sessions", counters_.sessions},
      {"sessions_lost", counters_.sessions_lost},
  };
}

}  // namespace kvstore
