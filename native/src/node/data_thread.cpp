#include "node/data_thread.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>
#include <utility>

#include "base/spin.h"
#include "transport/socket_address.h"

namespace kvstore {
namespace {

constexpr uint64_t kTagWake = 0;
constexpr uint64_t kTagUcx = 1;
constexpr uint64_t kTagListener = 2;
constexpr uint64_t kFirstSession = 16;

constexpr int kSleepMsMax = 10;              // some event descriptors miss an event now and then
constexpr uint64_t kTickNs = 5'000'000;      // deadlines and expiry
constexpr uint64_t kSocketLookNs = 200'000;  // while spinning, how often the sockets are looked at
constexpr uint32_t kSweepSlots = 4096;       // slots looked at for expiry in a tick
constexpr int kPortAttempts = 16;
constexpr size_t kShmSessionsMax = 256;              // a thread; each has queues of some megabytes
constexpr uint64_t kShmGreetingNs = 10'000'000'000;  // how long a shared-memory lane waits for its session
constexpr size_t kNetworkSessionsMax = 4096;         // a thread
constexpr uint32_t kIdleUcxRounds = 32;              // with no network session, UCX is driven once in so many rounds

}  // namespace

DataThread::DataThread(NodeContext context, uint32_t index)
    : context_(context),
      index_(index),
      local_listener_(context.options.runtime_dir + "/data-" + std::to_string(index) + ".sock"),
      next_session_(kFirstSession) {
  if (context_.options.network) open_network();
  if (!context_.options.rdma_transports.empty()) open_rdma();
  epoll_fd_ = epoll_create1(EPOLL_CLOEXEC);
  wake_fd_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (epoll_fd_ < 0 || wake_fd_ < 0) {
    throw std::system_error(errno, std::generic_category(), "a data thread gets no event descriptors");
  }
  const bool watching = watch(wake_fd_, kTagWake) && watch(local_listener_.fd(), kTagListener) &&
                        (tcp_ == nullptr || watch(tcp_->event_fd(), kTagUcx)) &&
                        (rdma_ == nullptr || watch(rdma_->event_fd(), kTagUcx));
  if (!watching) throw std::system_error(errno, std::generic_category(), "a data thread cannot watch its sockets");
}

void DataThread::open_network() {
  const NodeOptions& options = context_.options;
  UcxProfile profile = UcxProfile::eager("tcp,self", options.host);
  const bool chosen = options.data_port != 0;
  for (int attempt = 1; tcp_ == nullptr; ++attempt) {
    // UCX takes a port but does not tell which; so it is chosen here, and again if somebody else was faster.
    port_ =
        chosen ? static_cast<uint16_t>(options.data_port + index_) : SocketAddress::parse(options.host, 0).free_port();
    profile.port = port_;
    try {
      tcp_ = std::make_unique<UcxWorker>(profile, *this);
    } catch (const std::runtime_error& error) {
      const std::string where = options.host + ":" + std::to_string(port_);
      if (chosen || attempt == kPortAttempts) {
        throw std::runtime_error("cannot open the data plane on " + where + " (is the port taken?): " + error.what());
      }
    }
  }
  tcp_->register_memory(context_.arena.data(), context_.arena.bytes());
}

void DataThread::open_rdma() {
  rdma_ = std::make_unique<UcxWorker>(UcxProfile::rdma(context_.options.rdma_transports, context_.options.host), *this);
  rdma_->register_memory(context_.arena.data(), context_.arena.bytes());
}

Bytes DataThread::open_shm() {
  if (!context_.options.network) throw std::runtime_error("the node has no network lanes");
  if (shm_count_.fetch_add(1) >= kShmSessionsMax) {
    --shm_count_;
    throw std::runtime_error("the node serves as many shared-memory sessions as it can");
  }
  ShmWorker made;
  try {
    made.worker = std::make_unique<UcxWorker>(UcxProfile::eager("posix,cma,self", context_.options.host), *this);
    made.worker->register_memory(context_.arena.data(), context_.arena.bytes());
  } catch (...) {
    --shm_count_;
    throw;
  }
  made.opened_ns = context_.clock.now_ns();
  const Bytes address = made.worker->address();
  {
    const std::scoped_lock lock(mail_mutex_);
    new_shm_.push_back(std::move(made));
    has_mail_.store(true);
  }
  eventfd_write(wake_fd_, 1);
  return address;
}

DataThread::~DataThread() {
  stop();
  local_.clear();
  for (auto& [id, session] : network_) {
    session->endpoint().close();
    session->on_closed();
    closing_.push_back(std::move(session));
  }
  network_.clear();
  shm_.clear();
  new_shm_.clear();
  rdma_.reset();
  tcp_.reset();  // waits a while for UCX to hand back what it holds, and with it finishes the sessions
  closing_.clear();
  if (wake_fd_ >= 0) close(wake_fd_);
  if (epoll_fd_ >= 0) close(epoll_fd_);
}

bool DataThread::watch(int fd, uint64_t tag) const {
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.u64 = tag;
  return epoll_ctl(epoll_fd_, EPOLL_CTL_ADD, fd, &event) == 0;
}

void DataThread::start() {
  thread_ = std::thread([this] { run(); });
}

void DataThread::stop() {
  stopping_ = true;
  if (!thread_.joinable()) return;
  eventfd_write(wake_fd_, 1);
  thread_.join();
}

void DataThread::post(const Waiter& waiter) {
  {
    const std::scoped_lock lock(mail_mutex_);
    mail_.push_back(waiter);
    has_mail_.store(true);
  }
  eventfd_write(wake_fd_, 1);
}

void DataThread::post(const FetchedBlock& fetched) {
  {
    const std::scoped_lock lock(mail_mutex_);
    fetched_.push_back(fetched);
    has_mail_.store(true);
  }
  eventfd_write(wake_fd_, 1);
}

void DataThread::post_room() {
  has_room_.store(true);
  {
    const std::scoped_lock lock(mail_mutex_);
    has_mail_.store(true);
  }
  eventfd_write(wake_fd_, 1);
}

void DataThread::run() {
  const uint64_t spin_ns = uint64_t{context_.options.spin_us} * 1'000;
  uint64_t now_ns = context_.clock.now_ns();
  uint64_t active_ns = now_ns;
  uint64_t tick_ns = now_ns;
  uint64_t look_ns = now_ns;
  while (!stopping_.load(std::memory_order_relaxed)) {
    const bool worked = work();
    now_ns = context_.clock.now_ns();
    if (worked) active_ns = now_ns;
    if (now_ns - tick_ns >= kTickNs) {
      tick();
      tick_ns = now_ns;
    }
    const uint64_t idle_ns = now_ns - active_ns;
    if (idle_ns > spin_ns || !spin_pause(context_.clock, idle_ns)) {
      wait_for_events(kSleepMsMax);
      active_ns = look_ns = context_.clock.now_ns();
      active_ns -= std::min(active_ns, spin_ns / 2);  // an empty wake-up earns half a spin only
    } else if (now_ns - look_ns >= kSocketLookNs) {
      wait_for_events(0);
      look_ns = now_ns;
    }
  }
}

bool DataThread::work() {
  bool worked = has_mail_.load(std::memory_order_relaxed) && take_mail();
  for (const auto& [id, session] : local_) worked |= session->poll();
  if (network_.empty() && closing_.empty() && shm_.empty() && ++idle_rounds_ % kIdleUcxRounds != 0) return worked;
  worked |= progress_network();
  for (const auto& [id, session] : network_) worked |= session->poll();
  if (!doomed_.empty() || !closing_.empty() || !shm_.empty()) reap_network();
  return worked;
}

bool DataThread::take_mail() {
  std::vector<Waiter> mail;
  std::vector<FetchedBlock> fetched;
  std::vector<ShmWorker> new_shm;
  {
    const std::scoped_lock lock(mail_mutex_);
    mail.swap(mail_);
    fetched.swap(fetched_);
    new_shm.swap(new_shm_);
    has_mail_.store(false);
  }
  if (has_room_.exchange(false)) {
    for (const auto& [id, session] : local_) session->on_room();
    for (const auto& [id, session] : network_) session->on_room();
  }
  for (const Waiter& waiter : mail) {
    if (Session* session = find_session(waiter.session); session != nullptr) session->wake(waiter.request);
  }
  for (const FetchedBlock& block : fetched) {
    Session* session = find_session(block.session);
    const bool taken = session != nullptr && session->on_fetched(block);
    if (!taken && block.status == Status::kOk) context_.store.release(block.lease);
  }
  for (ShmWorker& shm : new_shm) {
    if (watch(shm.worker->event_fd(), kTagUcx)) {
      shm_.push_back(std::move(shm));
    } else {
      --shm_count_;
      ++context_.counters.sessions_refused;
    }
  }
  return !mail.empty() || !fetched.empty() || !new_shm.empty();
}

Session* DataThread::find_session(uint64_t id) const {
  if (const auto found = local_.find(id); found != local_.end()) return found->second.get();
  const auto found = network_.find(id);
  return found == network_.end() ? nullptr : found->second.get();
}

void DataThread::tick() {
  const uint64_t now_ns = context_.clock.now_ns();
  std::vector<uint64_t> broken;
  for (const auto& [id, session] : local_) {
    if (!session->on_tick(now_ns)) broken.push_back(id);
  }
  for (const uint64_t id : broken) drop_local(id);
  for (const auto& [id, session] : network_) {
    if (!session->on_tick(now_ns)) doomed_.push_back(id);
  }
  if (!shm_.empty()) sweep_shm();
  if (index_ == 0) context_.store.sweep_expired(kSweepSlots);
}

void DataThread::wait_for_events(int timeout_ms) {
  bool may_sleep = !has_mail_.load();
  if (timeout_ms > 0) {
    for (const auto& [id, session] : local_) may_sleep &= session->prepare_sleep();
    may_sleep = may_sleep && (tcp_ == nullptr || tcp_->arm()) && (rdma_ == nullptr || rdma_->arm());
    for (const ShmWorker& shm : shm_) may_sleep = may_sleep && shm.worker->arm();
  }
  constexpr int kEventsMax = 64;
  epoll_event events[kEventsMax];
  const int count = epoll_wait(epoll_fd_, events, kEventsMax, may_sleep ? timeout_ms : 0);
  if (timeout_ms > 0) {
    for (const auto& [id, session] : local_) session->end_sleep();
  }
  for (int i = 0; i < count; ++i) handle_event(events[i].data.u64);
}

void DataThread::handle_event(uint64_t tag) {
  if (tag == kTagWake) {
    eventfd_t value;
    eventfd_read(wake_fd_, &value);
  } else if (tag == kTagListener) {
    accept_local();
  } else if (tag >= kFirstSession) {
    const auto found = local_.find(tag);
    if (found != local_.end() && !found->second->on_socket()) drop_local(tag);
  }
}

void DataThread::accept_local() {
  while (std::optional<LocalSocket> socket = local_listener_.accept()) {
    const uint64_t id = next_session_++;
    if (!watch(socket->fd(), id)) {
      ++context_.counters.sessions_refused;
      continue;
    }
    local_.emplace(id, std::make_unique<LocalSession>(context_, id, index_, std::move(*socket)));
  }
}

void DataThread::drop_local(uint64_t session_id) {
  const auto found = local_.find(session_id);
  if (found == local_.end()) return;
  found->second->poll();  // its last words may still be in the ring
  if (!found->second->said_bye()) ++context_.counters.sessions_lost;
  local_.erase(found);
}

// ---- network sessions

bool DataThread::progress_network() {
  bool worked = false;
  for (UcxWorker* worker : {tcp_.get(), rdma_.get()}) {
    if (worker == nullptr) continue;
    worked |= worker->progress();
    (void)admit(*worker);
  }
  for (ShmWorker& shm : shm_) {
    worked |= shm.worker->progress();
    if (shm.session == 0) shm.session = admit(*shm.worker);
  }
  return worked;
}

// A greeting with a good token makes a session; from anybody else nothing is taken, not even an address.
uint64_t DataThread::admit(UcxWorker& worker) {
  uint64_t session = 0;
  for (const Bytes& frame : worker.take_strangers()) {
    const std::optional<Request> hello = decode_request(frame);
    if (!hello || hello->header.kind != FrameKind::kHello) {
      ++context_.counters.protocol_errors;
    } else if (!context_.capabilities.verbs_of(hello->token) || network_.size() >= kNetworkSessionsMax) {
      ++context_.counters.sessions_refused;
    } else {
      session = open_session(worker, *hello, frame);
    }
  }
  return session;
}

uint64_t DataThread::open_session(UcxWorker& worker, const Request& hello, ByteView frame) {
  try {
    UcxEndpoint& endpoint = worker.connect(hello.address);
    const uint64_t id = next_session_++;
    auto session = std::make_unique<UcxSession>(context_, id, index_, endpoint);
    endpoint.owner = session.get();
    network_.emplace(id, std::move(session));
    on_frame(endpoint, frame);
    return id;
  } catch (const std::exception&) {
    ++context_.counters.sessions_refused;  // no lane fits both sides, or the peer is gone
    return 0;
  }
}

// Ends the shared-memory workers whose session is over, or where nobody came.
void DataThread::sweep_shm() {
  const uint64_t now_ns = context_.clock.now_ns();
  const size_t before = shm_.size();
  std::erase_if(shm_, [&](const ShmWorker& shm) {
    if (shm.session == 0) return now_ns - shm.opened_ns > kShmGreetingNs;
    const bool open = network_.contains(shm.session) ||
                      std::ranges::any_of(closing_, [&](const auto& session) { return session->id() == shm.session; });
    return !open && shm.worker->quiet();
  });
  shm_count_ -= before - shm_.size();
}

void DataThread::doom(UcxEndpoint& endpoint) { doomed_.push_back(static_cast<UcxSession*>(endpoint.owner)->id()); }

void DataThread::on_lost(UcxEndpoint& endpoint) { doom(endpoint); }

void DataThread::on_frame(UcxEndpoint& endpoint, ByteView frame) {
  auto* session = static_cast<UcxSession*>(endpoint.owner);
  session->heard();
  if (!session->on_frame(frame)) doom(endpoint);
}

void DataThread::on_chunk(UcxEndpoint& endpoint, ByteView header, ByteView payload) {
  auto* session = static_cast<UcxSession*>(endpoint.owner);
  session->heard();
  if (!session->on_chunk(header, payload)) doom(endpoint);
}

std::byte* DataThread::place_chunk(UcxEndpoint& endpoint, ByteView header, size_t payload_bytes) {
  return static_cast<UcxSession*>(endpoint.owner)->place_chunk(header, payload_bytes);
}

void DataThread::on_placed(UcxEndpoint& endpoint, ByteView header, bool received) {
  auto* session = static_cast<UcxSession*>(endpoint.owner);
  session->heard();
  session->on_placed(header, received);
}

void DataThread::reap_network() {
  for (const uint64_t id : std::exchange(doomed_, {})) {
    const auto found = network_.find(id);
    if (found == network_.end()) continue;
    found->second->endpoint().close();
    found->second->on_closed();
    if (!found->second->said_bye()) ++context_.counters.sessions_lost;
    closing_.push_back(std::move(found->second));
    network_.erase(found);
  }
  for (UcxWorker* worker : {tcp_.get(), rdma_.get()}) {
    if (worker != nullptr) worker->reap();
  }
  for (const ShmWorker& shm : shm_) shm.worker->reap();
  std::erase_if(closing_, [](const std::unique_ptr<UcxSession>& session) { return session->finished(); });
}

}  // namespace kvstore
