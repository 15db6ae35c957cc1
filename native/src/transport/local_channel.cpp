#include "transport/local_channel.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>

namespace kvstore {
namespace {

constexpr int kBacklog = 128;
constexpr size_t kPacketBytesMax = 4096;

[[noreturn]] void throw_errno(const std::string& what) {
  throw std::system_error(errno, std::generic_category(), what);
}

sockaddr_un unix_address(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof(address.sun_path)) {
    errno = ENAMETOOLONG;
    throw_errno("the path of a Unix socket must have 1 to 107 bytes: " + path);
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  return address;
}

// Takes the descriptors out of a received message; more than two is a protocol error, and they are closed.
bool take_descriptors(msghdr& message, int fds[2]) {
  int taken = 0;
  bool excess = (message.msg_flags & MSG_CTRUNC) != 0;
  for (cmsghdr* control = CMSG_FIRSTHDR(&message); control != nullptr; control = CMSG_NXTHDR(&message, control)) {
    if (control->cmsg_level != SOL_SOCKET || control->cmsg_type != SCM_RIGHTS) continue;
    const size_t count = (control->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; ++i) {
      int fd;
      std::memcpy(&fd, CMSG_DATA(control) + i * sizeof(int), sizeof(int));
      if (taken < 2) {
        fds[taken++] = fd;
      } else {
        close(fd);
        excess = true;
      }
    }
  }
  return !excess;
}

}  // namespace

LocalSocket& LocalSocket::operator=(LocalSocket&& other) noexcept {
  if (this != &other) {
    reset();
    std::swap(fd_, other.fd_);
  }
  return *this;
}

void LocalSocket::reset() {
  if (fd_ >= 0) ::close(fd_);
  fd_ = -1;
}

LocalSocket LocalSocket::connect(const std::string& path) {
  const sockaddr_un address = unix_address(path);
  LocalSocket made(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (made.fd_ < 0) throw_errno("cannot make a Unix socket");
  if (::connect(made.fd_, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    throw_errno("cannot connect to the node's Unix socket " + path);
  }
  return made;
}

bool LocalSocket::send(ByteView packet, std::span<const int> fds) const {
  iovec part{const_cast<std::byte*>(packet.data()), packet.size()};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  alignas(cmsghdr) char control[CMSG_SPACE(2 * sizeof(int))] = {};
  if (!fds.empty()) {
    message.msg_control = control;
    message.msg_controllen = CMSG_SPACE(fds.size_bytes());
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(fds.size_bytes());
    std::memcpy(CMSG_DATA(header), fds.data(), fds.size_bytes());
  }
  return sendmsg(fd_, &message, MSG_NOSIGNAL | MSG_DONTWAIT) == static_cast<ssize_t>(packet.size());
}

void LocalSocket::ring() const {
  const std::byte doorbell{1};
  // A full queue means that bells are waiting to be heard already.
  (void)::send(fd_, &doorbell, 1, MSG_NOSIGNAL | MSG_DONTWAIT);
}

LocalSocket::Receive LocalSocket::receive(Bytes* packet, int fds[2]) const {
  fds[0] = fds[1] = -1;
  packet->resize(kPacketBytesMax);
  iovec part{packet->data(), packet->size()};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  alignas(cmsghdr) char control[CMSG_SPACE(2 * sizeof(int))];
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  const ssize_t got = recvmsg(fd_, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  if (got < 0) return errno == EAGAIN || errno == EINTR ? Receive::kNothing : Receive::kClosed;
  if (got == 0) return Receive::kClosed;
  const bool whole = take_descriptors(message, fds) && (message.msg_flags & MSG_TRUNC) == 0;
  packet->resize(static_cast<size_t>(got));
  if (whole) return Receive::kPacket;
  for (int i = 0; i < 2; ++i) {
    if (fds[i] >= 0) ::close(fds[i]);
    fds[i] = -1;
  }
  return Receive::kBroken;
}

LocalSocket::Receive LocalSocket::drain_doorbells() const {
  constexpr int kBellsMax = 64;
  for (int i = 0; i < kBellsMax; ++i) {
    std::byte packet[2];
    const ssize_t got = recv(fd_, packet, sizeof(packet), MSG_DONTWAIT);
    if (got < 0) return errno == EAGAIN || errno == EINTR ? Receive::kNothing : Receive::kClosed;
    if (got != 1) return got == 0 ? Receive::kClosed : Receive::kBroken;
  }
  return Receive::kPacket;
}

LocalListener::LocalListener(std::string path) : path_(std::move(path)) {
  const sockaddr_un address = unix_address(path_);
  fd_ = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd_ < 0) throw_errno("cannot make a Unix socket");
  if (bind(fd_, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0 ||
      chmod(path_.c_str(), S_IRUSR | S_IWUSR) != 0 || listen(fd_, kBacklog) != 0) {
    const int error = errno;
    close(fd_);
    errno = error;
    throw_errno("cannot listen on the Unix socket " + path_);
  }
}

LocalListener::~LocalListener() {
  close(fd_);
  unlink(path_.c_str());
}

std::optional<LocalSocket> LocalListener::accept() const {
  const int fd = accept4(fd_, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
  if (fd < 0) return std::nullopt;
  return LocalSocket(fd);
}

}  // namespace kvstore
