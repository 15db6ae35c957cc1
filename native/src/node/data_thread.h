// One thread of the data plane with its own UCX worker, its own Unix socket and its own sessions. It spins while there
// is work, then arms every source of events and blocks, at most a few milliseconds.
#pragma once

#include <array>
#include <atomic>
#include <memory>
#include <mutex>
#include <thread>
#include <unordered_map>
#include <vector>

#include "node/local_session.h"
#include "node/ucx_session.h"

namespace kvstore {

class DataThread final : public UcxEvents {
 public:
  // Opens the listeners; throws std::runtime_error or std::system_error when an address cannot be had.
  DataThread(NodeContext context, uint32_t index);
  ~DataThread() override;

  void start();
  void stop();  // idempotent

  // The TCP port of the network lane, and the UCX addresses of both network lanes; 0 and empty where there is none.
  [[nodiscard]] uint16_t port() const { return port_; }
  [[nodiscard]] Bytes address() const { return tcp_ == nullptr ? Bytes() : tcp_->address(); }
  [[nodiscard]] Bytes rdma_address() const { return rdma_ == nullptr ? Bytes() : rdma_->address(); }
  [[nodiscard]] const std::string& socket_path() const { return local_listener_.path(); }

  // From any thread: the request that `waiter` names should look again.
  void post(const Waiter& waiter);
  // From any thread: a block that a session asked for has come from disk.
  void post(const FetchedBlock& fetched);
  // From any thread: there may be room for puts that wait for it.
  void post_room();
  // From any thread: opens a shared-memory lane for one session and returns its UCX address. It goes away again if
  // nobody greets there. Throws std::runtime_error.
  [[nodiscard]] Bytes open_shm();

 private:
  void run();
  bool work();
  void open_network();
  void open_rdma();
  // Lets in who greets with a good token; returns the id of the last session made, or 0.
  uint64_t admit(UcxWorker& worker);
  uint64_t open_session(UcxWorker& worker, const Request& hello, ByteView frame);
  bool progress_network();
  void sweep_shm();
  bool take_mail();
  [[nodiscard]] Session* find_session(uint64_t id) const;
  void tick();
  void wait_for_events(int timeout_ms);
  void handle_event(uint64_t tag);
  void accept_local();
  void drop_local(uint64_t session_id);
  void reap_network();
  [[nodiscard]] bool watch(int fd, uint64_t tag) const;

  void on_lost(UcxEndpoint& endpoint) override;
  void on_frame(UcxEndpoint& endpoint, ByteView frame) override;
  void on_chunk(UcxEndpoint& endpoint, ByteView header, ByteView payload) override;
  std::byte* place_chunk(UcxEndpoint& endpoint, ByteView header, size_t payload_bytes) override;
  void on_placed(UcxEndpoint& endpoint, ByteView header, bool received) override;
  void doom(UcxEndpoint& endpoint);

  NodeContext context_;
  const uint32_t index_;
  uint16_t port_ = 0;
  int epoll_fd_ = -1;
  int wake_fd_ = -1;
  LocalListener local_listener_;
  // Shared memory needs a worker a session: senders fill one queue in turn, and one that is killed in the middle of a
  // message leaves it stuck for all behind it.
  struct ShmWorker {
    std::unique_ptr<UcxWorker> worker;
    uint64_t opened_ns = 0;
    uint64_t session = 0;  // 0: nobody came yet
  };
  std::unique_ptr<UcxWorker> tcp_;
  std::unique_ptr<UcxWorker> rdma_;
  std::vector<ShmWorker> shm_;
  std::atomic<size_t> shm_count_{0};
  uint64_t next_session_;
  std::unordered_map<uint64_t, std::unique_ptr<LocalSession>> local_;
  std::unordered_map<uint64_t, std::unique_ptr<UcxSession>> network_;
  std::vector<std::unique_ptr<UcxSession>> closing_;  // closed, but UCX still holds some of their memory
  std::vector<uint64_t> doomed_;                      // network sessions to drop once outside UCX's callbacks
  uint32_t idle_rounds_ = 0;

  std::mutex mail_mutex_;
  std::vector<Waiter> mail_;
  std::vector<FetchedBlock> fetched_;
  std::vector<ShmWorker> new_shm_;
  std::atomic<bool> has_mail_{false};
  std::atomic<bool> has_room_{false};
  std::atomic<bool> stopping_{false};
  std::thread thread_;
};

}  // namespace kvstore
