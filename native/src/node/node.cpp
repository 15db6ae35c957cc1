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

}  // namespace

Node::Node(NodeOptions options)
    : options_(checked(std::move(options))),
      arena_(options_.memory_bytes, options_.huge_pages),
      store_(arena_, {.max_block_bytes = options_.max_block_bytes}, clock_, make_lru_policy()) {
  if (options_.prefault) arena_.prefault();
  store_.on_publish([this](const Key& key) {
    for (const Waiter& waiter : waiters_.of(key)) threads_[waiter.thread]->post(waiter);
  });
  const NodeContext context{options_, clock_, arena_, store_, capabilities_, waiters_, counters_};
  for (uint32_t i = 0; i < options_.threads; ++i) threads_.push_back(std::make_unique<DataThread>(context, i));
  for (const auto& thread : threads_) thread->start();
}

Node::~Node() { stop(); }

void Node::stop() {
  for (const auto& thread : threads_) thread->stop();
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
  const StoreStats store = store_.stats();
  return {
      {"capacity_bytes", store.capacity_bytes},
      {"used_bytes", store.used_bytes},
      {"reserved_bytes", store.reserved_bytes},
      {"leased_bytes", store.leased_bytes},
      {"index_bytes", store.index_bytes},
      {"huge_pages", arena_.huge_pages() ? 1 : 0},
      {"blocks", store.blocks},
      {"leases", store.leases},
      {"hits", store.hits},
      {"misses", store.misses},
      {"puts", store.puts},
      {"put_exists", store.put_exists},
      {"put_conflicts", store.put_conflicts},
      {"put_busy", store.put_busy},
      {"put_too_large", store.put_too_large},
      {"put_aborted", store.put_aborted},
      {"evicted_blocks", store.evicted_blocks},
      {"evicted_bytes", store.evicted_bytes},
      {"expired_blocks", store.expired_blocks},
      {"deleted_blocks", store.deleted_blocks},
      {"quarantined_blocks", store.quarantined_blocks},
      {"sessions_open", counters_.sessions_open},
      {"sessions_opened", counters_.sessions_opened},
      {"sessions_lost", counters_.sessions_lost},
      {"sessions_refused", counters_.sessions_refused},
      {"protocol_errors", counters_.protocol_errors},
      {"checksum_errors", counters_.checksum_errors},
      {"requests", counters_.requests},
      {"bytes_received", counters_.bytes_received},
      {"bytes_sent", counters_.bytes_sent},
      {"gets_waiting", counters_.gets_waiting},
      {"puts_expired", counters_.puts_expired},
  };
}

}  // namespace kvstore
