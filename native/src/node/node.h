// The data plane of one storage node.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "node/data_thread.h"

namespace kvstore {

class Node {
 public:
  // Takes the memory, opens disks and listeners, and serves nobody yet: what the disks hold may be handed over through
  // `store().disks()`. Throws std::runtime_error, std::invalid_argument or std::system_error.
  explicit Node(NodeOptions options);
  ~Node();
  Node(const Node&) = delete;
  Node& operator=(const Node&) = delete;

  // Starts write-back and the data threads.
  void start();

  struct Endpoint {
    uint16_t port;       // TCP port of the network lane; 0 without network
    Bytes address;       // UCX address of the network lane
    Bytes rdma_address;  // ... of the RDMA lane; empty where there is none
    std::string socket_path;
  };
  [[nodiscard]] std::vector<Endpoint> endpoints() const;
  // A shared-memory lane for one session on the given thread: its UCX address. Throws std::runtime_error.
  [[nodiscard]] Bytes open_shm(size_t thread) { return threads_.at(thread)->open_shm(); }
  // False when too many tokens are alive.
  [[nodiscard]] bool grant(const Token& token, uint32_t verbs, uint64_t ttl_ms);
  [[nodiscard]] std::vector<std::pair<std::string, uint64_t>> stats() const;
  [[nodiscard]] TieredStore& store() { return store_; }
  // One for each of NodeOptions::disks.
  [[nodiscard]] ExtentDisk& extents(size_t disk) { return *extents_.at(disk); }
  // Ends every session: nothing is acknowledged any more. Write-back goes on. Idempotent.
  void stop_serving();
  void stop();  // that, and write-back; idempotent

 private:
  const NodeOptions options_;
  const Clock& clock_ = SteadyClock::instance();
  Arena arena_;
  std::vector<ExtentDisk*> extents_;
  std::vector<std::unique_ptr<Disk>> disks_;
  TieredStore store_;
  Capabilities capabilities_{clock_};
  Waiters waiters_;
  Waiters durable_waiters_;
  Mailboxes mailboxes_;
  NodeCounters counters_{};
  std::vector<std::unique_ptr<DataThread>> threads_;
};

}  // namespace kvstore
