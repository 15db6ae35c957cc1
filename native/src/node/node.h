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
  // Takes the memory, opens the listeners and starts the threads. Throws std::runtime_error or std::system_error.
  explicit Node(NodeOptions options);
  ~Node();
  Node(const Node&) = delete;
  Node& operator=(const Node&) = delete;

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
  uint64_t evict(uint64_t bytes) { return store_.evict(bytes); }
  void stop();  // idempotent

 private:
  const NodeOptions options_;
  const Clock& clock_ = SteadyClock::instance();
  Arena arena_;
  BlockStore store_;
  Capabilities capabilities_{clock_};
  Waiters waiters_;
  NodeCounters counters_{};
  std::vector<std::unique_ptr<DataThread>> threads_;
};

}  // namespace kvstore
