// What a disk can do without the store: one thread, one io_uring, O_DIRECT, one file.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "bench/bounds.h"
#include "disk/file_descriptor.h"
#include "disk/uring.h"

namespace kvstore::bench {

enum class DiskDirection { kWrite, kRead };

struct DiskFigures {
  uint64_t bytes = 0;
  double seconds = 0;                 // from the first request to the last completion
  std::vector<double> block_seconds;  // of each block, from its submission on
};

// A file of its own in `directory`, preallocated and written once (an extent that was never written is read and written
// in another way), gone again at the end. Not thread-safe, and for the thread that made it.
class DiskBound {
 public:
  static constexpr uint32_t kDepthMax = 256;

  // `regions` on pages of 4096 bytes: writes are taken from `source`, reads go to `target`; the kind of memory matters
  // (with huge pages the kernel has fewer segments to send), so it should be that of the store. `file_bytes` is rounded
  // down to 2 MiB. Throws std::system_error where the file system refuses O_DIRECT or the kernel refuses io_uring, and
  // std::invalid_argument for a file of less than 2 MiB.
  DiskBound(const Regions& regions, const std::string& directory, uint64_t file_bytes);

  // Blocks in ascending order and round again, `load.depth` at a time under way without pause, until the budget is
  // used. Throws std::invalid_argument for a load that makes no sense, and std::system_error when a transfer fails.
  DiskFigures measure(DiskDirection direction, const Load& load);

 private:
  void check(const Load& load) const;
  void transfer(DiskDirection direction, const Load& load, uint64_t blocks_min, DiskFigures* figures);
  void prepare(DiskDirection direction, const Load& load, uint32_t slot);

  const Regions regions_;
  FileDescriptor file_;
  uint64_t file_bytes_ = 0;
  uint64_t next_block_ = 0;
  Uring ring_;
};

}  // namespace kvstore::bench
