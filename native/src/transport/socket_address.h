// A numeric IPv4 or IPv6 address and port.
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <string>

namespace kvstore {

class SocketAddress {
 public:
  SocketAddress() { storage_.ss_family = AF_UNSPEC; }

  // `host` without brackets; an invalid one gives an address that is not valid().
  static SocketAddress parse(const std::string& host, uint16_t port) {
    SocketAddress address;
    auto* v4 = reinterpret_cast<sockaddr_in*>(&address.storage_);
    auto* v6 = reinterpret_cast<sockaddr_in6*>(&address.storage_);
    if (inet_pton(AF_INET, host.c_str(), &v4->sin_addr) == 1) {
      v4->sin_family = AF_INET;
      v4->sin_port = htons(port);
      address.length_ = sizeof(sockaddr_in);
    } else if (inet_pton(AF_INET6, host.c_str(), &v6->sin6_addr) == 1) {
      v6->sin6_family = AF_INET6;
      v6->sin6_port = htons(port);
      address.length_ = sizeof(sockaddr_in6);
    } else {
      address.storage_.ss_family = AF_UNSPEC;
    }
    return address;
  }

  [[nodiscard]] bool valid() const { return family() != AF_UNSPEC; }
  [[nodiscard]] int family() const { return storage_.ss_family; }
  [[nodiscard]] sockaddr* get() { return reinterpret_cast<sockaddr*>(&storage_); }
  [[nodiscard]] const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&storage_); }
  [[nodiscard]] socklen_t length() const { return length_; }
  [[nodiscard]] socklen_t* length_out() {
    length_ = sizeof(storage_);
    return &length_;
  }

  [[nodiscard]] uint16_t port() const {
    if (family() == AF_INET) return ntohs(reinterpret_cast<const sockaddr_in*>(&storage_)->sin_port);
    if (family() == AF_INET6) return ntohs(reinterpret_cast<const sockaddr_in6*>(&storage_)->sin6_port);
    return 0;
  }

  [[nodiscard]] bool wildcard() const {
    if (family() == AF_INET) return reinterpret_cast<const sockaddr_in*>(&storage_)->sin_addr.s_addr == 0;
    return family() == AF_INET6 &&
           IN6_IS_ADDR_UNSPECIFIED(&reinterpret_cast<const sockaddr_in6*>(&storage_)->sin6_addr);
  }

  // A TCP port of this address that is free now; 0 if there is none, or this address is not ours.
  [[nodiscard]] uint16_t free_port() const {
    const int fd = socket(family(), SOCK_STREAM | SOCK_CLOEXEC, 0);
    SocketAddress bound;
    const bool found =
        fd >= 0 && bind(fd, get(), length()) == 0 && getsockname(fd, bound.get(), bound.length_out()) == 0;
    if (fd >= 0) close(fd);
    return found ? bound.port() : 0;
  }

  // Whether somebody accepts TCP connections here.
  [[nodiscard]] bool answers(int timeout_ms) const {
    const int fd = socket(family(), SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return false;
    bool connected = connect(fd, get(), length()) == 0;
    if (!connected && errno == EINPROGRESS) {
      pollfd event{fd, POLLOUT, 0};
      int error = 0;
      socklen_t size = sizeof(error);
      connected =
          poll(&event, 1, timeout_ms) == 1 && getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) == 0 && error == 0;
    }
    close(fd);
    return connected;
  }

  // Whether `other` names the same host, whatever the ports.
  [[nodiscard]] bool same_host(const sockaddr* other) const {
    if (other->sa_family != family()) return false;
    if (family() == AF_INET) {
      return reinterpret_cast<const sockaddr_in*>(&storage_)->sin_addr.s_addr ==
             reinterpret_cast<const sockaddr_in*>(other)->sin_addr.s_addr;
    }
    return family() == AF_INET6 && std::memcmp(&reinterpret_cast<const sockaddr_in6*>(&storage_)->sin6_addr,
                                               &reinterpret_cast<const sockaddr_in6*>(other)->sin6_addr, 16) == 0;
  }

 private:
  sockaddr_storage storage_{};
  socklen_t length_ = sizeof(sockaddr_storage);
};

}  // namespace kvstore
