// The client: batches in, completions out, over at most one lane at a time.
//
// There is no dedicated progress thread. Whoever waits for a batch drives the lane (spins, then blocks); others that
// wait at the same time are served by that driver. A housekeeper thread drives when nobody waits: for asynchronous
// batches, and now and then to notice a lost node. Thread-safe.
#pragma once

#include <condition_variable>
#include <mutex>
#include <thread>

#include "client/lane.h"

namespace kvstore {

struct ClientOptions {
  uint32_t spin_us = 200;
  uint64_t max_block_bytes = kBlockBytesLimit;
};

struct LaneTarget {
  std::string lane;         // "mapped", "shm", "tcp", "rdma" or "rdma-over-tcp"
  std::string host;         // numeric address of the node: chooses the network interface
  uint16_t port = 0;        // TCP port behind `address`; 0 where there is none
  Bytes address;            // UCX address of the node's lane
  std::string socket_path;  // of the same-host channel
  std::array<std::byte, kTokenBytes> token{};
};

class Client {
 public:
  explicit Client(ClientOptions options);
  ~Client();
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  // Opens a session and makes it the client's. Returns what was chosen, such as "mapped" or "tcp/lo".
  // Throws OpenTimeout, std::invalid_argument, std::runtime_error or std::system_error.
  std::string attach(const LaneTarget& target, uint32_t timeout_ms);
  [[nodiscard]] bool attached() const { return attached_.load(); }
  // Blocks until there is no session or the timeout passes; true if there is none.
  [[nodiscard]] bool wait_detached(uint32_t timeout_ms);
  void close();  // idempotent
  [[nodiscard]] bool closed() const { return closed_.load(); }

  // Runs the batch; on return it is done. Never fails otherwise than in the batch's statuses.
  void execute(const std::shared_ptr<Batch>& batch);
  // Starts the batch; its ticket comes with it out of `drain` when it is done.
  uint64_t submit(const std::shared_ptr<Batch>& batch);
  [[nodiscard]] std::vector<std::shared_ptr<Batch>> drain();
  [[nodiscard]] int completion_fd() const { return completion_fd_; }

  [[nodiscard]] const ClientOptions& options() const { return options_; }
  [[nodiscard]] std::vector<std::pair<std::string, uint64_t>> stats() const;

 private:
  void enqueue(const std::shared_ptr<Batch>& batch);
  // Waits until nobody drives and takes the seat, whatever the driver is at; then gives it back.
  void take_seat(std::unique_lock<std::mutex>& lock);
  void leave_seat(std::unique_lock<std::mutex>& lock);
  void on_done(const std::shared_ptr<Batch>& batch);
  void wake_driver();
  template <class Until>
  void drive(Until until);
  bool drive_once();
  void start_queued();
  void drop_lane();
  void sleep_for_events(uint64_t now_ns);
  void keep_house();
  std::unique_ptr<Lane> open_lane(const LaneTarget& target, uint64_t deadline_ns);
  void count(const Batch& batch);

  const ClientOptions options_;
  const Clock& clock_ = SteadyClock::instance();
  ClientCounters counters_{};
  std::atomic<uint64_t> next_request_id_{1};
  std::shared_ptr<ReleaseQueue> releases_;

  // The lane and everything in it belong to the driver: whoever set `driving_`.
  std::unique_ptr<Lane> lane_;
  std::atomic<bool> attached_{false};
  std::atomic<bool> closed_{false};

  mutable std::mutex mutex_;
  std::condition_variable seat_;      // the driver left, or a batch is done: for the threads counted in `waiting_`
  std::condition_variable house_;     // there is work for the housekeeper
  std::condition_variable detached_;  // the session ended
  bool driving_ = false;
  uint32_t waiting_ = 0;
  std::vector<std::shared_ptr<Batch>> queue_;
  std::atomic<bool> has_queue_{false};
  std::atomic<bool> driver_sleeps_{false};
  int wake_fd_ = -1;

  uint64_t next_ticket_ = 1;
  std::atomic<uint64_t> asynchronous_open_{0};
  std::vector<std::shared_ptr<Batch>> completed_;
  int completion_fd_ = -1;

  bool house_work_ = false;
  std::vector<std::unique_ptr<Lane>> dead_lanes_;
  std::once_flag joined_;
  std::thread housekeeper_;
};

}  // namespace kvstore
