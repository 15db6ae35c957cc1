// Whether what a catalog says of a disk is true: every row decoded, every place looked at, every block read and summed.
//
//   add(every row) -> plan() -> read() until it is done -> findings()
//
// Blocks are read in the order of their places, neighbours together, several reads at once. One thread.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "disk/disk.h"
#include "store/catalog_row.h"

namespace kvstore {

class DiskCheck {
 public:
  // `lost`: ranges of the disk that no longer hold what was written. The disk must outlive the check.
  DiskCheck(Disk& disk, std::vector<DiskRange> lost);
  ~DiskCheck();  // waits for the reads in flight
  DiskCheck(const DiskCheck&) = delete;
  DiskCheck& operator=(const DiskCheck&) = delete;

  // One entry of the catalog.
  void add(std::string_view catalog_key, std::string_view value);
  // After the last entry. Returns how many bytes of blocks there are to read.
  uint64_t plan();
  // Reads on, for about this long. True when all has been read; findings are complete then.
  bool read(std::chrono::milliseconds budget);

  [[nodiscard]] uint64_t bytes_read() const { return bytes_read_; }
  [[nodiscard]] uint64_t sound_blocks() const { return sound_blocks_; }
  [[nodiscard]] uint64_t sound_bytes() const { return sound_bytes_; }
  [[nodiscard]] uint64_t sound_pins() const { return sound_pins_; }

  // A row that must go.
  struct Finding {
    const char* why;  // "malformed", "outside", "overlaps", "lost", "corrupt", "unreadable" or "orphaned"
    std::string catalog_key;
    uint64_t bytes;  // of the block; 0 where there is none
  };
  [[nodiscard]] const std::vector<Finding>& findings() const { return findings_; }

 private:
  struct Block {
    BlockRow row;
    bool contested = false;     // it shares bytes with another
    const char* why = nullptr;  // what is wrong with it
  };
  struct Read;

  void look_at_places();
  void look_at_pins();
  [[nodiscard]] const char* trouble_with_place(const BlockRow& row) const;
  [[nodiscard]] bool reserved_between(uint64_t begin, uint64_t end) const;
  [[nodiscard]] bool take_next(Read* read);
  void start(Read* read);
  void proceed(Read* read);
  void judge(Block* block, uint32_t crc);
  void settle_contested();
  void conclude();

  Disk& disk_;
  const std::vector<DiskRange> lost_;
  const std::vector<DiskRange> reserved_;
  std::vector<Block> blocks_;  // after `plan`: in the order of their places
  std::vector<PinRow> pins_;
  std::vector<Finding> findings_;
  size_t next_ = 0;            // the first block that nobody reads yet
  std::deque<size_t> singly_;  // blocks of a read that failed, to be read alone
  uint64_t bytes_read_ = 0;
  uint64_t sound_blocks_ = 0;
  uint64_t sound_bytes_ = 0;
  uint64_t sound_pins_ = 0;
  bool concluded_ = false;

  std::vector<std::unique_ptr<Read>> reads_;
  std::vector<Read*> idle_;
  std::mutex mutex_;
  std::condition_variable ended_;
  std::deque<Read*> ended_reads_;
};

}  // namespace kvstore
