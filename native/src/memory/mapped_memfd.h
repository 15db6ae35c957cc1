// A sealed memfd and this process's mapping of it, owned together.
//
// The seals are what makes sharing safe: without F_SEAL_SHRINK a peer could truncate the file and the next access
// would end this process with SIGBUS.
#pragma once

#include <cstddef>
#include <cstdint>

namespace kvstore {

class MappedMemfd {
 public:
  // Creates a memfd of `bytes`, maps it writable, then applies `seals` (so F_SEAL_FUTURE_WRITE spares this mapping).
  // `name` shows in /proc/<pid>/maps. `pages` kHuge takes reserved 2 MiB pages (of which `bytes` is a multiple) and
  // fails where not enough are free. Throws std::system_error.
  enum class Pages { kNormal, kHuge };
  MappedMemfd(const char* name, uint64_t bytes, int seals, Pages pages);
  // Takes over a received descriptor, also when it throws, and maps its first `bytes` with `protection` (PROT_*).
  // Throws std::runtime_error when it lacks one of `required_seals` or is shorter than `bytes`, else std::system_error.
  MappedMemfd(int fd, uint64_t bytes, int required_seals, int protection);
  ~MappedMemfd();
  MappedMemfd(const MappedMemfd&) = delete;
  MappedMemfd& operator=(const MappedMemfd&) = delete;

  [[nodiscard]] int fd() const { return file_.fd; }
  [[nodiscard]] uint64_t bytes() const { return bytes_; }
  [[nodiscard]] std::byte* data() const { return data_; }

 private:
  // A member of its own, so that the descriptor is closed when a constructor throws after taking it.
  struct File {
    explicit File(int descriptor) : fd(descriptor) {}
    ~File();
    File(const File&) = delete;
    File& operator=(const File&) = delete;
    int fd;
  };

  void map(int protection);

  File file_;
  uint64_t bytes_;
  std::byte* data_ = nullptr;
};

}  // namespace kvstore
