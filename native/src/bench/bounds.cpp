#include "bench/bounds.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <sched.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <optional>
#include <span>
#include <stdexcept>
#include <system_error>

#include "base/checksum.h"
#include "base/clock.h"

namespace kvstore::bench {
namespace {

constexpr uint32_t kBudgetMsMax = 60'000;

enum class Direction : uint32_t { kGet = 1, kPut = 2 };

// Opens a batch on the connection. Each block that follows has its length in front.
struct Request {
  Direction direction{};
  uint32_t depth = 0;
  uint64_t block_bytes = 0;
};

[[noreturn]] void throw_errno(const char* what) { throw std::system_error(errno, std::generic_category(), what); }

// Moves past the first `bytes` of the parts.
void advance(std::span<iovec>* parts, size_t bytes) {
  while (!parts->empty() && bytes >= parts->front().iov_len) {
    bytes -= parts->front().iov_len;
    *parts = parts->subspan(1);
  }
  if (parts->empty()) return;
  parts->front().iov_base = static_cast<std::byte*>(parts->front().iov_base) + bytes;
  parts->front().iov_len -= bytes;
}

bool write_all(int fd, std::span<iovec> parts) {
  while (!parts.empty()) {
    const ssize_t sent = writev(fd, parts.data(), static_cast<int>(parts.size()));
    if (sent <= 0) return false;
    advance(&parts, static_cast<size_t>(sent));
  }
  return true;
}

bool read_all(int fd, std::span<iovec> parts) {
  while (!parts.empty()) {
    const ssize_t received = readv(fd, parts.data(), static_cast<int>(parts.size()));
    if (received <= 0) return false;
    advance(&parts, static_cast<size_t>(received));
  }
  return true;
}

template <class Value>
bool write_value(int fd, const Value& value) {
  iovec part{const_cast<Value*>(&value), sizeof(value)};  // writev only reads it
  return write_all(fd, {&part, 1});
}

template <class Value>
bool read_value(int fd, Value* value) {
  iovec part{value, sizeof(*value)};
  return read_all(fd, {&part, 1});
}

uint64_t place_of(uint64_t block, const Regions& regions, uint64_t block_bytes) {
  return block % (regions.bytes / block_bytes) * block_bytes;
}

bool write_blocks(int fd, const Regions& regions, const Request& request, uint64_t first_block) {
  for (uint64_t block = first_block; block < first_block + request.depth; ++block) {
    uint64_t header = request.block_bytes;
    std::byte* data = const_cast<std::byte*>(regions.source) + place_of(block, regions, request.block_bytes);
    iovec parts[] = {{&header, sizeof(header)}, {data, request.block_bytes}};
    if (!write_all(fd, parts)) return false;
  }
  return true;
}

bool read_blocks(int fd, const Regions& regions, const Request& request, uint64_t first_block) {
  for (uint64_t block = first_block; block < first_block + request.depth; ++block) {
    uint64_t header = 0;
    std::byte* data = regions.target + place_of(block, regions, request.block_bytes);
    iovec parts[] = {{&header, sizeof(header)}, {data, request.block_bytes}};
    if (!read_all(fd, parts) || header != request.block_bytes) return false;
  }
  return true;
}

void check(const Load& load, const Regions& regions) {
  if (load.block_bytes == 0 || load.block_bytes > regions.bytes) {
    throw std::invalid_argument("block_bytes must be at least 1 and at most the bytes of a region");
  }
  if (load.depth == 0 || load.budget_ms > kBudgetMsMax) {
    throw std::invalid_argument("depth must be at least 1, and budget_ms at most 60000");
  }
}

// Runs batches until the budget is used; `run_batch` gets the number of the batch's first block.
template <class RunBatch>
BatchSeconds repeat(const Load& load, uint64_t* next_block, RunBatch run_batch) {
  const Clock& clock = SteadyClock::instance();
  BatchSeconds seconds;
  run_batch(*next_block);
  *next_block += load.depth;
  uint64_t now_ns = clock.now_ns();
  const uint64_t end_ns = now_ns + uint64_t{load.budget_ms} * 1'000'000;
  while (now_ns < end_ns || seconds.size() < kBatchesMin) {
    const uint64_t start_ns = now_ns;
    run_batch(*next_block);
    *next_block += load.depth;
    now_ns = clock.now_ns();
    seconds.push_back(static_cast<double>(now_ns - start_ns) * 1e-9);
  }
  return seconds;
}

void set_options(int fd) {
  const int one = 1;
  const timeval stall{SocketBound::kStallSeconds, 0};
  if (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)) != 0 ||
      setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &stall, sizeof(stall)) != 0) {
    throw_errno("the socket to measure with refuses an option");
  }
}

cpu_set_t allowed_cpus(pthread_t thread) {
  cpu_set_t cpus;
  CPU_ZERO(&cpus);
  errno = pthread_getaffinity_np(thread, sizeof(cpus), &cpus);
  if (errno != 0) throw_errno("the cores of a thread cannot be told");
  return cpus;
}

void allow_cpus(pthread_t thread, const cpu_set_t& cpus) {
  errno = pthread_setaffinity_np(thread, sizeof(cpus), &cpus);
  if (errno != 0) throw_errno("a thread cannot be bound to a core");
}

cpu_set_t only(int cpu) {
  cpu_set_t cpus;
  CPU_ZERO(&cpus);
  CPU_SET(cpu, &cpus);
  return cpus;
}

// Binds two threads to a core each, and gives them back what they were allowed.
class Apart {
 public:
  Apart(pthread_t first, pthread_t second) : threads_{first, second} {
    for (size_t i = 0; i < 2; ++i) before_[i] = allowed_cpus(threads_[i]);
    std::vector<int> cpus;
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
      if (CPU_ISSET(cpu, &before_[0])) cpus.push_back(cpu);
    }
    if (cpus.size() < 2) {
      throw std::system_error(EINVAL, std::generic_category(), "two threads cannot have a core each: there is one");
    }
    allow_cpus(first, only(cpus[0]));
    // Whichever way a machine numbers its hardware threads, the third is not the sibling of the first.
    allow_cpus(second, only(cpus.size() >= 4 ? cpus[2] : cpus[1]));
  }
  ~Apart() {
    for (size_t i = 0; i < 2; ++i) pthread_setaffinity_np(threads_[i], sizeof(before_[i]), &before_[i]);
  }
  Apart(const Apart&) = delete;
  Apart& operator=(const Apart&) = delete;

 private:
  const pthread_t threads_[2];
  cpu_set_t before_[2];
};

}  // namespace

BatchSeconds CopyBound::measure(CopyKind kind, const Load& load) {
  check(load, regions_);
  return repeat(load, &next_block_, [&](uint64_t first_block) {
    for (uint64_t block = first_block; block < first_block + load.depth; ++block) {
      const uint64_t place = place_of(block, regions_, load.block_bytes);
      if (kind == CopyKind::kMemcpy) {
        std::memcpy(regions_.target + place, regions_.source + place, load.block_bytes);
      } else {
        copy_streaming(regions_.target + place, regions_.source + place, load.block_bytes);
      }
    }
  });
}

SocketBound::SocketBound(Regions regions) : regions_(regions) {
  try {
    connect_pair();
    thread_ = std::thread([this] { serve(); });
  } catch (...) {
    close(client_);
    close(server_);
    throw;
  }
}

SocketBound::~SocketBound() {
  // Both, because the server may be writing to a client that no longer reads.
  shutdown(client_, SHUT_RDWR);
  shutdown(server_, SHUT_RDWR);
  thread_.join();
  close(client_);
  close(server_);
}

void SocketBound::connect_pair() {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  auto* const any_address = reinterpret_cast<sockaddr*>(&address);
  socklen_t length = sizeof(address);
  const int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  client_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const bool connected = listener >= 0 && client_ >= 0 && bind(listener, any_address, length) == 0 &&
                         listen(listener, 1) == 0 && getsockname(listener, any_address, &length) == 0 &&
                         connect(client_, any_address, length) == 0;
  if (connected) server_ = accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
  const int cause = errno;
  close(listener);
  errno = cause;
  if (server_ < 0) throw_errno("no TCP connection on loopback to measure with");
  set_options(client_);
  set_options(server_);
  // Not on the server, which may wait for its next request as long as it likes.
  const timeval stall{kStallSeconds, 0};
  if (setsockopt(client_, SOL_SOCKET, SO_RCVTIMEO, &stall, sizeof(stall)) != 0) {
    throw_errno("the socket to measure with refuses an option");
  }
}

void SocketBound::serve() {
  uint64_t next_block = 0;
  Request request;
  while (read_value(server_, &request)) {
    const bool done = request.direction == Direction::kGet
                          ? write_blocks(server_, regions_, request, next_block)
                          : read_blocks(server_, regions_, request, next_block) && write_value(server_, request);
    if (!done) return;
    next_block += request.depth;
  }
}

BatchSeconds SocketBound::measure_get(Placement placement, const Load& load) {
  const Request request{Direction::kGet, load.depth, load.block_bytes};
  return measure(placement, load, [&](uint64_t first_block) {
    return write_value(client_, request) && read_blocks(client_, regions_, request, first_block);
  });
}

BatchSeconds SocketBound::measure_put(Placement placement, const Load& load) {
  const Request request{Direction::kPut, load.depth, load.block_bytes};
  return measure(placement, load, [&](uint64_t first_block) {
    Request acknowledgement;
    return write_value(client_, request) && write_blocks(client_, regions_, request, first_block) &&
           read_value(client_, &acknowledgement);
  });
}

BatchSeconds SocketBound::measure(Placement placement, const Load& load,
                                  const std::function<bool(uint64_t)>& run_batch) {
  check(load, regions_);
  std::optional<Apart> apart;
  if (placement == Placement::kApart) apart.emplace(thread_.native_handle(), pthread_self());
  return repeat(load, &next_block_, [&](uint64_t first_block) {
    if (!run_batch(first_block)) throw_errno("the socket to measure with has failed");
  });
}

}  // namespace kvstore::bench
