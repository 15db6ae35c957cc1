// The extent files of a disk that nobody has open, for looking and nothing else: what is missing or damaged stays so.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "disk/disk.h"
#include "disk/extent_disk.h"
#include "disk/file_descriptor.h"
#include "disk/io_engine.h"

namespace kvstore {

// Reads as ExtentDisk does. Writing and syncing answer EROFS.
class ExtentReader final : public Disk {
 public:
  // `options.capacity_bytes` is of no account: the disk is as large as its headers or `remembered_bytes` say, and 0
  // bytes where neither does. Throws as ExtentDisk's constructor.
  explicit ExtentReader(ExtentDiskOptions options);
  ~ExtentReader() override = default;

  void read(uint64_t offset, std::byte* data, uint32_t bytes, Done done) override;
  void write(uint64_t offset, const std::byte* data, uint32_t bytes, Done done) override;
  [[nodiscard]] int sync() override;
  [[nodiscard]] uint64_t capacity_bytes() const override { return capacity_bytes_; }
  [[nodiscard]] std::vector<DiskRange> reserved() const override { return reserved_; }

  // What is not there (missing files, ends that were cut off) or was lost before, in ascending order.
  [[nodiscard]] const std::vector<DiskRange>& lost() const { return lost_; }
  // A line for each file that is not as it should be.
  [[nodiscard]] const std::vector<std::string>& damage() const { return damage_; }

 private:
  const uint64_t extent_file_bytes_;
  uint64_t capacity_bytes_ = 0;
  std::vector<FileDescriptor> descriptors_;
  std::vector<DiskRange> reserved_;
  std::vector<DiskRange> lost_;
  std::vector<std::string> damage_;
  std::unique_ptr<IoEngine> engine_;  // last, so that it goes first
};

}  // namespace kvstore
