#include "memory/mapped_memfd.h"

#include <fcntl.h>
#include <linux/memfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <stdexcept>
#include <string>
#include <system_error>

namespace kvstore {

namespace {

[[noreturn]] void throw_errno(const std::string& what) {
  throw std::system_error(errno, std::generic_category(), what);
}

}  // namespace

MappedMemfd::File::~File() {
  if (fd >= 0) close(fd);
}

MappedMemfd::MappedMemfd(const char* name, uint64_t bytes, int seals, Pages pages)
    : file_(memfd_create(name,
                         MFD_CLOEXEC | MFD_ALLOW_SEALING | (pages == Pages::kHuge ? MFD_HUGETLB | MFD_HUGE_2MB : 0u))),
      bytes_(bytes) {
  const std::string what = std::string(name) + " of " + std::to_string(bytes) + " bytes: ";
  if (fd() < 0) throw_errno(what + "memfd_create failed");
  if (ftruncate(fd(), static_cast<off_t>(bytes)) != 0) throw_errno(what + "ftruncate failed");
  map(PROT_READ | PROT_WRITE);
  if (fcntl(fd(), F_ADD_SEALS, seals) != 0) {
    const int error = errno;
    munmap(data_, bytes_);
    errno = error;
    throw_errno(what + "sealing failed (this needs Linux 5.1 or newer, and a sandbox that passes it on)");
  }
}

MappedMemfd::MappedMemfd(int fd, uint64_t bytes, int required_seals, int protection) : file_(fd), bytes_(bytes) {
  const std::string what = "shared memory of " + std::to_string(bytes) + " bytes: ";
  const int seals = fcntl(fd, F_GET_SEALS);
  if (seals < 0) throw_errno(what + "the descriptor received is no memfd");
  if ((seals & required_seals) != required_seals) {
    throw std::runtime_error(what + "the memfd received is not sealed as it must be (has " + std::to_string(seals) +
                             ", needs " + std::to_string(required_seals) + "); its sender is not a kvstore node");
  }
  struct stat status;
  if (fstat(fd, &status) != 0) throw_errno(what + "fstat failed");
  if (static_cast<uint64_t>(status.st_size) < bytes) {
    throw std::runtime_error(what + "the memfd received has only " + std::to_string(status.st_size) + " bytes");
  }
  map(protection);
}

void MappedMemfd::map(int protection) {
  void* address = mmap(nullptr, bytes_, protection, MAP_SHARED, fd(), 0);
  if (address == MAP_FAILED) throw_errno("mmap of " + std::to_string(bytes_) + " shared bytes failed");
  data_ = static_cast<std::byte*>(address);
  // Only advice: where the kernel gives no huge pages to shared memory, small ones serve as well.
  madvise(address, bytes_, MADV_HUGEPAGE);
}

MappedMemfd::~MappedMemfd() { munmap(data_, bytes_); }

}  // namespace kvstore
