// A directory of preallocated extent files as one linear space.
//
// Files extents-0000.kv, extents-0001.kv, ... of `extent_file_bytes` each, the last one shorter, lie one behind another
// in the space. The first granule of each is its header (disk/extent_header.h) and is reserved, so no block crosses
// files. Bytes go past the page cache (O_DIRECT) where the file system allows it.
//
// What is damaged is repaired when the disk is opened and reported once more at each opening until `damage_handled`
// was called, so that a crash between repair and bookkeeping forgets nothing.
//
// Thread-safe but for construction and destruction. One process at a time may have a directory open: the caller locks.
#pragma once

#include <array>
#include <memory>
#include <string>

#include "disk/disk.h"
#include "disk/io_engine.h"

namespace kvstore {

using DiskId = std::array<uint8_t, 16>;

struct ExtentDiskOptions {
  std::string directory;                           // must exist
  uint64_t capacity_bytes = 0;                     // rounded down to the granule; may grow from one opening to the next
  uint64_t extent_file_bytes = uint64_t{8} << 30;  // multiple of the granule; fixed for the life of the directory
  DiskId disk_id{};                                // identity of the directory, chosen once by the caller
  // How large the disk was when it was open last, as far as the caller remembers (0: it does not, or never was). The
  // headers remember it too; this one tells a disk that lost all its files from a new one.
  uint64_t remembered_bytes = 0;
  IoKind io = IoKind::kAuto;
  uint32_t depth = 32;  // see make_io_engine
};

// One thing that was found wrong and repaired.
struct DiskDamage {
  std::string path;
  uint32_t index = 0;  // of the file
  std::string what;    // one line for the log
  DiskRange lost;      // what of the space no longer holds what was written; 0 bytes where only a header was hurt
};

class ExtentDisk final : public Disk {
 public:
  // Opens, creates, grows and repairs. Throws std::invalid_argument for options that make no sense or would shrink the
  // disk, std::runtime_error for files of another disk or a newer version, std::system_error for what the system
  // refuses (no directory, read-only, not enough space). Whatever it throws, files that it created are removed again,
  // and before it has looked at every file it changes none.
  explicit ExtentDisk(ExtentDiskOptions options);
  // Waits until everything that was started has ended. Does not sync.
  ~ExtentDisk() override;

  void read(uint64_t offset, std::byte* data, uint32_t bytes, Done done) override;
  void write(uint64_t offset, const std::byte* data, uint32_t bytes, Done done) override;
  // Syncs the files written since their last success. An error is final for everything that was done before the call
  // and that no earlier call vouched for: a later success does not make it safe, only writing it again does (see
  // disk/sync_ledger.h). For one owner, who shares the answer; concurrent calls queue up.
  [[nodiscard]] int sync() override;

  [[nodiscard]] uint64_t capacity_bytes() const override;
  [[nodiscard]] std::vector<DiskRange> reserved() const override;

  // What was found when opening, ascending by file.
  [[nodiscard]] const std::vector<DiskDamage>& damage() const;
  // The owner has taken note of all damage for good: the next opening will not report it again. 0, or an errno. Blocks.
  [[nodiscard]] int damage_handled();

  [[nodiscard]] bool direct() const;          // false: through the page cache, O_DIRECT was refused
  [[nodiscard]] const char* io_name() const;  // see IoEngine::name

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace kvstore
