#include "node/node.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <fstream>
#include <system_error>

#include "store/eviction.h"

namespace kvstore {

namespace {

// What this process may have at most: of the machine, or of its control group.
uint64_t available_memory_bytes() {
  uint64_t bytes = static_cast<uint64_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<uint64_t>(sysconf(_SC_PAGE_SIZE));
  std::ifstream limit("/sys/fs/cgroup/memory.max");
  uint64_t limit_bytes = 0;
  if (limit >> limit_bytes) bytes = std::min(bytes, limit_bytes);
  return bytes;
}

// Memory is taken as blocks arrive, so too much of it would end in the kernel's hands hours later.
NodeOptions checked(NodeOptions options) {
  const uint64_t available = available_memory_bytes();
  if (options.memory_bytes > available) {
    throw std::system_error(ENOMEM, std::generic_category(),
                            "memory of " + std::to_string(options.memory_bytes >> 20) +
                                " MiB for blocks is more than there is here, " + std::to_string(available >> 20) +
                                " MiB; choose less");
  }
  return options;
}

std::vector<std::unique_ptr<Disk>> open_disks(const NodeOptions& options, std::vector<ExtentDisk*>* extents) {
  std::vector<std::unique_ptr<Disk>> disks;
  for (const NodeDisk& disk : options.disks) {
    ExtentDiskOptions wanted;
    wanted.directory = disk.directory;
    wanted.capacity_bytes = disk.bytes;
    wanted.disk_id = disk.id;
    wanted.remembered_bytes = disk.remembered_bytes;
    wanted.io = options.disk_io;
    auto opened = std::make_unique<ExtentDisk>(std::move(wanted));
    extents->push_back(opened.get());
    disks.push_back(std::move(opened));
  }
  return disks;
}

// What this process has had written to devices, whatever the file system made of it; 0 where the kernel does not say.
uint64_t device_bytes_written() {
  std::ifstream io("/proc/self/io");
  std::string name;
  uint64_t value = 0;
  while (io >> name >> value) {
    if (name == "write_bytes:") return value;
  }
  return 0;
}

}  // namespace

Node::Node(NodeOptions options)
    : options_(checked(std::move(options))),
      arena_(options_.memory_bytes, options_.huge_pages),
      disks_(open_disks(options_, &extents_)),
      store_(arena_.data(), arena_.bytes(), disks_, clock_,
             {.max_block_bytes = options_.max_block_bytes,
              .admission = options_.admission,
              .pin_share_percent = options_.pin_share_percent}) {
  if (options_.prefault) arena_.prefault();
  const auto wake = [this](const Waiters& waiters, const Key& key) {
    for (const Waiter& waiter : waiters.of(key)) threads_[waiter.thread]->post(waiter);
  };
  store_.on_publish([this, wake](const Key& key) { wake(waiters_, key); });
  store_.on_durable([this, wake](const Key& key) { wake(durable_waiters_, key); });
  store_.on_room([this] {
    for (const auto& thread : threads_) thread->post_room();
  });
  mailboxes_.deliver_with([this](uint32_t thread, const FetchedBlock& block) { threads_[thread]->post(block); });
  const NodeContext context{options_, clock_,           arena_,     store_,   capabilities_,
                            waiters_, durable_waiters_, mailboxes_, counters_};
  for (uint32_t i = 0; i < options_.threads; ++i) threads_.push_back(std::make_unique<DataThread>(context, i));
}

void Node::start() {
  store_.start();
  for (const auto& thread : threads_) thread->start();
}

Node::~Node() { stop(); }

void Node::stop_serving() {
  for (const auto& thread : threads_) thread->stop();
}

void Node::stop() {
  stop_serving();
  store_.stop();
}

std::vector<Node::Endpoint> Node::endpoints() const {
  std::vector<Endpoint> endpoints;
  for (const auto& thread : threads_)
    endpoints.push_back({thread->port(), thread->address(), thread->rdma_address(), thread->socket_path()});
  return endpoints;
}

bool Node::grant(const Token& token, uint32_t verbs, uint64_t ttl_ms) {
  return capabilities_.grant(token, verbs, ttl_ms);
}

std::vector<std::pair<std::string, uint64_t>> Node::stats() const {
  std::vector<std::pair<std::string, uint64_t>> stats = store_.stats();
  if (store_.has_disks()) stats.emplace_back("device_bytes_written", device_bytes_written());
  const std::initializer_list<std::pair<std::string, uint64_t>> own = {
      {"huge_pages", arena_.huge_pages() ? 1 : 0},      {"sessions_open", counters_.sessions_open},
      {"sessions_opened", counters_.sessions_opened},   {"sessions_lost", counters_.sessions_lost},
      {"sessions_refused", counters_.sessions_refused}, {"protocol_errors", counters_.protocol_errors},
      {"checksum_errors", counters_.checksum_errors},   {"requests", counters_.requests},
      {"bytes_received", counters_.bytes_received},     {"bytes_sent", counters_.bytes_sent},
      {"gets_waiting", counters_.gets_waiting},         {"puts_expired", counters_.puts_expired},
  };
  stats.insert(stats.end(), own.begin(), own.end());
  return stats;
}

}  // namespace kvstore
