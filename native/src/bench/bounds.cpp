#include "bench/bounds.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <stdexcept>
#include <system_error>
#include <thread>

#include "base/checksum.h"
#include "base/clock.h"

namespace kvstore::bench {
namespace {

constexpr uint64_t kRegionBytes = 256ull << 20;

// Touched memory, so that no page fault is timed.
class Region {
 public:
  Region() {
    data_ = mmap(nullptr, kRegionBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (data_ == MAP_FAILED) throw std::system_error(errno, std::generic_category(), "no memory to measure with");
    madvise(data_, kRegionBytes, MADV_HUGEPAGE);
    std::memset(data_, 1, kRegionBytes);
  }
  ~Region() { munmap(data_, kRegionBytes); }
  Region(const Region&) = delete;
  Region& operator=(const Region&) = delete;
  // The `index`th block, going round.
  [[nodiscard]] std::byte* block(uint64_t index, uint64_t block_bytes) const {
    return static_cast<std::byte*>(data_) + (index % (kRegionBytes / block_bytes)) * block_bytes;
  }

 private:
  void* data_ = nullptr;
};

class Fd {
 public:
  explicit Fd(int fd) : fd_(fd) {
    if (fd_ < 0) throw std::system_error(errno, std::generic_category(), "a socket to measure with");
  }
  ~Fd() { close(fd_); }
  Fd(const Fd&) = delete;
  Fd& operator=(const Fd&) = delete;
  operator int() const { return fd_; }

 private:
  int fd_;
};

void no_delay(int fd) {
  const int one = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
}

bool read_all(int fd, std::byte* data, uint64_t bytes) {
  while (bytes > 0) {
    const ssize_t got = recv(fd, data, bytes, 0);
    if (got <= 0) return false;
    data += got;
    bytes -= static_cast<uint64_t>(got);
  }
  return true;
}

bool write_block(int fd, std::byte* data, uint64_t bytes) {
  uint64_t header = bytes;
  iovec parts[2] = {{&header, sizeof(header)}, {data, bytes}};
  uint64_t left = sizeof(header) + bytes;
  iovec* part = parts;
  while (left > 0) {
    const ssize_t sent = writev(fd, part, static_cast<int>(parts + 2 - part));
    if (sent <= 0) return false;
    left -= static_cast<uint64_t>(sent);
    auto skip = static_cast<size_t>(sent);
    while (part < parts + 2 && skip >= part->iov_len) skip -= (part++)->iov_len;
    if (part < parts + 2) {
      part->iov_base = static_cast<std::byte*>(part->iov_base) + skip;
      part->iov_len -= skip;
    }
  }
  return true;
}

void serve(int fd, const Region& source, uint64_t block_bytes) {
  uint32_t wanted = 0;
  uint64_t index = 0;
  while (read_all(fd, reinterpret_cast<std::byte*>(&wanted), sizeof(wanted))) {
    for (uint32_t i = 0; i < wanted; ++i) {
      if (!write_block(fd, source.block(index++, block_bytes), block_bytes)) return;
    }
  }
}

double seconds_since(uint64_t start_ns) {
  return static_cast<double>(SteadyClock::instance().now_ns() - start_ns) * 1e-9;
}

void check_block(uint64_t block_bytes) {
  if (block_bytes == 0 || block_bytes > kRegionBytes) throw std::invalid_argument("block_bytes must be 1 to 256 MiB");
}

}  // namespace

std::vector<double> copy_seconds(const std::string& kind, uint64_t block_bytes, uint32_t blocks, uint32_t rounds) {
  check_block(block_bytes);
  if (kind != "memcpy" && kind != "streaming") throw std::invalid_argument("kind must be memcpy or streaming");
  const Region source;
  const Region target;
  std::vector<double> seconds;
  uint64_t index = 0;
  for (uint32_t round = 0; round < rounds; ++round) {
    const uint64_t start_ns = SteadyClock::instance().now_ns();
    for (uint32_t i = 0; i < blocks; ++i, ++index) {
      std::byte* to = target.block(index, block_bytes);
      const std::byte* from = source.block(index, block_bytes);
      if (kind == "memcpy") {
        std::memcpy(to, from, block_bytes);
      } else {
        copy_streaming(to, from, block_bytes);
      }
    }
    seconds.push_back(seconds_since(start_ns));
  }
  return seconds;
}

std::vector<double> socket_seconds(uint64_t block_bytes, uint32_t depth, uint32_t rounds) {
  check_block(block_bytes);
  const Region source;
  const Region target;
  const Fd listener(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof(address);
  if (bind(listener, reinterpret_cast<sockaddr*>(&address), length) != 0 || listen(listener, 1) != 0 ||
      getsockname(listener, reinterpret_cast<sockaddr*>(&address), &length) != 0) {
    throw std::system_error(errno, std::generic_category(), "cannot listen on loopback");
  }
  const Fd client(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (connect(client, reinterpret_cast<sockaddr*>(&address), length) != 0) {
    throw std::system_error(errno, std::generic_category(), "cannot connect on loopback");
  }
  const Fd server(accept4(listener, nullptr, nullptr, SOCK_CLOEXEC));
  no_delay(client);
  no_delay(server);
  std::thread thread([&] { serve(server, source, block_bytes); });
  std::vector<double> seconds;
  uint64_t index = 0;
  bool alive = true;
  for (uint32_t round = 0; round < rounds && alive; ++round) {
    const uint64_t start_ns = SteadyClock::instance().now_ns();
    alive = send(client, &depth, sizeof(depth), MSG_NOSIGNAL) == sizeof(depth);
    for (uint32_t i = 0; i < depth && alive; ++i) {
      uint64_t header = 0;
      alive = read_all(client, reinterpret_cast<std::byte*>(&header), sizeof(header)) &&
              read_all(client, target.block(index++, block_bytes), block_bytes);
    }
    seconds.push_back(seconds_since(start_ns));
  }
  shutdown(client, SHUT_RDWR);
  thread.join();
  return seconds;
}

}  // namespace kvstore::bench
