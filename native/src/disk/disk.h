// One disk as the store sees it: a linear space that is read and written in whole granules, and the seam behind which
// tests put failing, slow and forgetful disks.
//
// Thread-safe. What `read` and `write` start ends with exactly one call of `done`, on a thread of the disk's own:
// `done` must be short and must not wait for another operation of the same disk. The memory must stay valid and, for
// a write, unchanged until then. Addresses, offsets and lengths are multiples of kDiskGranuleBytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

namespace kvstore {

inline constexpr uint32_t kDiskGranuleBytes = 4096;

// A run of the space that holds no blocks: headers of extent files, and what is lost.
struct DiskRange {
  uint64_t offset = 0;
  uint64_t bytes = 0;
};

class Disk {
 public:
  // 0, or the errno of what went wrong; a short read or write is EIO.
  using Done = std::function<void(int error)>;

  virtual ~Disk() = default;
  virtual void read(uint64_t offset, std::byte* data, uint32_t bytes, Done done) = 0;
  virtual void write(uint64_t offset, const std::byte* data, uint32_t bytes, Done done) = 0;
  // Returns when every write that was done before the call would survive a power loss: 0, or an errno. Blocks.
  [[nodiscard]] virtual int sync() = 0;

  [[nodiscard]] virtual uint64_t capacity_bytes() const = 0;
  // Ranges that must never be handed out, in ascending order; no block crosses one. Fixed for the disk's life.
  [[nodiscard]] virtual std::vector<DiskRange> reserved() const = 0;
};

}  // namespace kvstore
