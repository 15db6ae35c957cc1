// What every session of a node works with.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

#include "base/clock.h"
#include "disk/extent_disk.h"
#include "memory/arena.h"
#include "node/capabilities.h"
#include "node/mailboxes.h"
#include "node/waiters.h"
#include "store/tiered_store.h"

namespace kvstore {

// A directory that holds blocks beyond DRAM, and survives the node.
struct NodeDisk {
  std::string directory;
  uint64_t bytes = 0;
  DiskId id{};
  uint64_t remembered_bytes = 0;  // see ExtentDiskOptions
};

struct NodeOptions {
  uint64_t memory_bytes = 4ull << 30;
  uint64_t max_block_bytes = kBlockBytesLimit;
  std::string host = "127.0.0.1";  // numeric address that the network lanes listen on
  uint16_t data_port = 0;          // 0: free ports; otherwise thread i listens on data_port + i
  uint32_t threads = 1;
  std::string runtime_dir;      // existing private directory for the Unix sockets
  uint32_t spin_us = 200;       // how long a data thread spins after the last work before it blocks
  bool huge_pages = true;       // where enough are reserved
  bool prefault = false;        // touch all memory before the first client
  bool network = true;          // false: same-host channel only (embedded mode)
  std::vector<NodeDisk> disks;  // none: DRAM only
  Admission admission = Admission::kEager;
  IoKind disk_io = IoKind::kAuto;
  uint32_t pin_share_percent = 50;
  std::string rdma_transports;  // UCX transports of a second lane with rendezvous, such as "rc,ud,self"; "": none
};

struct NodeCounters {
  std::atomic<uint64_t> sessions_opened, sessions_open, sessions_lost, sessions_refused, protocol_errors;
  std::atomic<uint64_t> requests, bytes_received, bytes_sent, checksum_errors, gets_waiting, puts_expired;
};

struct NodeContext {
  const NodeOptions& options;
  const Clock& clock;
  Arena& arena;
  TieredStore& store;
  Capabilities& capabilities;
  Waiters& waiters;          // gets that wait for a writer
  Waiters& durable_waiters;  // puts that wait for a disk
  const Mailboxes& mailboxes;
  NodeCounters& counters;
};

}  // namespace kvstore
